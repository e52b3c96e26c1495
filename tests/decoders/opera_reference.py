"""OPERA step by step: every candidate read from scratch by an eager copy of the model, plain Python for the rest."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass, field

import torch

from mmhall.attention import Op
from mmhall.strategies import Session
from mmhall.strategies._step import Step
from tests.generation.official import Official

DEAD = -1e9


class Pull(Op):
    """Adds to the scores of some positions in one layer, wherever a token that is only tried will stand."""

    kinds = frozenset({"full"})

    def __init__(self, layer, pull):
        self.layers, self._pull = frozenset({layer}), torch.nn.functional.pad(pull, (0, 200))

    def bias(self, call):
        positions = torch.arange(call.key.shape[2]) + call.offset
        candidates = call.where.frame.candidates
        return self._pull[positions.clamp(max=call.start) if candidates else positions][None, None, None]

    def edit(self, layer, scores):
        return scores + self._pull[: scores.shape[-1]] if layer in self.layers else scores


@dataclass
class Beam:
    """A running beam."""

    said: tuple[int, ...]
    score: float


@dataclass
class Saved:
    """All that going back to a step restores, and what the step before had chosen."""

    beams: list[Beam]
    finished: list[tuple[float, tuple[int, ...]]]
    chosen: list[tuple[int, int]]


@dataclass
class Reference:
    """A search with one prompt.

    Attributes:
        eager: `tests.attention.reference.Eager` of the adapter's model.
        inputs: The prompt, alone.
        session: Its branches, if any, and how they combine.
        edits: Of the eager model's attention.
        official: The rule of transformers 4.29, where answers are counted by it.
        backs: Steps gone back to, in order.
    """

    adapter: object
    eager: object
    inputs: dict[str, torch.Tensor]
    options: object
    beams: int
    longest: int
    ends: tuple[int, ...] = ()
    length_penalty: float = 1.0
    session: object = Session()
    edits: dict = field(default_factory=dict)
    backs: list[int] = field(default_factory=list)
    official: Official | None = None

    def read(self, answers):
        """Next-token logits and the last self-attention layer's maps of answers of one length, each from scratch."""
        layer = max(i for i, kind in enumerate(self.adapter.kinds) if kind in ("full", "sliding", "chunked"))
        logits = []
        for branch in (*(branch.inputs for branch in self.session.branches), self.inputs):
            batch = self.adapter.stack([branch] * len(answers))
            if len(answers[0]):
                batch = self.adapter.append_answer(batch, torch.tensor(answers))
            logits.append(self.eager.logits(batch, **self.edits)[:, -1])
        *others, main = logits
        if self.session.combine is not None:
            said = torch.tensor(answers, dtype=torch.long).view(len(answers), -1)
            read = tuple(one.log_softmax(-1) for one in others)
            combined = self.session.combine(Step(main.log_softmax(-1), read, said))
            main = combined + main.logsumexp(-1, keepdim=True)
        return main.double(), self.eager.maps[layer][-1].double()

    def candidate(self, maps, length):
        """Penalty and location of an answer of some length that ends in a candidate, from its maps (H, Q, K)."""
        prompt = maps.shape[-1] - length
        rows = maps.amax(0)[prompt:]
        rows = rows / rows.sum(-1, keepdim=True)
        block = self.options.scale_factor * rows[:, prompt:]
        products = [math.prod(block[j:, j].tolist()) for j in range(length)]
        phi = [1e-7 * product for product in products]
        if self.options.compat_fp16:
            phi = [
                math.inf if product > 65504 else float(torch.tensor(value, dtype=torch.float64).half())
                for product, value in zip(products, phi, strict=True)
            ]
        image = self.adapter.image_mask(self.inputs["input_ids"])[0]
        mass = float(rows[-1, :prompt][image].sum())
        return (-mass if length <= 10 else max(phi)), phi.index(max(phi))

    def look(self, beams, logits):
        """Log-probabilities of every beam's next token, and its voted location."""
        count = min(self.options.num_attn_candidates, logits.shape[1])
        candidates = [row.topk(count).indices.tolist() for row in logits]
        answers = [(*beam.said, token) for beam, tokens in zip(beams, candidates, strict=True) for token in tokens]
        _, maps = self.read(answers)
        judged = [self.candidate(one, len(answers[0])) for one in maps]
        judged = [judged[start : start + count] for start in range(0, len(judged), count)]
        weight = self.options.penalty_weights
        penalties = [[weight * penalty if weight else 0.0 for penalty, _ in row] for row in judged]
        if all(math.isinf(penalty) for row in penalties for penalty in row):
            penalties = [[0.0] * count for _ in penalties]
        scores = []
        for row, tokens, penalty in zip(logits, candidates, penalties, strict=True):
            scored = row.log_softmax(-1) - 999
            if not all(map(math.isinf, penalty)):
                scored[tokens] = (row[tokens] - torch.tensor(penalty).double()).log_softmax(-1)
            scores.append(scored)
        return torch.stack(scores), [mode([where for _, where in row]) for row in judged]

    def run(self):
        beams = [Beam((), 0.0)] + [Beam((), DEAD)] * (self.beams - 1)
        finished, chosen = [], []
        states, history, tries, rejected = {}, [], Counter(), {}
        while True:
            logits, _ = self.read([beam.said for beam in beams])
            scores, locations = self.look(beams, logits)
            step = len(beams[0].said)
            history.append(locations)
            states[step] = Saved(list(beams), list(finished), chosen)
            kept = self.back(history, tries)
            if kept is not None:
                self.backs.append(kept)
                rejected.setdefault(kept, set()).update(states[kept + 1].chosen)
                for later in [at for at in rejected if at > kept]:
                    if not self.options.compat_fp16 or later == kept + 1:
                        del rejected[later]
                beams = list(states[kept].beams)
                finished = states[kept].finished if self.options.compat_fp16 else copy.copy(states[kept].finished)
                for later in range(kept + 1, step + 1):
                    del states[later]
                del history[kept + 1 :]
                logits, _ = self.read([beam.said for beam in beams])
                for beam, token in rejected[kept]:
                    logits[beam, token] = -1e5
                scores = logits.log_softmax(-1)
            grown = self.advance(beams, scores, finished)
            if grown is None:
                return sorted(finished, key=lambda pair: -pair[0])
            beams, chosen = grown

    def back(self, history, tries):
        where = mode(history[-1])
        for lane in range(self.beams):
            if sum(then[lane] == where for then in history) <= self.options.threshold:
                return None
        if where < 10:
            return None
        kept = where + 1
        if tries[kept] >= self.options.num_attn_candidates:
            kept -= 1
        if tries[kept] >= self.options.num_attn_candidates or kept >= len(history) - 1:
            return None
        tries[kept] += 1
        return max(kept, len(history) - 1 - self.options.window)

    def advance(self, beams, scores, finished):
        """One step of beam search; the pool of finished answers is edited in place."""
        if self.official is not None:
            grown = self.official.step([(beam.said, beam.score) for beam in beams], scores, finished)
            return None if grown is None else ([Beam(*pair) for pair in grown[0]], grown[1])
        total = torch.stack([row.clamp_min(DEAD) + beam.score for row, beam in zip(scores, beams, strict=True)])
        best = total.flatten().topk(max(2, 1 + len(self.ends)) * self.beams)
        grown, chosen, ended = [], [], 0
        for rank, (score, index) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            beam, token = divmod(index, total.shape[1])
            answer = (*beams[beam].said, token)
            if token in self.ends or len(answer) == self.longest:
                ended += 1
                if rank < self.beams:
                    finished.append((score / len(answer) ** self.length_penalty, answer))
            elif len(grown) < self.beams:
                grown.append(Beam(answer, score))
                chosen.append((beam, token))
        finished.sort(key=lambda pair: -pair[0])
        del finished[self.beams :]
        if ended == len(best.values):
            return None
        hope = grown[0].score / len(grown[0].said) ** self.length_penalty
        if len(finished) == self.beams and hope <= finished[-1][0]:
            return None
        return grown, chosen


def mode(values):
    """The most frequent value; of several, the smallest."""
    counts = Counter(values)
    return min(value for value, count in counts.items() if count == max(counts.values()))
