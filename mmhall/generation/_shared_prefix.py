"""Shared prefixes: read what the prompts about one picture have in common once.

Questions about a picture begin with the same template, picture and words such as "Is there a". This prefix is read once
for each picture and its cache copied to every question; then the rest of each question is read, those of equal length
in one pass. There is no padding between a prefix and its rest, so positions, windows and recurrent states are those of
the whole prompt; results differ only by rounding.

The pictures must be identical to the last pixel, and the prompts' rows must not attend to later tokens. A prefix ends
before the first row that an op reads or edits (`Op.first_row`), so it is read without ops.

Of prompts without pictures, which are short, only equal ones are read once, such as those of the picture-free branches
of one question about several pictures. To read the ends of others by themselves takes more passes, and saves little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmhall.adapters import PER_POSITION, Adapter, Batch, Inputs, has_picture
from mmhall.attention import VISION, Op
from mmhall.strategies import Branch, Session

if TYPE_CHECKING:
    from mmhall.generation._prepare import PreparedBatch


@dataclass(frozen=True, slots=True)
class PrefixSplit:
    """Prompts split into shared prefixes and rests.

    Attributes:
        inputs: The prefixes, one for each picture, a batch of G rows.
        of: Index of each prompt's prefix, (N,).
        rest: The rest of each prompt, (tokens,) each, N of them; empty where whole prompts are equal.
    """

    inputs: Inputs
    of: Tensor
    rest: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Shared prefixes, prepared to be read.

    Attributes:
        prepared: The G prefixes.
        of: Index of each prompt's prefix, (N,).
        rest: The rest of each prompt, (tokens,) each; empty where whole prompts are equal.
    """

    prepared: PreparedBatch
    of: Tensor
    rest: tuple[Tensor, ...]

    @property
    def whole(self) -> bool:
        """Whether the prefixes are the whole prompts."""
        return not any(map(len, self.rest))

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Group prompts by the length of their rests: their indices, (n,), and the rests, (n, tokens)."""
        lengths = [len(tokens) for tokens in self.rest]
        groups = []
        for length in sorted(set(lengths)):
            rows = [row for row, size in enumerate(lengths) if size == length]
            groups.append((torch.tensor(rows, device=self.of.device), torch.stack([self.rest[row] for row in rows])))
        return groups


def split_prefixes(adapter: Adapter, inputs: Inputs, ops: Sequence[Op] = ()) -> PrefixSplit | None:
    """Split prompts about one picture where they begin to differ or an op begins to act; None: nothing is shared.

    Equal prompts without a picture are not split: their rests are empty.
    """
    pictured = has_picture(inputs)
    if not isinstance(inputs, Batch) or (not adapter.can_split_prompt if pictured else ops):
        return None
    groups = _groups(inputs, _same_pictures if pictured else _same_prompts)
    if len(groups) == len(inputs.singles):
        return None
    if not pictured:
        return _split(adapter, inputs, groups, [inputs.singles[group[0]]["input_ids"].shape[1] for group in groups])
    ends = first_rows(inputs, ops)
    cuts = [
        _prefix_length(adapter, [inputs.singles[row] for row in group], min(ends[row] for row in group))
        for group in groups
    ]
    return _split(adapter, inputs, groups, cuts) if all(cuts) else None


def _split(adapter: Adapter, inputs: Batch, groups: Sequence[list[int]], cuts: Sequence[int]) -> PrefixSplit:
    """Split the prompts of each group after so many tokens."""
    of = torch.empty(len(inputs.singles), dtype=torch.long, device=inputs["input_ids"].device)
    for number, group in enumerate(groups):
        of[group] = number
    prefixes = [_truncate(inputs.singles[group[0]], cut) for group, cut in zip(groups, cuts, strict=True)]
    rest = tuple(
        single["input_ids"][0, cuts[number] :] for single, number in zip(inputs.singles, of.tolist(), strict=True)
    )
    return PrefixSplit(adapter.stack(prefixes), of, rest)


def _groups(batch: Batch, same: Callable[[Batch, int, int], bool]) -> list[list[int]]:
    """Group rows that are the same as the first of their group."""
    groups: list[list[int]] = []
    for row in range(len(batch.singles)):
        group = next((group for group in groups if same(batch, group[0], row)), None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return groups


def _same_pictures(batch: Batch, a: int, b: int) -> bool:
    """Whether two rows have the same pictures, and equal inputs apart from the text."""
    pictures, others = batch.requests[a].images, batch.requests[b].images
    if len(pictures) != len(others) or any(p is not o for p, o in zip(pictures, others, strict=True)):
        return False
    first, second = batch.singles[a], batch.singles[b]
    return all(torch.equal(first[key], second[key]) for key in first if key not in PER_POSITION)


def _same_prompts(batch: Batch, a: int, b: int) -> bool:
    """Whether two rows without pictures have the same text."""
    first, second = batch.singles[a], batch.singles[b]
    return all(torch.equal(first[key], second[key]) for key in first)


def why_whole(adapter: Adapter, session: Session) -> str:
    """Return why the main prompts of a session cannot be read in two parts, whatever its ops do; "": they can."""
    if not adapter.can_split_prompt:
        return "this model reads a prompt at once"
    if session.reference is not None and not _can_part(session.reference):
        return "another prompt is read in lock step with the whole one"
    if any(early.positions is not None for early in session.exits):
        return "predictions are read at positions of the prompt"
    return "the whole prompt is read twice" if session.reread and not adapter.can_drop_last_token else ""


def _can_part(reference: Branch) -> bool:
    """Whether prompts read in lock step can be read in parts; values of pictures, and what is stored, are of all."""
    apart = not any(op.remembers or op.kinds & VISION for op in reference.ops)
    return apart and isinstance(reference.inputs, Batch)


def why_not_shared(adapter: Adapter, inputs: Inputs, session: Session) -> str:
    """Return why a picture is read again for each question about it; "": it is read once for all of them.

    Args:
        adapter: The model.
        inputs: A request.
        session: Its session.
    """
    if not isinstance(inputs, Batch) or not has_picture(inputs):
        return "there is none"
    last = _last_of_picture(adapter, inputs.singles)
    acting = [type(op).__name__ for op in session.ops if first_rows(inputs, [op])[0] <= last]
    return why_whole(adapter, session) or (f"{acting[0]} reads or edits the picture's rows" if acting else "")


def first_rows(inputs: Batch, ops: Sequence[Op]) -> list[int]:
    """Return the position in each prompt, without padding, from which on it is read by itself.

    It is that of the first row of an op, and not the last one alone: one token would be taken for one of an answer.
    """
    lengths = torch.tensor([single["input_ids"].shape[1] for single in inputs.singles])
    longest, first = inputs["input_ids"].shape[1], lengths - (2 if ops else 1)
    for op in ops:
        row = torch.as_tensor(op.first_row).cpu()
        first = first.minimum(torch.where(row < 0, row + longest, row) - longest + lengths)
    return [int(row) for row in first]


def _prefix_length(adapter: Adapter, singles: Sequence[Inputs], most: int) -> int:
    """Return the length of the longest common prefix with the picture, at most `most` tokens; 0: there is none."""
    shortest = min(single["input_ids"].shape[1] for single in singles)
    rows = torch.cat([single["input_ids"][:, :shortest] for single in singles])
    differing = (rows != rows[:1]).any(dim=0).nonzero()
    cut = min(most, int(differing[0]) if len(differing) else shortest)
    return cut if cut > _last_of_picture(adapter, singles) else 0


def _last_of_picture(adapter: Adapter, singles: Sequence[Inputs]) -> int:
    """Return the last position of a picture in any of some prompts."""
    return max(int(adapter.placeholders(single["input_ids"]).nonzero()[-1, 1]) for single in singles)


def _truncate(single: Inputs, cut: int) -> dict[str, Tensor]:
    return {key: value[:, :cut] if key in PER_POSITION else value for key, value in single.items()}
