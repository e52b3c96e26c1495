"""Over-trust penalty and retrospection-allocation (OPERA).

Paper     Huang et al., CVPR 2024, arXiv:2311.17911.
Idea      A long answer hallucinates after a token that all later ones attend to instead of the picture: a column of
          high self-attention weights. Penalise next tokens that extend such a column, and where one persists, go
          back to it and choose other tokens.
Formula   w: the newest row of the last self-attention layer, max over heads, divided by its sum; with
          L answer tokens, the candidate's included, over answer columns
          S_j = sum over rows i = j..L-1 of log(scale_factor w_ij)      (each row when it is the newest)
          penalty = -(image mass of the candidate's row) while L <= 10, then 1e-7 exp(max_j S_j)
          scores of a beam's N best tokens: log_softmax(z - penalty_weights penalty), in a beam search
          location: argmax_j S_j, the most frequent among a beam's candidates, then among the beams (ties: the
          smallest). If it is >= 10 and among each beam's locations so far more than `threshold` times: go back
          to the step after it; there the tokens chosen before are ruled out and the whole vocabulary competes
          without penalty; at most N times to one step, then to the step before.
Defaults  num_attn_candidates N 5, penalty_weights 1.0, scale_factor 50, threshold 15, window 512, and 5
          beams: the paper's and its scripts'. Their faster setting is N 1, threshold 25.
Cost      One pass per token with beams x N rows of attention; a rollback is one pass over the answer.
Compared  S: released code a half-precision product, 0 below 0.298 and infinite above 65504, ties to location
            0; ours a float32 sum of logarithms (compat_fp16=True: the product)
          rollback: released code keeps answers finished after a step that was gone back to twice, and clears
            ruled-out tokens only at the next step; ours restores the answers finished at that step, and
            clears those of all later steps (compat_fp16=True: theirs)
          batch: released code votes over the whole batch; ours each prompt by itself
          beams: released code those of transformers 4.29, where a score is divided by the length of prompt
            and answer, with the picture as one token and without the end mark; ours those of current
            transformers (length_rule="official": theirs; see `beam`)
          missing candidates: released code arbitrary tokens; ours the next best, 999 nats behind
          picture: released code, InstructBLIP: one place too late; ours as the prompt has it
          baseline: beam search and greedy; figures of 64 tokens leave out the last incomplete sentence
Differs   The candidates of a step are read in one pass, and the chosen ones are not read again. A penalty that all
          candidates of a beam share changes nothing. A rollback drops no step of the answer. Prompts are searched
          together; one that goes back catches up alone. With N 1 the first beam is greedy, and the others never
          overtake it but still vote. Without a picture the image mass is 0, as in models with layers of their own for
          it (Mllama) and for columns outside a sliding window. Only tokens that no step can take back are streamed,
          mostly the first 10; the rest follows at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import multimode
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.attention import SELF_ATTENTION, Call, Groups, Memory, Op
from mmhall.errors import CompositionError
from mmhall.generation import (
    LENGTH_RULES,
    Beams,
    Decoding,
    Feed,
    Keep,
    PromptSearch,
    Split,
    Steps,
    prompt_lengths,
    run_searches,
)
from mmhall.options import option
from mmhall.strategies import SEARCH, Session, Strategy

EARLY = 10
"""Up to so many answer tokens the image mass is the penalty, and there is no rollback to an earlier step."""

_LOWEST = math.log(1e-7)
_MOST = 80.0  # of S in the exponent: e**80 is still a float32
_BEHIND = 999.0
_BARRIER = 65504.0  # the largest half-precision number


@dataclass(frozen=True)
class Opera(Strategy):
    """Beam search with a penalty and a rollback for over-trust in a summary token.

    Attributes:
        num_attn_candidates: Candidate tokens in each beam, and most rollbacks to one step, >= 1.
        penalty_weights: Strength of the penalty, >= 0.
        scale_factor: Multiplies attention weights in the product, > 0.
        threshold: Agreements on a location before a rollback, >= 1.
        window: Most steps of a rollback, >= 1.
        compat_fp16: Decide like the authors' half-precision code.
        length_rule: The length that divides a score: of the "answer", or of prompt and answer ("official").
    """

    name: ClassVar[str] = "opera"
    beams: ClassVar[int] = 5
    searches: ClassVar[bool] = True

    claims: ClassVar[frozenset[str]] = frozenset({SEARCH})

    num_attn_candidates: int = option(5, low=1)
    penalty_weights: float = option(1.0, low=0)
    scale_factor: float = option(50.0, holds=lambda scale: scale > 0, expected="a number > 0")
    threshold: int = option(15, low=1)
    window: int = option(512, low=1)
    compat_fp16: bool = option(False)
    length_rule: str = option("answer", choices=LENGTH_RULES)

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse recurrent layers."""
        if "linear" not in adapter.kinds:
            return None
        return "it tries tokens side by side and takes steps back, which the state of recurrent layers does not allow"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Read the last layer that attends to the sequence, and search."""
        layer = max(index for index, kind in enumerate(adapter.kinds) if kind in SELF_ATTENTION)
        watch = Watch(layer, adapter.image_mask(inputs["input_ids"]))
        lengths = prompt_lengths(self.length_rule, adapter, inputs)
        return Session(ops=[watch], search=partial(_search, self, watch), prompt_lengths=lengths)


class Watch(Op):
    """Records the attention of the newest rows of one layer.

    Attributes:
        image: Share of attention on the picture, (rows, candidates).
        answer: Weights on answer columns, each row's own column last, (rows, candidates, L).
        on: Whether to record; a pass without candidate tokens has one, the newest token.
    """

    first_row = -1

    def __init__(self, layer: int, image: Tensor) -> None:
        """Choose a 0-based layer; `image` marks the prompts' image positions, (prompts, positions) bool."""
        self.layers, self._length = frozenset({layer}), image.shape[1]
        self._image = Groups(image)
        self.image, self.answer = torch.empty(0), torch.empty(0)
        self.on = False

    def rows(self, call: Call) -> LongTensor | None:
        """Return the rows of candidate tokens, or the newest row of a step, while switched on."""
        if not self.on or call.prefill:
            return None
        return call.newest if call.where.frame.candidates else call.newest[-1:]  # type: ignore[return-value]

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Record their weights: max over heads, then each row divided by its sum."""
        top = probs.amax(dim=1)
        top = top / top.sum(dim=-1, keepdim=True)
        count, columns = top.shape[1:]
        (image,) = self._image.masses(call, top[:, None])
        self.image = image[:, 0, :, 0]
        first, answered = self._length - call.offset, call.start - self._length
        before = top[:, :, max(first, 0) : columns - count]
        before = torch.nn.functional.pad(
            before, (answered - before.shape[2], 0)
        )  # columns outside a sliding window count 0
        itself = top[:, :, columns - count :].diagonal(dim1=1, dim2=2)
        self.answer = torch.cat([before, itself[:, :, None]], dim=2)


def add_rows(sums: Tensor, answer: Tensor, scale: float) -> Tensor:
    """Add the rows of candidate tokens to column sums.

    Args:
        sums: S of each beam, (beams, L - 1).
        answer: Weights on answer columns, (beams, candidates, L).
        scale: Factor on the weights.

    Returns:
        S for each candidate, (beams, candidates, L); -inf where a weight is 0.
    """
    return torch.nn.functional.pad(sums, (0, 1))[:, None] + (scale * answer).log()


def rate_candidates(sums: Tensor, image: Tensor, *, half: bool) -> tuple[Tensor, Tensor]:
    """Return penalties and locations of candidate tokens, (beams, candidates) each.

    Args:
        sums: S for each candidate, (beams, candidates, L).
        image: Attention of each candidate's row to the picture, (beams, candidates).
        half: Compute products in half precision; the penalty may then be infinite.
    """
    if half:
        columns = (sums.clamp(max=_MOST) + _LOWEST).exp().half().float()
        columns = columns.masked_fill(sums.clamp(max=_MOST).exp() > _BARRIER, torch.inf)
        most, locations = columns.max(dim=-1)
    else:
        most, locations = sums.max(dim=-1)
        most = (most.clamp(max=_MOST) + _LOWEST).exp()
    return (-image if sums.shape[2] <= EARLY else most), locations


def apply_penalty(logits: Tensor, candidates: Tensor, penalty: Tensor) -> Tensor:
    """Penalise each beam's candidate tokens, and put all other tokens far behind them.

    Args:
        logits: (beams, vocabulary).
        candidates: Token ids, (beams, candidates).
        penalty: Weighted penalties, (beams, candidates); inf rules a candidate out, unless all candidates of all beams
            are. A beam without a candidate falls behind as a whole.

    Returns:
        Log-probabilities, (beams, vocabulary).
    """
    ruled_out = penalty.isinf()
    if ruled_out.all():
        penalty, ruled_out = torch.zeros_like(penalty), torch.zeros_like(ruled_out)
    penalty = penalty - penalty.amin(dim=1, keepdim=True).nan_to_num(posinf=0.0)
    chosen = logits.gather(1, candidates) - penalty
    behind = logits.log_softmax(dim=1) - _BEHIND
    if candidates.shape[1] == logits.shape[1]:
        logprobs = logits.scatter(1, candidates, chosen).log_softmax(dim=1)
    else:
        logprobs = behind.scatter(1, candidates, chosen.log_softmax(dim=1))
    return torch.where(ruled_out.all(dim=1, keepdim=True), behind, logprobs)


def rule_out(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Rule out tokens of beams; a contrast may have left no others.

    Args:
        logits: (beams, vocabulary), -inf where a contrast has cut off.
        rows: Beam of each token, (pairs,).
        tokens: Tokens to rule out, (pairs,).

    Returns:
        Log-probabilities, (beams, vocabulary); a beam without a token falls behind as a whole.
    """
    left = logits.clone()
    left[rows, tokens] = -torch.inf
    dead = (left == -torch.inf).all(dim=1, keepdim=True)
    logprobs = left.log_softmax(dim=1)
    lowest = logprobs.masked_fill(logprobs == -torch.inf, torch.inf).amin(dim=1)
    logprobs[rows, tokens] = lowest[rows] - _BEHIND
    return torch.where(dead, logits.log_softmax(dim=1) - _BEHIND, logprobs)


