"""Does attention to the picture decide what is said? The effect of doubling it, before any strategy is run.

Attention weights of image columns are doubled in every layer and head, and each row is normalised again, for the rows
from which tokens are predicted. The change is small beside that of `pai` or `vaf` with their defaults, and the same for
every model.

Captions   Share of greedy captions in which at least one token would be another, read with teacher forcing. A strategy
           that edits only the newest rows changes a greedy caption exactly if it changes the first such token.
Answers    Share of yes/no questions in which the margin of yes over no changes its sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmhall.analysis import pad_answers, read_answer, read_prompts
from mmhall.answers import Answer
from mmhall.attention import Call, Columns, Op
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.diagnosis.asking import Asker
from mmhall.benchmarks.diagnosis.figures import MECHANISMS, Figure, UnmeasuredError
from mmhall.benchmarks.run.runner import batches
from mmhall.results.statistics import Resampler
from mmhall.strategies import why_no_yes_no, yes_no_tokens

FACTOR = 2.0
CAPTIONS, QUESTIONS = 60, 240
"""Number of captions and of questions that are read with more attention to the picture, the first ones."""


class Lift(Op):
    """Multiplies the attention that rows pay to the picture by `FACTOR`."""

    def __init__(self, image: Tensor, rows: int) -> None:
        """Choose columns and rows.

        Args:
            image: Image positions of the prompts, (B, T) bool.
            rows: Number of last rows of a pass that are edited.
        """
        self._columns, self._rows = Columns(image.float() * float(np.log(FACTOR))), rows

    def bias(self, call: Call) -> Tensor:
        """Return log `FACTOR` at image columns of the last rows, (B, 1, Q, K)."""
        rows = torch.arange(call.count, device=call.device) >= call.count - self._rows
        return self._columns(call) * rows[:, None]


@dataclass(frozen=True, slots=True)
class Changed:
    """Whether an answer changes when the picture gets more attention.

    Attributes:
        item: The question.
        changed: Whether it does.
    """

    item: Item
    changed: bool


def changed_captions(asker: Asker, captions: Sequence[tuple[Item, Answer]]) -> list[Changed]:
    """Read captions with and without the lift, and compare the most probable tokens.

    Args:
        asker: The model and its pictures.
        captions: Captions, of which the first `CAPTIONS` that say anything are read.
    """
    adapter, found = asker.lvlm.adapter, list[Changed]()
    said = [(item, answer) for item, answer in captions if answer.token_ids][:CAPTIONS]
    for start in range(0, len(said), asker.batch_size):
        part = said[start : start + asker.batch_size]
        inputs = asker.inputs([item for item, _ in part])
        lengths = [len(answer.token_ids) for _, answer in part]
        tokens = pad_answers([answer.token_ids for _, answer in part], inputs["input_ids"].device)
        width, whole = tokens.shape[1], adapter.append_answer(inputs, tokens)
        lift = Lift(adapter.image_mask(inputs["input_ids"]), width + 1)
        with torch.inference_mode():
            plain, lifted = (read_answer(adapter, whole, width, ops).argmax(dim=-1) for ops in ([], [lift]))
        for row, ((item, _), length) in enumerate(zip(part, lengths, strict=True)):
            found.append(Changed(item, bool((plain[row, :length] != lifted[row, :length]).any())))
    return found


def changed_answers(asker: Asker, items: Sequence[Item]) -> list[Changed]:
    """Read yes/no questions with and without the lift, and compare the answers.

    Args:
        asker: The model and its pictures.
        items: Questions, of which the first `QUESTIONS` are read.
    """
    adapter, found = asker.lvlm.adapter, list[Changed]()
    reason = why_no_yes_no(adapter)
    if reason is not None:
        raise UnmeasuredError(reason)
    tokens = yes_no_tokens(adapter)
    for batch in batches(list(items)[:QUESTIONS], asker.batch_size):
        inputs = asker.inputs(batch)
        lift = Lift(adapter.image_mask(inputs["input_ids"]), 1)
        with torch.inference_mode():
            plain, lifted = (tokens.margin(read_prompts(adapter, inputs, ops).double()) > 0 for ops in ([], [lift]))
        found += [Changed(item, bool(a != b)) for item, a, b in zip(batch, plain, lifted, strict=True)]
    return found


def lift_figure(what: str, asker: Asker, read: Callable[[], list[Changed]]) -> Figure:
    """Return the share of answers that change.

    Args:
        what: The answers, "captions" or "answers".
        asker: The model and its pictures.
        read: Reads them, by `changed_captions` or `changed_answers`.

    Raises:
        UnmeasuredError: The model's pictures are no columns beside the text's, or there are no answers.
    """
    if not asker.lvlm.adapter.image_in_sequence:
        raise UnmeasuredError("the model attends to the picture in layers of their own, not in the sequence")
    found = read()
    if not found:
        raise UnmeasuredError("no answer says anything")
    draws = Resampler([one.item.cluster for one in found])
    changed = np.array([one.changed for one in found], np.float64)
    return Figure(
        f"lifted_{what}",
        MECHANISMS,
        f"{what} changed by twice the attention",
        draws.estimate(changed, np.ones(len(changed))),
        note=f"{len(found)} {what}; weights on the picture doubled in all layers",
    )
