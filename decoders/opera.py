"""Over-trust penalty and retrospection-allocation (OPERA).

Paper     Huang et al., CVPR 2024, arXiv:2311.17911.
Idea      A long answer goes wrong after a token that all later ones look at instead of the picture: a
          stripe in self-attention. Punish next tokens that lengthen a stripe, and where one stays, go
          back to it and say something else.
Formula   w: the newest row of the last self-attention layer, max over heads, divided by its sum; with
          L answer tokens, the candidate's included, over answer columns
          S_j = sum over rows i = j..L-1 of log(scale_factor w_ij)      (each row once it is the newest)
          penalty = -(image mass of the candidate's row) while L <= 10, then 1e-7 exp(max_j S_j)
          scores of a beam's N best tokens: log_softmax(z - penalty_weights penalty), in a beam search
          location: argmax_j S_j, the most frequent of a beam's candidates, then of the beams (ties: the
          smallest). Where each beam's locations so far hold it more than `threshold` times and it is
          >= 10: back to the step that follows it, where the tokens chosen then are out and the whole
          vocabulary competes, unpunished; at most N times to one step, then to the step before.
Defaults  num_attn_candidates N 5, penalty_weights 1.0, scale_factor 50, threshold 15, window 512, and 5
          beams: the paper's and its scripts'. Their faster setting is N 1, threshold 25.
Cost      One pass per token with beams x N rows of attention; going back is one pass over the answer.
Differs   Candidates are read side by side in one pass, and the chosen ones are not read again. S is a
          float32 sum of logarithms, where theirs is a half-precision product: there it is 0 below 0.3 and
          infinite above 65504. A penalty that all candidates of a beam share changes nothing. Going back
          restores all the beams had finished then, forgets what was ruled out at later steps, and drops
          no step of the answer. Prompts of a batch vote by themselves: they are read together and searched
          one after the other. Beams, their ends and their scores are transformers' of today;
          length_rule="official" keeps those of the authors' 4.29, where a score is divided by the length of
          prompt and answer, the picture one token, without the end mark (see `beam`). Where a beam search
          needs more tokens than there are candidates, the next best
          follow 999 nats behind; theirs are arbitrary ones. With N 1 the first beam is greedy, and the
          others, so filled in, never overtake it but still vote. Without a picture the image mass is 0, as
          where layers of their own attend to it (Mllama) and for columns that left a sliding window.
          compat_fp16=True keeps of the authors' code: half-precision products (flushed below 0.298, a
          barrier above 65504, ties to location 0), answers finished after a step that was gone back to
          twice, and lists of what was ruled out that are cleared at the next step only. Votes over a
          whole batch are not kept. Streamed is what no step can take back, mostly the first 10 tokens;
          the rest follows at the end.
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
from mmhall.generation import LENGTH_RULES, Beams, Decoding, PromptSearch, prompt_lengths, run_searches
from mmhall.options import option
from mmhall.strategies import SEARCH, Session, Strategy

EARLY = 10
"""Up to so many answer tokens the picture decides the penalty, and no step before is gone back to."""

_LOWEST = math.log(1e-7)
_MOST = 80.0  # of S in the exponent: e**80 is still a float32
_BEHIND = 999.0
_BARRIER = 65504.0  # the largest half-precision number


@dataclass(frozen=True)
class Opera(Strategy):
    """Beam search that punishes and takes back over-trust in a summary token.

    Attributes:
        num_attn_candidates: Next tokens looked at in each beam, and times a step is gone back to, >= 1.
        penalty_weights: Strength of the penalty, >= 0.
        scale_factor: Multiplies attention weights in the product, > 0.
        threshold: Locations may agree so often before the search goes back, >= 1.
        window: The search goes back at most so many steps, >= 1.
        compat_fp16: Decide as the authors' half-precision code does.
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
        """Watch the last layer that attends to the sequence, and search."""
        layer = max(index for index, kind in enumerate(adapter.kinds) if kind in SELF_ATTENTION)
        watch = Watch(layer, adapter.image_mask(inputs["input_ids"]))
        lengths = prompt_lengths(self.length_rule, adapter, inputs)
        return Session(ops=[watch], search=partial(_search, self, watch), prompt_lengths=lengths)