def vote(locations: Sequence[Sequence[int]]) -> list[int]:
    """Return the most frequent location among each beam's candidates; on ties the smallest."""
    return [min(multimode(of_beam)) for of_beam in locations]


def find_rollback(history: Sequence[Sequence[int]], tries: dict[int, int], options: Opera) -> int | None:
    """Return the step to go back to, and count the rollback.

    Args:
        history: Location of each beam at each step so far, beams in fixed order.
        tries: Number of rollbacks to each step.
        options: The options of the search.

    Returns:
        Number of answer tokens to keep; None: no rollback.
    """
    step, where = len(history) - 1, min(multimode(history[-1]))
    agreed = min(sum(then[beam] == where for then in history) for beam in range(len(history[-1])))
    if where < EARLY or agreed <= options.threshold:
        return None
    most = options.num_attn_candidates
    kept = next((at for at in (where + 1, where) if tries.get(at, 0) < most), None)
    if kept is None or kept >= step:
        return None
    tries[kept] = tries.get(kept, 0) + 1
    return max(kept, step - options.window)


def earliest_rollback(
    history: Sequence[Sequence[int]], tries: dict[int, int], options: Opera, longest: int
) -> int | None:
    """Return the earliest step to which a search of `longest` steps could still roll back; None: none.

    A location's count can grow by one at each remaining step, and a rollback adds remaining steps.
    """
    steps, step = len(history), None
    while True:
        for where in range(EARLY, longest):
            if min(tries.get(at, 0) for at in (where, where + 1)) >= options.num_attn_candidates:
                continue
            beams = range(len(history[0])) if history else range(1)
            agreed = min(sum(then[beam] == where for then in history[:steps]) for beam in beams)
            if agreed + longest - max(steps, where) > options.threshold:
                break
        else:
            return step
        if step is not None and where >= step:
            return step
        step, steps = where, min(steps, where + 1)


