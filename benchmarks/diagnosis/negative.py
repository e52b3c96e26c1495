"""Heads that lean to no: negative attention score (arXiv:2408.00137).

Question   "Is there a ... in the image?" and `SUFFIX`, about present and likely absent objects alike.
Score      In one head, over the rows behind the instruction's "no": the attention to its yes and its no, times
           log(attention to no / attention to yes), summed over the rows. Above 0 the head looks at no, below at yes.
Model      Mean over heads and questions. The criterion c of the adversarial questions stands beside it, where positive
           values mean that the model says no more often than is right: the paper found heads with a high score in
           models that lean to no, and mends it by training them, which nothing here does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Request
from mmhall.analysis import mark_words, read_prompts
from mmhall.attention import Call, Op
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.diagnosis.asking import Asker
from mmhall.benchmarks.diagnosis.figures import ATTENTION, Figure, UnmeasuredError
from mmhall.benchmarks.run.runner import batches
from mmhall.images import open_image
from mmhall.objects import question_about
from mmhall.results.statistics import Resampler

SUFFIX = " Please answer yes or no."
QUESTIONS = 240
"""Number of questions that are read, as many present as absent ones."""
_SHOWN = 3


def negative_score(yes: Tensor, no: Tensor) -> Tensor:
    """Return (yes + no) log(no / yes), summed over the last dimension; 0 where both are 0.

    Attention 0.02 to yes and 0.08 to no: 0.1 log 4 = 0.1386.

    Args:
        yes: Attention to yes, (..., rows).
        no: Attention to no, (..., rows).
    """
    tiny = torch.finfo(yes.dtype).tiny
    return ((yes + no) * (no.clamp_min(tiny) / yes.clamp_min(tiny)).log()).sum(dim=-1)


@dataclass(frozen=True, slots=True, eq=False)
class Leaning:
    """The heads' scores at one question.

    Attributes:
        item: The question.
        scores: Of each head, by layer, (H,) float64.
    """

    item: Item
    scores: dict[int, Tensor]


class YesNoProbe(Op):
    """Reads the attention to yes and no of the rows behind them.

    Attributes:
        scores: By layer, the score of each head for each prompt, (B, H).
    """

    def __init__(self, yes: Tensor, no: Tensor) -> None:
        """Choose rows and columns.

        Args:
            yes: Positions of yes, (B, T) bool, at least one each.
            no: Positions of no, (B, T) bool, at least one each.
        """
        self._yes, self._no = yes, no
        positions = torch.arange(yes.shape[1])
        last = (torch.where(no.cpu(), positions, -1)).amax(dim=1)
        self._behind = positions > last[:, None]
        self._first = int(last.min()) + 1
        self.scores: dict[int, Tensor] = {}

    def rows(self, call: Call) -> LongTensor | None:
        """Return the rows behind the instruction; none in a layer that does not get them all."""
        wanted = torch.arange(self._first, self._yes.shape[1])
        rows = call.rows_at(wanted)
        return rows if len(rows) == len(wanted) else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Score a layer; not one that has dropped the columns."""
        if call.offset > 0:
            return
        length = self._yes.shape[1]
        columns = probs[..., -call.offset : length - call.offset] if call.offset else probs[..., :length]
        behind = self._behind[:, self._first :].to(probs.device)[:, None]
        yes, no = (
            (columns * part.to(probs.device)[:, None, None]).sum(dim=-1) * behind for part in (self._yes, self._no)
        )
        self.scores[call.layer] = negative_score(yes.double(), no.double()).cpu()


def read_leanings(asker: Asker, present: Sequence[Item], absent: Sequence[Item]) -> list[Leaning]:
    """Read questions about present and about absent objects, as many of each.

    Args:
        asker: The model and its pictures.
        present: Questions about present objects.
        absent: Questions about absent objects.

    Raises:
        UnmeasuredError: There are no questions of one kind, or the tokenizer hides yes and no.
    """
    adapter = asker.lvlm.adapter
    half = min(len(present), len(absent), QUESTIONS // 2)
    if not half or adapter.tokenizer is None:
        raise UnmeasuredError("there are no questions about present and likely absent objects")
    found = []
    for batch in batches([*present[:half], *absent[:half]], asker.batch_size):
        requests = [
            Request(question_about(item.truth["object"]) + SUFFIX, (open_image(asker.path(item)),)) for item in batch
        ]
        inputs = adapter.inputs(requests)
        query = adapter.query_mask(inputs)
        yes, no = (mark_words(adapter, inputs, query, [word]) for word in ("yes", "no"))
        if not (yes.any(dim=1) & no.any(dim=1)).all():
            raise UnmeasuredError("yes and no were not found in the question's tokens")
        probe = YesNoProbe(yes, no)
        with torch.inference_mode():
            read_prompts(adapter, inputs, [probe])
        for row, item in enumerate(batch):
            found.append(Leaning(item, {layer: scores[row] for layer, scores in probe.scores.items()}))
    return found


def negative_figure(found: Sequence[Leaning]) -> Figure:
    """Return the mean score of the heads.

    Args:
        found: Scores of each question.

    Raises:
        UnmeasuredError: No layer sees the whole instruction.
    """
    layers = sorted(set.intersection(*(set(one.scores) for one in found))) if found else []
    if not layers:
        raise UnmeasuredError("no layer attends to the whole question")
    draws, ones = Resampler([one.item.cluster for one in found]), np.ones(len(found))
    grid = {layer: torch.stack([one.scores[layer] for one in found]) for layer in layers}
    heads = {layer: tuple(values.mean(dim=0).tolist()) for layer, values in grid.items()}
    ranked = sorted(((v, layer, head) for layer, row in heads.items() for head, v in enumerate(row)), reverse=True)
    to_no = ", ".join(f"{v:+.3f} (layer {layer}, head {head})" for v, layer, head in ranked[:_SHOWN])
    return Figure(
        "negative_score",
        ATTENTION,
        "negative attention score, mean of heads",
        draws.estimate(torch.stack([values.mean(dim=1) for values in grid.values()]).mean(dim=0).numpy(), ones),
        percent=False,
        layers={layer: draws.estimate(values.mean(dim=1).numpy(), ones) for layer, values in grid.items()},
        note=f"{len(found)} questions; above 0 heads look at the question's no. Most: {to_no}",
        short="NAS",
        heads=heads,
        by_head="negative attention score",
    )
