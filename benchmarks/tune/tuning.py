"""Choice of a strategy's open options for a model, on pictures with known objects.

Pictures   split at random in two halves: options are chosen on the search half, and judged on the held-out half.
Search     from the published or general defaults, one option after the other: every value of its `tries` with the
           others fixed, then the best value; all options twice. Parts of a composition are tuned together. Greedy is
           always answered, too.
Choice     candidates within one standard error of the best are equal (paired bootstrap of the difference to the
           best). Of these, if some are better than greedy, the one of them with the fewest options changed from the
           defaults; then the weakest, which changes the fewest of greedy's answers; then the one tried first. If
           none is better than greedy, the weakest of the equal ones: the least harmful.
Judgement  chosen options against greedy and against the defaults on the held-out half, with a 95 % interval. They help
           if a paired permutation test by picture says so at 5 %, its p-value times the number of candidates tried, on
           at least 100 held-out pictures; on fewer, nothing is decided. The rule is the same for every strategy. The
           candidates were compared on other pictures, so that the correction errs on the safe side.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmhall.benchmarks.data.pictures import PictureSet
from mmhall.benchmarks.tune.log import TuningLog
from mmhall.benchmarks.tune.objective import Figures, Gain, Progress, Scored, Sheet
from mmhall.errors import DataError, GenerationError, OptionError
from mmhall.lvlm import LVLM
from mmhall.options import rules
from mmhall.strategies import Composed, Strategy, strategy
from mmhall.strategies.tuned import open_options

ROUNDS = 2
LEAST, LEAST_HELD_OUT = 4, 100  # pictures to tune at all, and held-out ones to decide
LEVEL = 0.05
Key = tuple[int, str]  # number of the part, option


@dataclass(frozen=True, slots=True)
class Candidate:
    """A strategy tried in the search.

    Attributes:
        method: The strategy with all its options.
        moved: Number of options that differ from the defaults.
        figures: Figures on the search half.
        shortfall: Difference of the best candidate's objective from its own, on the search half.
    """

    method: Strategy
    moved: int
    figures: Figures
    shortfall: Gain


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of tuning.

    Attributes:
        requested: The strategy as given.
        origin: Provenance of its defaults, by option.
        searched: The search half, on which options were chosen.
        held_out: The held-out half, on which they were judged.
        greedy: Figures of greedy on both halves.
        tried: Every candidate, in the order of the search; the defaults first.
        failed: Strategies that the model could not decode with, and why.
        chosen: The chosen candidate.
        judged: Figures of the chosen strategy on the held-out half.
        default: Figures of the defaults on the held-out half.
        over_greedy: Chosen minus greedy, on the held-out half.
        over_default: Chosen minus defaults, on the held-out half.
    """

    requested: Strategy
    origin: Mapping[str, str]
    searched: Sheet
    held_out: Sheet
    greedy: tuple[Figures, Figures]
    tried: tuple[Candidate, ...]
    failed: Mapping[Strategy, str]
    chosen: Candidate
    judged: Figures
    default: Figures
    over_greedy: Gain
    over_default: Gain

    @property
    def promising(self) -> bool:
        """Whether any candidate was better than greedy on the search half."""
        return max(c.figures.objective for c in self.tried) > self.greedy[0].objective

    @property
    def p(self) -> float:
        """The p-value of chosen against greedy on the held-out half, corrected for the candidates tried."""
        return min(1.0, self.over_greedy.p * len(self.tried))

    @property
    def helps(self) -> bool:
        """Whether the strategy is shown to help; see the module's docstring for the rule."""
        enough = len(self.held_out.pictures) >= LEAST_HELD_OUT
        return enough and self.promising and self.over_greedy.value > 0 and self.p < LEVEL

    @property
    def verdict(self) -> str:
        """Whether the strategy helps, from the held-out half, in words."""
        if self.chosen.figures.changed == self.judged.changed == 0:
            return "does not help on this model: it changes no answer"
        pictures = len(self.held_out.pictures)
        if pictures < LEAST_HELD_OUT:
            needed = f"it takes {LEAST_HELD_OUT} held-out pictures, and there are {pictures}"
            return f"not decided: {needed}; use --n {2 * LEAST_HELD_OUT}"
        if not self.promising:
            return "not shown to help on this model: no values tried beat greedy; these are the least harmful ones"
        if self.over_greedy.value <= 0:
            return "not shown to help on this model: no better than greedy on pictures it was not tuned on"
        if not self.helps:
            return (
                f"not shown to help on this model: better than greedy, but by chance with p = {self.p:.2g}, corrected "
                f"for {len(self.tried)} candidates; more pictures may show it"
            )
        return "helps on this model"

    @property
    def options(self) -> dict[str, Any]:
        """The chosen options, and given options that depend on the model; for a composition as "vhr.layers"."""
        requested, chosen = parts_of(self.requested), parts_of(self.chosen.method)
        chosen_options = {}
        for before, after in zip(requested, chosen, strict=True):
            for option, rule in rules(type(after)).items():
                if rule.by_model and (option in open_options(before) or getattr(before, option) is not None):
                    chosen_options[f"{after.name}.{option}" if len(requested) > 1 else option] = getattr(after, option)
        return chosen_options