@dataclass(slots=True)
class _SearchState:
    """The search at a step before its tokens are chosen.

    Attributes:
        beams: The beams.
        sums: S of each beam.
        memory: Memory of the beams before their last token was read.
        rows: Row that each beam continued, (beams,).
        tokens: Token that it chose then, (beams,).
    """

    beams: Beams
    sums: Tensor
    memory: Memory
    rows: list[int]
    tokens: list[int]


def _search(options: Opera, watch: Watch, decoding: Decoding) -> Tensor:
    """Search for the answers to all prompts (`Session.search`)."""
    prompts = range(len(decoding.prepared.input_ids))
    return run_searches(decoding, [Retrospection(options, watch, decoding, prompt) for prompt in prompts])


class Retrospection(PromptSearch):
    """The OPERA search for one prompt.

    Attributes:
        beams: The current beams.
        tries: Number of rollbacks to each step, by the number of answer tokens kept.
        out: Pairs of beam and token ruled out at each of these steps.
    """

    def __init__(self, options: Opera, watch: Watch, decoding: Decoding, prompt: int) -> None:
        """Start at the end of a prompt, by its 0-based index.

        Raises:
            CompositionError: The model's cache does not support candidate tokens in one pass.
        """
        super().__init__(decoding, prompt)
        self._options, self._watch = options, watch
        prepared, config = decoding.prepared, decoding.job.config
        self.beams = Beams(prepared, config, decoding.job.session.prompt_lengths, prompt)
        self._sums, self._memory = torch.zeros(1, 0, device=self.device), Memory()
        self._longest = prepared.config.max_length - prepared.length
        self._can_roll_back = options.threshold + EARLY < self._longest  # else no location can reach the threshold
        has_penalty = options.penalty_weights > 0 and options.num_attn_candidates > 1
        watch.on = self._reads_candidates = self._can_roll_back or has_penalty
        self._states: dict[int, _SearchState] = {}
        self._history: list[list[int]] = []
        self.tries: dict[int, int] = {}
        self.out: dict[int, set[tuple[int, int]]] = {}
        self._latest: tuple[list[int], list[int]] = ([], [])
        if self._reads_candidates and not decoding.rows.splittable:
            raise CompositionError("this model's cache does not let tokens be tried side by side; use another strategy")

    def run(self) -> Steps:
        """Return the best answers, best first, (length,) each."""
        self._rows = yield self.resume([()])  # at first all beams are equal
        while True:
            logits, kept = self._rows.scores(), None
            candidates = logits.topk(min(self._options.num_attn_candidates, logits.shape[1])).indices
            penalty = torch.zeros_like(candidates, dtype=logits.dtype)
            if self._reads_candidates:
                yield Split(self._rows, candidates)
                penalty = self._judge(logits, candidates)
                kept = find_rollback(self._history, self.tries, self._options) if self._can_roll_back else None
            if kept is None:
                logprobs = apply_penalty(logits, candidates, penalty)
            else:
                logprobs = yield from self._roll_back(kept)
                candidates = None
            parents = self.beams.advance(logprobs.expand(self.beams.scores.shape[1], -1))
            if parents is None:
                return self._finished()
            yield from self._feed(parents.clamp(max=len(logprobs) - 1), candidates)
            self._settle()

    def _judge(self, logits: Tensor, candidates: Tensor) -> Tensor:
        """Vote after candidates were read, and save the step; return their penalties, (rows, candidates)."""
        image, answer = (self._rows.own(part).to(logits.device) for part in (self._watch.image, self._watch.answer))
        self._candidate_sums = add_rows(self._sums, answer, self._options.scale_factor)
        penalty, locations = rate_candidates(self._candidate_sums, image, half=self._options.compat_fp16)
        weight = self._options.penalty_weights
        penalty = weight * penalty if weight > 0 else torch.zeros_like(penalty)
        if self._can_roll_back:
            possible = logits.gather(1, candidates) > -torch.inf  # a contrast may rule out candidates
            voting = [row[mask].tolist() for row, mask in zip(locations, possible, strict=True)]
            step, voted, beams = len(self._history), vote(voting), self.beams.scores.shape[1]
            self._history.append(voted if len(voted) == beams else voted * beams)
            self._states[step] = _SearchState(self.beams.copy(), self._sums, self._memory, *self._latest)
        return penalty

    def _roll_back(self, kept: int) -> Steps:
        """Go back to the step with `kept` answer tokens; return its log-probabilities, (beams, vocabulary)."""
        state, following = self._states[kept], self._states[kept + 1]
        self.out.setdefault(kept, set()).update(zip(following.rows, following.tokens, strict=True))
        compat = self._options.compat_fp16
        for later in [at for at in self.out if (at == kept + 1 if compat else at > kept)]:
            del self.out[later]
        for later in range(kept + 1, len(self._history)):
            self._states.pop(later, None)
        del self._history[kept + 1 :]
        self.beams, self._sums, self._memory = state.beams.copy(pools=not compat), state.sums, state.memory
        yield from self._read_anew()
        logits = self._rows.scores()
        rows, tokens = torch.tensor(sorted(self.out[kept]), device=logits.device).unbind(dim=1)
        return rule_out(logits, rows, tokens)

    def _feed(self, parents: Tensor, candidates: Tensor | None) -> Steps:
        """Continue with the chosen tokens; those among the candidates were read already."""
        tokens = self.beams.said[0, :, -1]
        self._latest = parents.tolist(), tokens.tolist()
        self._memory = self._rows.memory.select(parents, self._rows.size)
        if not self._reads_candidates:
            yield Feed(self._rows, tokens, parents)
            return
        matches = torch.zeros_like(tokens)[:, None] if candidates is None else candidates[parents] == tokens[:, None]
        if matches.any(dim=1).all():
            chosen = matches.int().argmax(dim=1)
            yield Keep(self._rows, parents, chosen, differing=self.beams.said.shape[2] - 1)
            self._sums = self._candidate_sums[parents, chosen]
            return
        if candidates is None:
            yield Feed(self._rows, tokens, parents)
        else:
            yield from self._read_anew()
        answer = self._rows.own(self._watch.answer).to(self._sums.device)
        self._sums = add_rows(self._sums[parents], answer, self._options.scale_factor)[:, 0]

    def _read_anew(self) -> Steps:
        """Read the texts of all beams, from the end of the prompt."""
        said = self.beams.said[0].tolist()
        memories = [self._memory.select(torch.tensor([beam]), len(said)) for beam in range(len(said))]
        self._rows = yield self.resume(said, memories)

    def _settle(self) -> None:
        """Stream the tokens that no later step can take back."""
        if self.decoding.job.streamer is None:
            return
        first = (
            earliest_rollback(self._history, self.tries, self._options, self._longest) if self._can_roll_back else None
        )
        state = None if first is None else self._states.get(first)
        self.tell((state.beams if state is not None else self.beams).shared())

    def _finished(self) -> list[Tensor]:
        answers = self.beams.best(self.count)
        self.end(answers[0].tolist())
        return answers
