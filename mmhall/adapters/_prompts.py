"""Text that a user typed stays text, also where it looks like a model's special token."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mmhall.errors import PromptError
from mmhall.words import special_tokens

_FRAME = re.compile(r"image|img|vision|tile|patch|row_\d+_col", re.IGNORECASE)


def words_asked(own: Sequence[int], others: Sequence[Sequence[int]], read: Sequence[int]) -> range:
    """Find a user's words in a prompt: what changes in the template when other words are asked.

    Args:
        own: Tokens of the rendered prompt, one placeholder a picture.
        others: The same with other words.
        read: The prompt as the model reads it, placeholders multiplied.

    Returns:
        Positions counted from the end, negative; none where the template rewrites what it is given.
    """
    first = min(_common(own, other) for other in others)
    behind = min(_common(own[::-1], other[::-1]) for other in others)
    words = list(own[first : len(own) - behind])
    for start in range(len(read) - behind - len(words), -1, -1):  # a processor may add text behind, but takes none away
        if words and list(read[start : start + len(words)]) == words:
            return range(start - len(read), start - len(read) + len(words))
    return range(0)


def parts_asked(own: Sequence[int], others: Sequence[Sequence[Sequence[int]]], read: Sequence[int]) -> list[int]:
    """Find several texts of a user's in a prompt, with or without pictures between them.

    Args:
        own: Tokens of the rendered prompt, one placeholder a picture.
        others: For each text, in order: the same with other words in its place.
        read: The prompt as the model reads it, placeholders multiplied.

    Returns:
        Positions counted from the end, negative; none where the template rewrites one of the texts.
    """
    found: list[int] = []
    own_end, read_end = len(own), len(read)
    for variants in reversed(others):
        behind = len(own) - own_end  # the end of the prompt, which is the same in the variants
        cut = [other[: len(other) - behind] for other in variants]
        at = words_asked(own[:own_end], cut, read[:read_end])
        if not at:
            return []
        found += [position - len(read) + read_end for position in at]
        own_end, read_end = min(_common(own[:own_end], other) for other in cut), read_end + at.start
    return found


def framed(ids: Tensor, image: Tensor, tokenizer: Any) -> Tensor:
    """Mark placeholders and what frames them: start and end marks, tile names, the spaces between.

    Args:
        ids: (batch, position).
        image: Marks the placeholders, (batch, position) bool.
        tokenizer: The model's; None: frames are unknown.

    Returns:
        (batch, position) bool.
    """
    if tokenizer is None:
        return image
    frame = [index for token, index in special_tokens(tokenizer).items() if _FRAME.search(token)]
    dropped = image | torch.isin(ids, torch.tensor(frame, device=ids.device))
    for row, marks in zip(ids.tolist(), dropped, strict=True):
        at = marks.nonzero()[:, 0].tolist()
        for left, right in pairwise(at):
            if 1 < right - left <= 4 and not tokenizer.decode(row[left + 1 : right]).strip():
                marks[left + 1 : right] = True
    return dropped


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens that two sequences begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass(frozen=True, slots=True)
class Marked:
    """Texts of a prompt whose typed special tokens are replaced by one marker, until it has been tokenised.

    Attributes:
        texts: The texts with markers.
        typed: What the markers stand for, in order.
        marker: A special token that nothing else in the prompt uses; None: nothing was typed.
    """

    texts: tuple[str, ...]
    typed: tuple[str, ...] = ()
    marker: str | None = None

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Any) -> Marked:
        """Mark the texts of a prompt, in their order.

        Raises:
            PromptError: The tokenizer has no special token left to mark with, or the end of a text and the beginning
                of the next make one up.
        """
        special = special_tokens(tokenizer)
        pattern = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        typed = [token for text in texts for token in re.findall(pattern, text)] if special else []
        across = re.findall(pattern, "".join(texts)) if special else []
        if across != typed:
            joint = next((token for token in across if token not in typed), across[0])
            raise PromptError(
                f"texts that follow each other make up {joint!r}, which means something to this model; join them"
            )
        if not typed:
            return cls(tuple(texts))
        plain = (tokenizer.pad_token, tokenizer.unk_token)
        marker = next((token for token in plain if token in special and token not in typed), None)
        if marker is None:
            raise PromptError(f"the prompt contains {typed[0]!r}, which means something to this model; remove it")
        return cls(tuple(re.sub(pattern, lambda _: marker, text) for text in texts), tuple(typed), marker)

    def spelled_out(self, read: Mapping[str, Tensor], per_position: Sequence[str], tokenizer: Any) -> dict[str, Tensor]:
        """Put the typed text where the markers are.

        Args:
            read: One tokenised request, (1, position, ...) each.
            per_position: Keys of what holds one value a position.
            tokenizer: The model's.
        """
        if self.marker is None:
            return dict(read)
        row = read["input_ids"][0]
        at = (row == tokenizer.convert_tokens_to_ids(self.marker)).nonzero()[:, 0].tolist()
        if len(at) != len(self.typed):
            raise PromptError(f"the prompt contains {self.typed[0]!r}, which means something to this model; remove it")
        ids_of = {
            token: tokenizer(token, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            for token in set(self.typed)
        }
        spelled = [ids_of[token] for token in self.typed]
        counts = torch.ones_like(row)
        counts[at] = torch.tensor([len(ids) for ids in spelled], dtype=counts.dtype)
        grown = {k: v.repeat_interleave(counts, dim=1) if k in per_position else v for k, v in read.items()}
        pieces, last = [], 0
        for position, ids in zip(at, spelled, strict=True):
            pieces += [row[last:position], torch.tensor(ids, dtype=row.dtype)]
            last = position + 1
        grown["input_ids"] = torch.cat([*pieces, row[last:]])[None]
        return grown
