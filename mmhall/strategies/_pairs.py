"""Pairs of a faithful and a hallucinated text about one picture: what a strategy that is fitted learns from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhall.errors import DataError
from mmhall.words import text_tokens

RECOMMENDED_PAIRS = 50  # pairs, below which what is found may well be chance


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts about one picture.

    Attributes:
        id: Of the picture, as its data calls it.
        picture: Its file.
        prompt: What the texts answer.
        faithful: Names only what the picture shows.
        hallucinated: Also names what it does not show.
    """

    id: str
    picture: Path
    prompt: str
    faithful: str
    hallucinated: str


@dataclass(frozen=True)
class PairSet:
    """Pairs, and where they come from.

    Attributes:
        pairs: At least one.
        source: Such as "drawn scenes", or the name of a file.
        remarks: What a reader should know of them.
    """

    pairs: tuple[Pair, ...]
    source: str
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what nothing can be learnt from.

        Raises:
            DataError: There is no pair, or one whose texts are empty or the same.
        """
        if not self.pairs:
            raise DataError(f"{self.source}: holds no pair of texts; give pictures whose objects are known")
        for pair in self.pairs:
            texts = pair.faithful.strip(), pair.hallucinated.strip()
            if not all(texts) or texts[0] == texts[1]:
                raise DataError(
                    f"{self.source}, picture {pair.id}: its texts are the same or empty: {pair.faithful[:80]!r}; "
                    "give a faithful and a hallucinated one"
                )

    @property
    def digest(self) -> str:
        """SHA-256 of pairs and picture files, 16 hex digits: two sets with one digest are the same.

        Raises:
            DataError: A picture cannot be read.
        """
        told = hashlib.sha256()
        for pair in self.pairs:
            told.update(json.dumps([pair.id, pair.prompt, pair.faithful, pair.hallucinated]).encode())
            try:
                told.update(hashlib.sha256(pair.picture.read_bytes()).digest())
            except OSError as error:
                raise DataError(f"{pair.picture}: cannot be read: {error.strerror}; check --images") from error
        return told.hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """Return what a file says of them; JSON can write it."""
        return {
            "source": self.source,
            "digest": self.digest,
            "pairs": len(self.pairs),
            "ids": [pair.id for pair in self.pairs],
            "prompts": sorted({pair.prompt for pair in self.pairs}),
        }


def find_imbalance(pairs: PairSet, tokenizer: Any) -> list[str]:
    """Say in which respects the two texts of pairs differ besides their objects, as a direction would hold that, too.

    Args:
        pairs: The pairs.
        tokenizer: Of the model.
    """
    count, told = len(pairs.pairs), []
    longer = sum(len(pair.faithful.split()) != len(pair.hallucinated.split()) for pair in pairs.pairs)
    if longer:
        told.append(f"the two texts of {longer} of {count} pairs have different numbers of words")
    ends = [[_last(tokenizer, text) for text in (pair.faithful, pair.hallucinated)] for pair in pairs.pairs]
    others = sum(one != other for one, other in ends)
    if others:
        told.append(f"the two texts of {others} of {count} pairs end in different tokens")
    return [f"{fault}: what is fitted on them holds that difference, too." for fault in told]


def _last(tokenizer: Any, text: str) -> int:
    return text_tokens(tokenizer, text)[-1]
