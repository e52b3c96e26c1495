"""Segments of a prompt: its pictures, or texts that the user names, with the separators that belong to each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Batch, Inputs
from mmhall.errors import ModelError, PromptError
from mmhall.words import token_spans, tokenize_answer

_SILENT = "\0"  # stands for a token without text


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Consecutive segments of each prompt of a batch; together they are one stretch of tokens without gaps.

    Attributes:
        index: 0-based segment of each position, -1 outside, (batch, position).
        counts: Number of segments of each prompt.
    """

    index: Tensor
    counts: tuple[int, ...]

    @classmethod
    def of(cls, inputs: Inputs, spans: Sequence[Sequence[range]], what: str, tokenizer: Any = None) -> Segments:
        """Add to segments the separators between them.

        A separator that also stands after the last segment, or before the first one, or whose two parts do, is part of
        each segment.

        Args:
            inputs: The batch.
            spans: Positions of the segments of each prompt, in order.
            what: What a segment is called in messages, such as "picture".
            tokenizer: Tokenizer of the model, for messages; None: separators are shown as token ids.

        Raises:
            PromptError: The texts between segments differ, or are not the same before the first or after the last one,
                so that they would show the order.
        """
        index = torch.full_like(inputs["input_ids"], -1)
        for row, own, ids in zip(index, spans, inputs["input_ids"].tolist(), strict=True):
            before, after = _separators(ids, own, what, tokenizer) if len(own) > 1 else (0, 0)
            for number, span in enumerate(own):
                row[span.start - before : span.stop + after] = number
        return cls(index, tuple(map(len, spans)))


def picture_segments(adapter: Adapter, inputs: Inputs) -> Segments:
    """Find the pictures of each prompt, as segments.

    In inputs from another processor, image tokens without a gap are taken as one picture.

    Raises:
        PromptError: The texts between pictures show their order; see `Segments.of`.
    """
    image = adapter.image_mask(inputs["input_ids"])
    spans = [_runs(row.nonzero()[:, 0].tolist()) for row in image]
    if isinstance(inputs, Batch):
        for row, (request, single) in enumerate(zip(inputs.requests, inputs.singles, strict=True)):
            if len(spans[row]) not in (0, len(request.images)):
                of = adapter.places(request, single).image
                positions = image[row].nonzero()[:, 0].cpu()
                own = [positions[of == number].tolist() for number in range(len(request.images))]
                spans[row] = [range(part[0], part[-1] + 1) for part in own if part]
    return Segments.of(inputs, spans, "picture", adapter.tokenizer)


def text_segments(adapter: Adapter, inputs: Inputs, texts: Sequence[str]) -> Segments:
    """Find texts in each prompt, as segments.

    White space does not matter. A token that also holds text beside the segment cannot be divided.

    Args:
        adapter: The model; its tokenizer finds the texts.
        inputs: The batch.
        texts: The texts, in any order, none of which contains another.

    Raises:
        ModelError: There is no tokenizer.
        PromptError: A text does not occur in a prompt, or several times; a token holds the end of a segment and text
            behind it; or the texts between segments show their order.
    """
    if adapter.tokenizer is None:
        raise ModelError("segments that are texts are found with the model's processor; hand it over too")
    image, attended = adapter.image_mask(inputs["input_ids"]), inputs["attention_mask"].bool()
    spans = []
    for ids, marked, own in zip(inputs["input_ids"].tolist(), image, attended, strict=True):
        runs = _runs((own & ~marked).nonzero()[:, 0].tolist())
        read = [(run, _letters(adapter.tokenizer, ids[run.start : run.stop])) for run in runs]
        spans.append(sorted((_find(text, adapter.tokenizer, read) for text in texts), key=lambda span: span.start))
        for first, second in pairwise(spans[-1]):
            if first.stop > second.start:
                raise PromptError("two segments overlap, or share a token; put white space between them")
    return Segments.of(inputs, spans, "segment", adapter.tokenizer)


def _runs(positions: Sequence[int]) -> list[range]:
    """Return the runs of consecutive positions in an ascending list."""
    starts = [at for number, at in enumerate(positions) if number == 0 or positions[number - 1] != at - 1]
    ends = [
        at + 1 for number, at in enumerate(positions) if number == len(positions) - 1 or positions[number + 1] != at + 1
    ]
    return [range(first, last) for first, last in zip(starts, ends, strict=True)]


def _letters(tokenizer: Any, ids: Sequence[int]) -> list[tuple[str, int, int]]:
    """Return the characters of a text without white space, each with its first and last token, 0-based in `ids`.

    A token without text, such as that of unknown words, counts as one character.
    """
    text, spans = token_spans(tokenizer, ids)
    owners: dict[int, tuple[int, int]] = {}
    for span in spans:
        for at in range(span.start, min(span.end, len(text))):
            owners[at] = owners.get(at, (span.token, 0))[0], span.token
    letters = [(text[at], first, last) for at, (first, last) in owners.items() if not text[at].isspace()]
    silent = set(range(len(ids))) - {span.token for span in spans}
    return sorted([*letters, *((_SILENT, token, token) for token in silent)], key=lambda letter: letter[1])


def _find(text: str, tokenizer: Any, runs: Sequence[tuple[range, list[tuple[str, int, int]]]]) -> range:
    """Find the positions of a text in runs of a prompt, each with its letters."""
    wanted, found = _joined(_letters(tokenizer, tokenize_answer(tokenizer, text))), []
    for run, letters in runs:
        for match in re.finditer(f"(?={re.escape(wanted)})", _joined(letters)) if wanted else ():
            own = letters[match.start() : match.start() + len(wanted)]
            before, after = letters[: match.start()][-1:], letters[match.start() + len(wanted) :][:1]
            first, last = own[0][1], own[-1][2]
            if not any(letter[2] >= first for letter in before) and not any(letter[1] <= last for letter in after):
                found.append(range(run.start + first, run.start + last + 1))
    if len(found) != 1:
        raise PromptError(
            f"the segment {text!r} was found {len(found)} times in the prompt's tokens, and must be there once; write "
            "it as the prompt has it, with white space or punctuation around it"
        )
    return found[0]


def _joined(letters: Sequence[tuple[str, int, int]]) -> str:
    return "".join(letter for letter, _, _ in letters)


def _separators(ids: Sequence[int], spans: Sequence[range], what: str, tokenizer: Any) -> tuple[int, int]:
    """Return how many tokens before and after each segment belong to it."""
    gaps = [list(ids[first.stop : second.start]) for first, second in pairwise(spans)]
    differing = next((number for number, gap in enumerate(gaps) if gap != gaps[0]), None)
    gap, first, last = gaps[0], spans[0].start, spans[-1].stop
    if differing is None:
        for after in range(len(gap), -1, -1):
            before = len(gap) - after
            if (
                before <= first
                and list(ids[first - before : first]) == gap[after:]
                and list(ids[last : last + after]) == gap[:after]
            ):
                return before, after
    shown = [str(part if tokenizer is None else tokenizer.decode(part)) for part in (gap, gaps[differing or 0])]
    where = (
        f"between {what} 1 and {what} 2 stands {shown[0]!r}, between {what} {(differing or 0) + 1} and {what} "
        f"{(differing or 0) + 2} {shown[1]!r}"
        if differing is not None
        else f"{shown[0]!r} stands between {what}s, but not also after the last one or before the first one"
    )
    raise PromptError(f"the text around segments shows their order: {where}; write the same around each of them")