class Watch(Op):
    """Sees the newest rows of one layer.

    Attributes:
        image: Share of the latest rows that falls on the picture, (rows, candidates).
        answer: Their weights on answer columns, each row's own last, (rows, candidates, L).
    """

    def __init__(self, layer: int, image: Tensor) -> None:
        """Watch a 0-based layer; `image` marks the prompts' image positions, (prompts, positions) bool."""
        self.layers, self._length = frozenset({layer}), image.shape[1]
        self._image = Groups(image)
        self.image, self.answer = torch.empty(0), torch.empty(0)
        self.on = False

    def rows(self, call: Call) -> LongTensor | None:
        """Ask for the newest rows of a step."""
        return call.newest if self.on and not call.prefill else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Keep their shares: max over heads, then every row divided by its sum."""
        top = probs.amax(dim=1)
        top = top / top.sum(dim=-1, keepdim=True)
        count, columns = top.shape[1:]
        (image,) = self._image.masses(call, top[:, None])
        self.image = image[:, 0, :, 0]
        first, said = self._length - call.offset, call.start - self._length
        before = top[:, :, max(first, 0) : columns - count]
        before = torch.nn.functional.pad(before, (said - before.shape[2], 0))  # what left a sliding window counts 0
        itself = top[:, :, columns - count :].diagonal(dim1=1, dim2=2)
        self.answer = torch.cat([before, itself[:, :, None]], dim=2)


def add_rows(sums: Tensor, answer: Tensor, scale: float) -> Tensor:
    """Add candidates' rows to column sums.

    Args:
        sums: S of each beam, (beams, L - 1).
        answer: Weights on answer columns, (beams, candidates, L).
        scale: Factor of the weights.

    Returns:
        S with each candidate, (beams, candidates, L); -inf where a weight is 0.
    """
    return torch.nn.functional.pad(sums, (0, 1))[:, None] + (scale * answer).log()


def rate_candidates(sums: Tensor, image: Tensor, *, half: bool) -> tuple[Tensor, Tensor]:
    """Return candidates' penalties and locations, (beams, candidates) each.

    Args:
        sums: S with each candidate, (beams, candidates, L).
        image: Share of the candidate's row on the picture, (beams, candidates).
        half: Compute products as half precision does; the penalty may then be infinite.
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
    """Let each beam's candidates compete among themselves, and put all other tokens far behind.

    Args:
        logits: (beams, vocabulary).
        candidates: Token ids, (beams, candidates).
        penalty: Weighted, (beams, candidates); inf: out, unless every candidate of every beam is. A beam that has
            none left falls behind as a whole.

    Returns:
        Log-probabilities, (beams, vocabulary).
    """
    barred = penalty.isinf()
    if barred.all():
        penalty, barred = torch.zeros_like(penalty), torch.zeros_like(barred)
    penalty = penalty - penalty.amin(dim=1, keepdim=True).nan_to_num(posinf=0.0)
    chosen = logits.gather(1, candidates) - penalty
    behind = logits.log_softmax(dim=1) - _BEHIND
    if candidates.shape[1] == logits.shape[1]:
        told = logits.scatter(1, candidates, chosen).log_softmax(dim=1)
    else:
        told = behind.scatter(1, candidates, chosen.log_softmax(dim=1))
    return torch.where(barred.all(dim=1, keepdim=True), behind, told)