def tune(
    lvlm: LVLM,
    method: Strategy,
    sheets: tuple[Sheet, Sheet],
    *,
    batch_size: int = 16,
    progress: Progress = lambda answers: None,
    log: TuningLog | None = None,
) -> Tuned:
    """Choose the open options of a strategy.

    Args:
        lvlm: The model, loaded with tuned=False.
        method: The strategy; its given options stay unchanged.
        sheets: Search half and held-out half; see `halves`.
        batch_size: Items decoded together.
        progress: Called with the number of new answers; `expected` in total.
        log: Log of answers; logged answers are not asked again.

    Raises:
        OptionError: The strategy has nothing to tune, or the model was loaded with tuned options.
        GenerationError: The model cannot decode with the defaults.
        MmhallError: The strategy does not work with the model.
    """
    tries = tries_of(method)
    if lvlm.adapter.tuned:
        raise OptionError("tune", "model", lvlm.name, "loaded with tuned=False, so that its defaults are in force")
    default, (searched, held_out) = method.fitted(lvlm.adapter), sheets

    def answered(sheet: Sheet, candidate: Strategy) -> Scored:
        if log is None:
            return sheet.answer(lvlm, candidate, batch_size, progress)
        key = f"{'searched' if sheet is searched else 'held'} {candidate}"
        scored, stored = log.get_or_ask(key, lambda: sheet.answer(lvlm, candidate, batch_size, progress))
        progress(len(sheet) if stored else 0)
        return scored

    greedy, greedy_held_out = (answered(sheet, strategy("greedy")) for sheet in sheets)
    trials = _Trials(searched, default, greedy, lambda candidate: answered(searched, candidate), progress)
    _search(default, tries, trials.objective_of)
    candidates = _compare_candidates(searched, trials.tried, greedy, tries)
    chosen = choose(candidates, searched.figures(greedy, greedy).objective)
    judged, default_answers = (answered(held_out, candidate) for candidate in (chosen.method, default))
    return Tuned(
        requested=method,
        origin=method.origins(lvlm.adapter),
        searched=searched,
        held_out=held_out,
        greedy=(searched.figures(greedy, greedy), held_out.figures(greedy_held_out, greedy_held_out)),
        tried=candidates,
        failed=trials.failed,
        chosen=chosen,
        judged=held_out.figures(judged, greedy_held_out),
        default=held_out.figures(default_answers, greedy_held_out),
        over_greedy=held_out.gain(judged, greedy_held_out),
        over_default=held_out.gain(judged, default_answers),
    )


def halves(pictures: PictureSet, seed: int, max_new_tokens: int | None = None) -> tuple[Sheet, Sheet]:
    """Split pictures at random: a search half and a held-out half.

    Args:
        pictures: At least four pictures with known objects.
        seed: Seed of the split and of the questions.
        max_new_tokens: Limit of tokens of a caption; by default as in `mmhall bench`.

    Raises:
        DataError: There are too few pictures.
    """
    ids = [p.id for p in pictures.pictures]
    if len(ids) < LEAST:
        raise DataError(
            f"tune: {len(ids)} pictures are too few; it needs at least {LEAST}, and {2 * LEAST_HELD_OUT} to decide"
        )
    random.Random(f"tune/{seed}").shuffle(ids)
    half = (len(ids) + 1) // 2
    return Sheet(pictures, ids[:half], seed, max_new_tokens), Sheet(pictures, ids[half:], seed, max_new_tokens)


