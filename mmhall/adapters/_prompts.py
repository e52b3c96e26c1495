"""The user's text in a prompt: typed special tokens stay text, and the positions of the text are found."""

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


def find_words(rendered: Sequence[int], variants: Sequence[Sequence[int]], expanded: Sequence[int]) -> range:
    """Find the user's text in a prompt: the tokens that change when the template renders another text.

    Args:
        rendered: Tokens of the rendered prompt, with one placeholder for each picture.
        variants: Tokens of the rendered prompt with other texts.
        expanded: Tokens of the prompt as the model reads it, with all placeholders.

    Returns:
        Positions relative to the end of the prompt, negative; empty where the template changes the text.
    """
    first = min(_common_prefix(rendered, variant) for variant in variants)
    after = min(_common_prefix(rendered[::-1], variant[::-1]) for variant in variants)
    words = list(rendered[first : len(rendered) - after])
    for start in range(len(expanded) - after - len(words), -1, -1):  # a processor may append text, but removes none
        if words and list(expanded[start : start + len(words)]) == words:
            return range(start - len(expanded), start - len(expanded) + len(words))
    return range(0)


def find_texts(
    rendered: Sequence[int], variants: Sequence[Sequence[Sequence[int]]], expanded: Sequence[int]
) -> list[int]:
    """Find several texts of the user in a prompt, with or without pictures between them.

    Args:
        rendered: Tokens of the rendered prompt, with one placeholder for each picture.
        variants: For each text, in order: tokens of the rendered prompt with other words in its place.
        expanded: Tokens of the prompt as the model reads it, with all placeholders.

    Returns:
        Positions relative to the end of the prompt, negative; empty where the template changes one of the texts.
    """
    positions: list[int] = []
    end, expanded_end = len(rendered), len(expanded)
    for others in reversed(variants):
        after = len(rendered) - end  # the end of the prompt, which is the same in the variants
        cut = [other[: len(other) - after] for other in others]
        words = find_words(rendered[:end], cut, expanded[:expanded_end])
        if not words:
            return []
        positions += [position - len(expanded) + expanded_end for position in words]
        end = min(_common_prefix(rendered[:end], other) for other in cut)
        expanded_end += words.start
    return positions


def mark_frames(ids: Tensor, image: Tensor, tokenizer: Any) -> Tensor:
    """Mark placeholders and their frames: start and end marks, tile names, and the spaces between.

    Args:
        ids: Token ids, (batch, position).
        image: Placeholders, (batch, position) bool.
        tokenizer: Tokenizer of the model; None: frames are unknown.

    Returns:
        (batch, position) bool.
    """
    if tokenizer is None:
        return image
    frame = [index for token, index in special_tokens(tokenizer).items() if _FRAME.search(token)]
    marked = image | torch.isin(ids, torch.tensor(frame, device=ids.device))
    for row, marks in zip(ids.tolist(), marked, strict=True):
        positions = marks.nonzero()[:, 0].tolist()
        for left, right in pairwise(positions):
            if 1 < right - left <= 4 and not tokenizer.decode(row[left + 1 : right]).strip():
                marks[left + 1 : right] = True
    return marked


def _common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@dataclass(frozen=True, slots=True)
class MarkedTexts:
    """Texts of a prompt in which typed special tokens are replaced by a marker until the prompt is tokenised.

    Attributes:
        texts: The texts with markers.
        typed: The replaced special tokens, in order.
        marker: A special token that is not used elsewhere in the prompt; None where nothing was replaced.
    """

    texts: tuple[str, ...]
    typed: tuple[str, ...] = ()
    marker: str | None = None

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: Any) -> MarkedTexts:
        """Replace special tokens in the texts of a prompt, given in order.

        Raises:
            PromptError: The tokenizer has no special token for a marker, or the end of a text and the beginning of the
                next one together form a special token.
        """
        special = special_tokens(tokenizer)
        pattern = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
        typed = [token for text in texts for token in re.findall(pattern, text)] if special else []
        across = re.findall(pattern, "".join(texts)) if special else []
        if across != typed:
            joint = next((token for token in across if token not in typed), across[0])
            raise PromptError(
                f"consecutive texts together form {joint!r}, which is a special token of this model; join the texts"
            )
        if not typed:
            return cls(tuple(texts))
        plain = (tokenizer.pad_token, tokenizer.unk_token)
        marker = next((token for token in plain if token in special and token not in typed), None)
        if marker is None:
            raise PromptError(f"the prompt contains {typed[0]!r}, which is a special token of this model; remove it")
        return cls(tuple(re.sub(pattern, lambda _: marker, text) for text in texts), tuple(typed), marker)

    def restore(self, inputs: Mapping[str, Tensor], per_position: Sequence[str], tokenizer: Any) -> dict[str, Tensor]:
        """Replace the markers by the tokens of the typed text.

        Args:
            inputs: Inputs of one request, (1, position, ...) each.
            per_position: Keys of inputs with one value for each position.
            tokenizer: Tokenizer of the model.

        Raises:
            PromptError: The markers cannot be found again.
        """
        if self.marker is None:
            return dict(inputs)
        row = inputs["input_ids"][0]
        at = (row == tokenizer.convert_tokens_to_ids(self.marker)).nonzero()[:, 0].tolist()
        if len(at) != len(self.typed):
            raise PromptError(
                f"the prompt contains {self.typed[0]!r}, which is a special token of this model; remove it"
            )
        ids_of = {
            token: tokenizer(token, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            for token in set(self.typed)
        }
        replacements = [ids_of[token] for token in self.typed]
        counts = torch.ones_like(row)
        counts[at] = torch.tensor([len(ids) for ids in replacements], dtype=counts.dtype)
        longer = {k: v.repeat_interleave(counts, dim=1) if k in per_position else v for k, v in inputs.items()}
        pieces, last = [], 0
        for position, ids in zip(at, replacements, strict=True):
            pieces += [row[last:position], torch.tensor(ids, dtype=row.dtype)]
            last = position + 1
        longer["input_ids"] = torch.cat([*pieces, row[last:]])[None]
        return longer
