"""Pairs of a faithful and a hallucinated text about one picture, for fitting strategies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmhall.errors import DataError
from mmhall.words import tokenize_answer

RECOMMENDED_PAIRS = 50  # with fewer, what is fitted may be chance


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts about one picture.

    Attributes:
        id: Id of the picture in its data set.
        picture: Its file.
        prompt: The prompt that the texts answer.
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
    """Pairs and their source.

    Attributes:
        pairs: At least one.
        source: A name such as "drawn scenes", or of a file.
        remarks: Remarks for a reader.
    """

    unit: ClassVar[str] = "pairs"
    recommended: ClassVar[int] = RECOMMENDED_PAIRS

    pairs: tuple[Pair, ...]
    source: str
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that something can be learned from the pairs.

        Raises:
            DataError: There is no pair, or a pair has empty or equal texts.
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
    def samples(self) -> tuple[Pair, ...]:
        """The pairs."""
        return self.pairs

    @property
    def digest(self) -> str:
        """SHA-256 of pairs and picture files, 16 hex digits; equal digests mean equal sets.

        Raises:
            DataError: A picture cannot be read.
        """
        digest = hashlib.sha256()
        for pair in self.pairs:
            digest.update(json.dumps([pair.id, pair.prompt, pair.faithful, pair.hallucinated]).encode())
            digest.update(digest_picture(pair.picture))
        return digest.hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """Return the record of the pairs for an artifact; JSON can write it."""
        return {
            "source": self.source,
            "digest": self.digest,
            "pairs": len(self.pairs),
            "ids": [pair.id for pair in self.pairs],
            "prompts": sorted({pair.prompt for pair in self.pairs}),
        }

    def find_imbalance(self, tokenizer: Any) -> list[str]:
        """Describe differences between the two texts of pairs besides their objects; see `find_imbalance`."""
        return find_imbalance(self, tokenizer)


def digest_picture(picture: Path) -> bytes:
    """Return the SHA-256 of a picture file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return hashlib.sha256(picture.read_bytes()).digest()
    except OSError as error:
        raise DataError(f"{picture}: cannot be read: {error.strerror}; check --images") from error


def find_imbalance(pairs: PairSet, tokenizer: Any) -> list[str]:
    """Describe differences between the two texts of pairs besides their objects, which a direction would learn as well.

    Args:
        pairs: The pairs.
        tokenizer: The model's.
    """
    count, faults = len(pairs.pairs), []
    longer = sum(len(pair.faithful.split()) != len(pair.hallucinated.split()) for pair in pairs.pairs)
    if longer:
        faults.append(f"the two texts of {longer} of {count} pairs have different numbers of words")
    ends = [[_last(tokenizer, text) for text in (pair.faithful, pair.hallucinated)] for pair in pairs.pairs]
    others = sum(one != other for one, other in ends)
    if others:
        faults.append(f"the two texts of {others} of {count} pairs end in different tokens")
    return [f"{fault}: what is fitted on them holds that difference, too." for fault in faults]


def _last(tokenizer: Any, text: str) -> int:
    return tokenize_answer(tokenizer, text)[-1]