def expected(method: Strategy, sheets: tuple[Sheet, Sheet]) -> int:
    """Return the number of answers of a tuning, with logged answers.

    Raises:
        OptionError: The strategy has nothing to tune.
    """
    turns = 1 + ROUNDS * sum(map(len, tries_of(method).values()))
    return (1 + turns) * len(sheets[0]) + 3 * len(sheets[1])


def tries_of(method: Strategy) -> dict[Key, tuple[Any, ...]]:
    """Return the open options, by part, with the values to try.

    Raises:
        OptionError: There are no open options.
    """
    tries = {(n, o): values for n, part in enumerate(parts_of(method)) for o, values in open_options(part).items()}
    if not tries:
        raise OptionError("tune", "strategy", str(method), "one with an option left open for the model, such as vhr")
    return tries


def parts_of(method: Strategy) -> tuple[Strategy, ...]:
    """Return the parts of a composition, or the strategy itself."""
    return method.parts if isinstance(method, Composed) else (method,)


class _Trials:
    """The strategies tried on the search half; each is asked once."""

    def __init__(
        self, sheet: Sheet, default: Strategy, greedy: Scored, ask: Callable[[Strategy], Scored], progress: Progress
    ) -> None:
        self._sheet, self._default, self._greedy, self._ask, self._progress = sheet, default, greedy, ask, progress
        self.tried: dict[Strategy, Scored] = {}
        self.failed: dict[Strategy, str] = {}

    def objective_of(self, method: Strategy) -> float:
        """Return the objective of a strategy; minus infinity if the model cannot decode with it."""
        if method in self.tried or method in self.failed:
            self._progress(len(self._sheet))
        else:
            self._try(method)
        return self._sheet.figures(self.tried[method], self._greedy).objective if method in self.tried else -math.inf

    def _try(self, method: Strategy) -> None:
        try:
            self.tried[method] = self._ask(method)
        except GenerationError as error:
            if method == self._default:
                raise
            self.failed[method] = str(error)


def _search(start: Strategy, tries: Mapping[Key, tuple[Any, ...]], objective_of: Callable[[Strategy], float]) -> None:
    """Try the values of one option after the other, always from the best strategy so far."""
    best, most = start, objective_of(start)
    for _ in range(ROUNDS):
        for key, values in tries.items():
            base = best
            for value in values:
                candidate = _with_option(base, key, value)
                if (objective := objective_of(candidate)) > most:
                    best, most = candidate, objective


def _with_option(method: Strategy, key: Key, value: Any) -> Strategy:
    number, option = key
    parts = list(parts_of(method))
    parts[number] = replace(parts[number], **{option: value})
    return Composed(tuple(parts)) if isinstance(method, Composed) else parts[0]


def _compare_candidates(
    sheet: Sheet, tried: Mapping[Strategy, Scored], greedy: Scored, tries: Mapping[Key, tuple[Any, ...]]
) -> tuple[Candidate, ...]:
    """Compare candidates with the best one; the first one is the defaults."""
    figures = {method: sheet.figures(scored, greedy) for method, scored in tried.items()}
    best = tried[max(tried, key=lambda method: figures[method].objective)]
    default = next(iter(tried))

    def moves(method: Strategy) -> int:
        parts, default_parts = parts_of(method), parts_of(default)
        return sum(getattr(parts[n], option) != getattr(default_parts[n], option) for n, option in tries)

    return tuple(Candidate(m, moves(m), figures[m], sheet.gain(best, scored)) for m, scored in tried.items())


def choose(candidates: tuple[Candidate, ...], greedy: float) -> Candidate:
    """Choose among candidates by the rule in the module's docstring; the first of equal ones."""
    alike = [c for c in candidates if c.shortfall.value <= c.shortfall.error]
    better = [c for c in alike if c.figures.objective > greedy]
    if better:
        return min(better, key=lambda c: (c.moved, c.figures.changed))
    return min(alike, key=lambda c: c.figures.changed)