def rule_out(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Rule out tokens of beams, of which a contrast may have left only these.

    Args:
        logits: (beams, vocabulary), -inf where a contrast has cut off.
        rows: Of each token, (pairs,).
        tokens: (pairs,).

    Returns:
        Log-probabilities, (beams, vocabulary); a beam that has no token left falls behind as a whole.
    """
    left = logits.clone()
    left[rows, tokens] = -torch.inf
    dead = (left == -torch.inf).all(dim=1, keepdim=True)
    told = left.log_softmax(dim=1)
    lowest = told.masked_fill(told == -torch.inf, torch.inf).amin(dim=1)
    told[rows, tokens] = lowest[rows] - _BEHIND
    return torch.where(dead, logits.log_softmax(dim=1) - _BEHIND, told)


def vote(locations: Sequence[Sequence[int]]) -> list[int]:
    """Return the most frequent location of each beam's candidates; of several, the smallest."""
    return [min(multimode(of_beam)) for of_beam in locations]


def find_rollback(history: Sequence[Sequence[int]], tries: dict[int, int], options: Opera) -> int | None:
    """Tell which step to go back to, and count it.

    Args:
        history: Location of each beam, at each step so far; the beams' order is that of their slots.
        tries: How often each step was gone back to.
        options: Threshold, most tries, and window.

    Returns:
        How many answer tokens to keep; None: go on.
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
    """Return the earliest step that a search of `longest` steps could still go back to; None: none.

    A location's count can grow by one at each step left, and going back makes more steps of them left.
    """
    known, found = len(history), None
    while True:
        for where in range(EARLY, longest):
            if min(tries.get(at, 0) for at in (where, where + 1)) >= options.num_attn_candidates:
                continue
            beams = range(len(history[0])) if history else range(1)
            agreed = min(sum(then[beam] == where for then in history[:known]) for beam in beams)
            if agreed + longest - max(known, where) > options.threshold:
                break
        else:
            return found
        if found is not None and where >= found:
            return found
        found, known = where, min(known, where + 1)


@dataclass(slots=True)
class _State:
    """A step before its tokens are chosen; `rows` and `tokens` are what led to it, (beams,) each."""

    beams: Beams
    sums: Tensor
    memory: Memory
    rows: list[int]
    tokens: list[int]


def _search(options: Opera, watch: Watch, decoding: Decoding) -> Tensor:
    """Search for the answers to each prompt, as `Session.search`."""
    prompts = range(len(decoding.prepared.input_ids))
    return run_searches(decoding, (Retrospection(options, watch, decoding, prompt) for prompt in prompts))


class Retrospection(PromptSearch):
    """The search for one prompt.

    Attributes:
        beams: What it holds at present.
        tries: How often each step was gone back to, by the number of answer tokens kept.
        out: Pairs of beam and token ruled out at each of these steps.
    """

    def __init__(self, options: Opera, watch: Watch, decoding: Decoding, prompt: int) -> None:
        """Start at the end of a prompt, by its 0-based index.

        Raises:
            CompositionError: The model's cache does not let tokens be tried side by side.
        """
        super().__init__(decoding, prompt)
        self._options, self._watch = options, watch
        prepared, asked, device = decoding.prepared, decoding.job.config, self.device
        self._from = torch.full((asked.num_beams,), prompt, device=device)
        self._rows = decoding.rows.taken(self._from[:1])  # at first all beams are the same
        self.beams = Beams(prepared, asked, decoding.job.session.prompt_lengths, prompt)
        self._sums, self._remembered = torch.zeros(1, 0, device=device), Memory()
        self._longest = prepared.config.max_length - prepared.length
        self._turns = options.threshold + EARLY < self._longest  # else no location can ever agree so often
        weighs = options.penalty_weights > 0 and options.num_attn_candidates > 1
        self._looks = self._turns or weighs
        self._states: dict[int, _State] = {}
        self._history: list[list[int]] = []
        self.tries: dict[int, int] = {}
        self.out: dict[int, set[tuple[int, int]]] = {}
        self._latest: tuple[list[int], list[int]] = ([], [])
        if self._looks and not decoding.rows.splittable:
            raise CompositionError("this model's cache does not let tokens be tried side by side; use another strategy")

    def run(self) -> list[Tensor]:
        """Return the best answers, best first, (length,) each."""
        while True:
            self._remembered = self._rows.memory.copy()
            logits = self._rows.scores()
            candidates = logits.topk(min(self._options.num_attn_candidates, logits.shape[1])).indices
            if not self._looks:
                logprobs, kept = (
                    apply_penalty(logits, candidates, torch.zeros_like(candidates, dtype=logits.dtype)),
                    None,
                )
            else:
                penalty = self._look(logits, candidates)
                kept = find_rollback(self._history, self.tries, self._options) if self._turns else None
                logprobs = apply_penalty(logits, candidates, penalty) if kept is None else self._return(kept)
            parents = self.beams.advance(logprobs.expand(len(self._from), -1))
            if parents is None:
                return self._finished()
            self._feed(parents.clamp(max=len(logits) - 1), candidates if self._looks and kept is None else None)
            self._settle()

    def _look(self, logits: Tensor, candidates: Tensor) -> Tensor:
        """Read the candidates side by side; vote, save the step, and return their penalties, (rows, candidates)."""
        self._watch.on = True
        self._rows.split(candidates)
        self._watch.on = False
        self._grown = add_rows(self._sums, self._watch.answer.to(self._sums.device), self._options.scale_factor)
        penalty, locations = rate_candidates(self._grown, self._watch.image, half=self._options.compat_fp16)
        weight = self._options.penalty_weights
        penalty = weight * penalty if weight > 0 else torch.zeros_like(penalty)
        if self._turns:
            possible = logits.gather(1, candidates) > -torch.inf  # a contrast may leave fewer than are looked at
            heard = [row[own].tolist() for row, own in zip(locations, possible, strict=True)]
            step, voted = len(self._history), vote(heard)
            self._history.append(voted if len(voted) == len(self._from) else voted * len(self._from))
            self._states[step] = _State(self.beams.copy(), self._sums, self._remembered, *self._latest)
        return penalty

    def _return(self, kept: int) -> Tensor:
        """Go back to the step with `kept` answer tokens; return its log-probabilities, (beams, vocabulary)."""
        state, redone = self._states[kept], self._states[kept + 1]
        self.out.setdefault(kept, set()).update(zip(redone.rows, redone.tokens, strict=True))
        compat = self._options.compat_fp16
        for later in [at for at in self.out if (at == kept + 1 if compat else at > kept)]:
            del self.out[later]
        for later in range(kept + 1, len(self._history)):
            self._states.pop(later, None)
        del self._history[kept + 1 :]
        self.beams, self._sums = state.beams.copy(pools=not compat), state.sums
        self._rows = self.decoding.rows.taken(self._from)
        self._rows.reread(self.beams.said[0], state.memory)
        logits = self._rows.scores()
        rows, tokens = torch.tensor(sorted(self.out[kept]), device=logits.device).unbind(dim=1)
        return rule_out(logits, rows, tokens)

    def _feed(self, parents: Tensor, tried: Tensor | None) -> None:
        """Go on with the tokens that were chosen, from siblings that were read already if they are among them."""
        tokens = self.beams.said[0, :, -1]
        self._latest = parents.tolist(), tokens.tolist()
        matches = None if tried is None else tried[parents] == tokens[:, None]
        if matches is not None and matches.any(dim=1).all():
            siblings = matches.int().argmax(dim=1)
            self._rows.keep(parents, siblings, differing=self.beams.said.shape[2] - 1)
            self._sums = self._grown[parents, siblings]
            return
        if tried is None:
            self._rows.select(parents)
        else:
            self._rows.keep(parents, None, differing=self.beams.said.shape[2] - 1)
        self._watch.on = self._looks
        self._rows.step(tokens)
        self._watch.on = False
        if self._looks:
            answer = self._watch.answer.to(self._sums.device)
            self._sums = add_rows(self._sums[parents], answer, self._options.scale_factor)[:, 0]

    def _settle(self) -> None:
        """Stream what no later step can take back."""
        if self.decoding.job.streamer is None:
            return
        first = earliest_rollback(self._history, self.tries, self._options, self._longest) if self._turns else None
        state = None if first is None else self._states.get(first)
        self.tell((state.beams if state is not None else self.beams).shared())

    def _finished(self) -> list[Tensor]:
        answers = self.beams.best(self.count)
        self.end(answers[0].tolist())
        return answers
