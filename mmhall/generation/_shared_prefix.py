"""Read what several prompts about one picture have in common once.

Questions about a picture begin alike: template, picture, "Is there a". That beginning is read once for each
picture; its cache is then copied to every question, and the questions are read on from there, those with
equally many tokens left in one pass. No padding comes between a beginning and its end, so that positions,
windows and recurrent states are those of the whole prompt; what comes out differs by rounding alone.

It needs a picture that is the same to the last pixel, and prompts whose rows do not see what follows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmhall.adapters import PER_POSITION, Adapter, Batch, Inputs, has_picture

if TYPE_CHECKING:
    from mmhall.generation._prepare import PreparedBatch


@dataclass(frozen=True, slots=True)
class PrefixSplit:
    """Prompts cut in two.

    Attributes:
        inputs: The beginnings, one for each picture, a batch of G rows.
        of: Which of them each prompt begins with, (N,).
        rest: What is left of each prompt, (tokens,) each, N of them.
    """

    inputs: Inputs
    of: Tensor
    rest: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Beginnings ready to be read.

    Attributes:
        prepared: The G beginnings.
        of: Which of them each prompt begins with, (N,).
        rest: What is left of each prompt, (tokens,) each.
    """

    prepared: PreparedBatch
    of: Tensor
    rest: tuple[Tensor, ...]

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Return prompts with equally many tokens left: their indices, (n,), and those tokens, (n, tokens)."""
        lengths = [len(tokens) for tokens in self.rest]
        made = []
        for length in sorted(set(lengths)):
            rows = [row for row, own in enumerate(lengths) if own == length]
            made.append((torch.tensor(rows, device=self.of.device), torch.stack([self.rest[row] for row in rows])))
        return made


def split_prefixes(adapter: Adapter, inputs: Inputs) -> PrefixSplit | None:
    """Cut prompts where those about one picture begin to differ; None: there is nothing to share."""
    if not adapter.divisible or not isinstance(inputs, Batch) or not has_picture(inputs):
        return None
    groups = _groups(inputs)
    if len(groups) == len(inputs.singles):
        return None
    cuts = [_cut(adapter, [inputs.singles[row] for row in group]) for group in groups]
    if not all(cuts):
        return None
    of = torch.empty(len(inputs.singles), dtype=torch.long, device=inputs["input_ids"].device)
    for number, group in enumerate(groups):
        of[group] = number
    firsts = [_until(inputs.singles[group[0]], cut) for group, cut in zip(groups, cuts, strict=True)]
    rest = tuple(
        single["input_ids"][0, cuts[number] :] for single, number in zip(inputs.singles, of.tolist(), strict=True)
    )
    return PrefixSplit(adapter.stack(firsts), of, rest)


def _groups(batch: Batch) -> list[list[int]]:
    """Put rows together that show the same pictures and pixels."""
    groups: list[list[int]] = []
    for row in range(len(batch.singles)):
        group = next((group for group in groups if _alike(batch, group[0], row)), None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return groups


def _alike(batch: Batch, one: int, other: int) -> bool:
    """Whether two rows were asked about the same pictures, and all but their text is equal."""
    pictures, others = batch.requests[one].images, batch.requests[other].images
    if len(pictures) != len(others) or any(a is not b for a, b in zip(pictures, others, strict=True)):
        return False
    first, second = batch.singles[one], batch.singles[other]
    return all(torch.equal(first[key], second[key]) for key in first if key not in PER_POSITION)


def _cut(adapter: Adapter, singles: Sequence[Inputs]) -> int:
    """Return how many tokens some prompts begin with alike, the picture among them and text behind it; 0: too few."""
    shortest = min(single["input_ids"].shape[1] for single in singles)
    rows = torch.cat([single["input_ids"][:, :shortest] for single in singles])
    differing = (rows != rows[:1]).any(dim=0).nonzero()
    cut = min(shortest - 1, int(differing[0]) if len(differing) else shortest)
    at = max(int(adapter.placeholders(single["input_ids"]).nonzero()[-1, 1]) for single in singles)
    return cut if cut > at + 1 else 0


def _until(single: Inputs, cut: int) -> dict[str, Tensor]:
    return {key: value[:, :cut] if key in PER_POSITION else value for key, value in single.items()}
