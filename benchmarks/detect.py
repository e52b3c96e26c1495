"""Detect: which signals of the model separate hallucinated objects from supported ones.

Paper    None of its own: measures of arXiv:2412.13949 (T-VHD: lower at hallucinated words) and arXiv:2508.10552 (MDI,
         AEI), and the usual ones of uncertainty.
Items    One caption per picture, as CHAIR's.
Prompt   CHAIR's.
Rule     "mmhall": objects are found with mmhall's own vocabulary, as in CHAIR, after a model's thoughts; an object
         missing in the annotation is hallucinated.
Signals  Measured on the unsteered model for the caption of a strategy, where the object's word begins: at its
         first token, which nearly determines the next ones ("token='mean'": the mean over its tokens). The direction
         of each signal was fixed beforehand; a hallucinated object is expected to have
           a late *position* in the caption (token index): the baseline all others must beat, as hallucination grows
             with the length of a caption, and the influence of the picture decays with it;
           a low *log-probability*, and a high *entropy* of the distribution the token was chosen from;
           a low *image gain* (log-probability minus that without the picture) and a low *image divergence*
             (Jensen-Shannon, between the distributions with and without it);
           a low *image share* of attention, mean over layers and heads;
           a high *MDI* and *AEI* of the text in the token's row, of early, middle and late layers
             (`mmhall.analysis`);
           a low *T-VHD*: the k largest head divergences of each layer, summed (all heads where there are fewer than k);
         and, if `relevance` is given (arXiv:2307.01379; `evidence/relevance.py`),
           a high *token SAR*: -log p, weighted by the token's relevance in the caption;
           with `samples`, a high *sentence SAR* of the caption among them, a low *agreement* of the object's sentence
             with them, and few samples in which it is *named again* (ours).
         A signal that a model lacks (attention to the picture in separate layers) is left empty.
Metrics  A table per signal. AUROC: how often, of one hallucinated and one supported mention, the former has the more
         suspect value; ties count half (numerator Mann-Whitney's U, denominator the pairs; 50 is chance). Minus
         position: its difference from position's, on the same draws. At equal ...: pairs within strata only, since a
         signal may know nothing but the stratum. Position: tenths of the positions. Mention: first mentions of an
         object in a caption, and repeated ones. Frequency: thirds, by the number of pictures that hold the object.
         All three: mentions that are alike in all of them; a claim rests on these, as each confound can hide another.
         Hallucinated: share of the mentions. Intervals by bootstrap over pictures.
Cost     Beside generation: captions that name an object are teacher-forced twice in their batch, with and without the
         picture, in one pass each; between them the head outputs of the caption's tokens
         are stored, layers x tokens x hidden size. `relevance` reads captions once more, and each of n `samples` costs
         an answer and a pass: n samples cost as much as n more captions. Seconds per answer in a report include none.
Differs  No paper's set-up is repeated, so figures do not compare with theirs. MDI and AEI are meant for whole answers;
         here they are computed for one row, where both carry the same information. Strategies write different
         captions, so a strategy's AUROC is not tested against the baseline's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmhall.adapters import Request
from mmhall.analysis import GROUPS, AnswerScores, score_answers
from mmhall.benchmarks.base import Counts, Figures, Item, Material, Metric, Source
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.pictures import PictureBenchmark, PictureSet
from mmhall.benchmarks.data.vocabulary import Mention, item_vocabulary
from mmhall.benchmarks.evaluation import Cell, Evaluation
from mmhall.benchmarks.evidence import Lineup
from mmhall.benchmarks.evidence.mentions import tokens_of
from mmhall.benchmarks.evidence.relevance import STATES, Relevant, load_relevance, read_captions
from mmhall.benchmarks.rules.thoughts import blank_thoughts
from mmhall.errors import DataError
from mmhall.images import open_image
from mmhall.options import option
from mmhall.results.separation import Flags, Labels, Separation, quantile_strata
from mmhall.results.statistics import Array, Estimate, Resampler
from mmhall.results.store import Row
from mmhall.similarity import SIMILARITY_NAMES, is_similarity_name, load_similarity

if TYPE_CHECKING:
    from mmhall.answers import Answer
    from mmhall.lvlm import LVLM

SIGNALS: dict[str, int] = {  # 1: high values are suspect, -1: low ones
    "position": 1,
    "log-probability": -1,
    "entropy": 1,
    "image gain": -1,
    "image divergence": -1,
    "image share": -1,
    "MDI early": 1,
    "MDI middle": 1,
    "MDI late": 1,
    "AEI early": 1,
    "AEI middle": 1,
    "AEI late": 1,
    "T-VHD": -1,
}
RELEVANCE: dict[str, int] = {"token SAR": 1}
SAMPLES: dict[str, int] = {"sentence SAR": 1, "agreement": -1, "named again": -1}
RELEVANCE_NAMES = f'"{STATES}" for the model\'s own states, {SIMILARITY_NAMES}'
POSITIONS = 10  # strata of positions
STRATA = ("position", "mention", "frequency", "all three")
Values = list[float | None]


@dataclass(frozen=True)
class Detect(PictureBenchmark):
    """Signals of hallucination, evaluated on the objects that captions name.

    Attributes:
        rule: Rule that finds objects in captions.
        token: Where a word of several tokens is measured: at the first token, or on average.
        k: Number of head divergences that T-VHD sums in each layer.
        relevance: What tells how much a token matters: "states", "jaccard", or a model of `mmhall.similarity`; "":
            SAR is not measured.
        samples: Number of answers that are drawn beside each caption, >= 0; they need `relevance`. The paper has 5.
        max_new_tokens: Limit of tokens of a caption.
    """

    name: ClassVar[str] = "detect"
    leading: ClassVar[tuple[tuple[str, str], ...]] = tuple(
        (signal, f"at equal {STRATA[-1]}") for signal in ("entropy", "log-probability", "image gain")
    )
    metrics: ClassVar[tuple[Metric, ...]] = (  # pairs of mentions reach across captions: `evaluate` counts them
        Metric("AUROC", {"pairs won": 1}, {"pairs": 1}, "higher"),
        Metric("minus position", {"pairs won": 1, "pairs won by position": -1}, {"pairs": 1}, "higher"),
        *(Metric(f"at equal {what}", {f"{what} pairs won": 1}, {f"{what} pairs": 1}, "higher") for what in STRATA),
        Metric("hallucinated", {"absent": 1}, {"named": 1}),
    )

    rule: str = option("mmhall", choices=("mmhall",))
    token: str = option("first", choices=("first", "mean"))
    k: int = option(8, low=1)
    relevance: str = option(
        "", holds=lambda name: name in ("", STATES) or is_similarity_name(name), expected=RELEVANCE_NAMES
    )
    samples: int = option(0, low=0)
    max_new_tokens: int = option(128, low=1)

    def __post_init__(self) -> None:
        """Check the options together.

        Raises:
            OptionError: Samples are asked for without a relevance.
        """
        super().__post_init__()
        self.check("samples", self.samples == 0 or bool(self.relevance), "0 unless relevance is given")

    @property
    def signals(self) -> dict[str, int]:
        """The signals that these options measure: 1 if high values are suspect, -1 if low ones."""
        return SIGNALS | (RELEVANCE if self.relevance else {}) | (SAMPLES if self.samples else {})

    @property
    def groups(self) -> tuple[str, ...]:  # type: ignore[override]
        """A group for each signal."""
        return tuple(self.signals)

    def material(self, source: Source) -> Material:
        """Check the relevance, then read the pictures and make the items.

        Raises:
            ModelError: There is no model of that name, or it gives no similarity.
            DataError: The data is missing, malformed, or insufficient.
        """
        if source.pictures and self.relevance not in ("", STATES):
            load_similarity(self.relevance)
        return super().material(source)

    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Ask for one caption of each picture with objects."""
        return Chair().items(pictures, seed)

    def count(self, item: Item, text: str) -> Counts:
        """Count the objects a caption names, and the hallucinated ones."""
        marks = self.mark(item, text)
        return {"n": 1, "named": len(marks), "absent": sum(not right for *_, right in marks)}

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark each object named."""
        return [(m.start, m.end, m.name in item.truth["objects"]) for m in _find_mentions(item, text)]

    def claims(self, item: Item, text: str) -> Mapping[str, bool]:
        """Return the objects named, and whether each is in the picture."""
        return {m.name: m.name in item.truth["objects"] for m in _find_mentions(item, text)}

    def measure(
        self, lvlm: LVLM, questions: Sequence[tuple[Item, Path | None]], answers: Sequence[Answer]
    ) -> list[dict[str, Any] | None]:
        """Return the signals of every object named: {"signals": names, "mentions": [{"name", ..., "values"}]}."""
        named = [_find_mentions(item, answer.text) for (item, _), answer in zip(questions, answers, strict=True)]
        records: list[dict[str, Any]] = [{"signals": list(self.signals), "mentions": []} for _ in answers]
        chosen = [number for number, mentioned in enumerate(named) if mentioned]
        if not chosen:
            return list(records)
        adapter, ids = lvlm.adapter, [answers[number].token_ids for number in chosen]
        requests = [Request(i.prompt, (open_image(p),) if p else ()) for i, p in (questions[n] for n in chosen)]
        scored = score_answers(adapter, adapter.inputs(requests), ids, heads=True)
        relevant = self._relevant(lvlm, [questions[n] for n in chosen], [answers[n] for n in chosen])
        for number, mentioned, further in zip(chosen, scored, relevant, strict=True):
            places = tokens_of(adapter.tokenizer, answers[number], named[number])
            for mention, wrote in zip(named[number], places, strict=True):
                read = wrote if self.token == "mean" else wrote[:1]
                values = [_values(mentioned, self.k, token) + further(mention, token) for token in read]
                records[number]["mentions"].append(_entry(mention, wrote[0], values))
        return list(records)

    def _relevant(
        self, lvlm: LVLM, questions: Sequence[tuple[Item, Path | None]], answers: Sequence[Answer]
    ) -> Sequence[Callable[[Mention, int], Values]]:
        """Return, for each caption, a function of a mention and a token that gives the signals of `relevance`."""
        if not self.relevance:
            return [lambda mention, token: [] for _ in answers]

        def find(item: Item, text: str) -> list[str]:
            return [mention.name for mention in _find_mentions(item, text)]

        relevance = load_relevance(self.relevance, lvlm)
        read = read_captions(lvlm, relevance, questions, answers, find, self.samples, self.max_new_tokens)
        return [partial(_further, caption) for caption in read]

    def evaluate(
        self,
        items: Sequence[Item],
        rows: Sequence[Row],
        strategies: Sequence[str],
        lineup: Lineup | None = None,
        only: Figures | None = None,
    ) -> Evaluation:
        """Evaluate every signal on the items that all strategies have answered, whatever `only` names.

        Raises:
            DataError: An answer has no signals, or damaged signals.
        """
        general = super().evaluate(
            items, rows, strategies, lineup
        )  # costs and numbers; no item is of a group, so no cells
        answers = {(row.item, row.strategy): row for row in rows if row.error is None}
        scored = [item for item in items if all((item.id, s) in answers for s in strategies)]
        if not scored:
            return general
        resampler = Resampler([item.cluster for item in scored])
        cells: list[Cell] = []
        for strategy in strategies:
            rows = [answers[i.id, strategy] for i in scored]
            cells += self._cells(strategy, Mentions.of(scored, rows, tuple(self.signals)), resampler)
        size = len(scored), len({item.cluster for item in scored})
        return replace(general, cells=tuple(cells), sizes=dict.fromkeys(self.groups, size))

    def _cells(self, strategy: str, named: Mentions, resampler: Resampler) -> list[Cell]:
        judges: dict[bytes, _SignalScorer] = {}
        cells = []
        for column, (signal, sign) in enumerate(self.signals.items()):
            has_value = np.isfinite(named.values[:, column])
            key = has_value.tobytes()
            if key not in judges:
                judges[key] = _SignalScorer(resampler, named, has_value)
            estimates = judges[key](sign * named.values[has_value, column])
            cells += [
                Cell(self.name, signal, metric, strategy, estimate, None)
                for metric, estimate in zip(self.metrics, estimates, strict=True)
            ]
        return cells


@dataclass(frozen=True, slots=True)
class Mentions:
    """The objects named in captions; M mentions.

    Attributes:
        captions: Number of captions.
        items: 0-based caption of each mention, (M,).
        absent: Whether each mention is hallucinated, (M,).
        values: Signals of each mention in the order of `Detect.signals`, (M, signals); NaN for a missing signal.
        repeated: Whether the caption has named the object before, (M,).
        frequencies: Number of pictures whose annotation holds the object of each mention, (M,).
    """

    captions: int
    items: Labels
    absent: Flags
    values: Array
    repeated: Flags
    frequencies: Array

    def per_caption(self, chosen: Flags) -> Array:
        """Count the chosen mentions in each caption, (captions,)."""
        return np.bincount(self.items[chosen], minlength=self.captions).astype(np.float64)

    def strata(self, chosen: Flags) -> list[Labels]:
        """Return the strata of the chosen mentions by each of `STRATA`, (chosen mentions,) each."""
        position = quantile_strata(self.values[chosen, 0], POSITIONS)
        mention = self.repeated[chosen].astype(np.intp)
        frequency = quantile_strata(self.frequencies[chosen], 3)
        return [position, mention, frequency, (2 * position + mention) * 3 + frequency]

    @classmethod
    def of(cls, items: Sequence[Item], rows: Sequence[Row], signals: Sequence[str] = tuple(SIGNALS)) -> Mentions:
        """Collect the mentions stored with answers.

        Args:
            items: The items.
            rows: The answer to each item.
            signals: The signals that must be stored with them.

        Raises:
            DataError: An answer has no signals, or damaged signals.
        """
        mentions = [(n, name, values) for n, row in enumerate(rows) for name, values in _read_mentions(row, signals)]
        absent = [name not in items[n].truth["objects"] for n, name, _ in mentions]
        said = [(n, name) for n, name, _ in mentions]
        first = {one: place for place, one in reversed(list(enumerate(said)))}
        holding = Counter(name for _, name in {(i.cluster, name) for i in items for name in i.truth["objects"]})
        return cls(
            len(items),
            np.array([n for n, _, _ in mentions], np.intp),
            np.array(absent, bool),
            np.array([values for *_, values in mentions], np.float64).reshape(len(mentions), len(signals)),
            np.array([first[one] < place for place, one in enumerate(said)], bool),
            np.array([holding[name] for _, name in said], np.float64),
        )


class _SignalScorer:
    """AUROC of signals that are known for the same mentions."""

    def __init__(self, resampler: Resampler, named: Mentions, has_value: Flags) -> None:
        items, absent = named.items[has_value], named.absent[has_value]
        self._all = Separation(resampler, items, absent)
        self._within = [Separation(resampler, items, absent, strata) for strata in named.strata(has_value)]
        self._position = self._all.auroc(named.values[has_value, 0])
        self._share = resampler.estimate(named.per_caption(has_value & named.absent), named.per_caption(has_value))

    def __call__(self, suspect: Array) -> tuple[Estimate, ...]:
        """Return the estimates of `Detect.metrics` for values that are high for suspect mentions, (mentions,)."""
        auroc = self._all.auroc(suspect)
        within = [strata.auroc(suspect).estimate() for strata in self._within]
        return auroc.estimate(), auroc.minus(self._position), *within, self._share


def _find_mentions(item: Item, text: str) -> list[Mention]:
    """Find the objects that a caption names after a model's thoughts, with the vocabulary of the item's data."""
    return item_vocabulary(item.truth).mentions(blank_thoughts(text))


def _values(scored: AnswerScores, k: int, token: int) -> Values:
    """Return the signals at one token, in the order of `SIGNALS`."""
    sure, balance, heads = scored.uncertainty, scored.dominance, scored.divergence
    parts = (sure.logprobs, sure.entropies, sure.image_gains, sure.image_divergences, sure.image_shares)
    groups = balance.of([token]).groups() if balance is not None else None
    signals: Values = [float(token), *(None if part is None else part[token] for part in parts)]
    signals += [groups[group][index] if groups else None for index in ("mdi", "aei_text") for group in GROUPS]
    return [*signals, None if heads is None else float(heads.per_token(min(k, heads.values.shape[2]))[token])]


def _further(caption: Relevant, mention: Mention, token: int) -> Values:
    """Return the signals of `RELEVANCE`, and with samples of `SAMPLES`, at one token of a mention."""
    values: Values = [caption.weighted[token]]
    if caption.sentence is not None:
        values += [caption.sentence, caption.agreement_at(mention.start), caption.named_again(mention.name)]
    return values


def _entry(mention: Mention, token: int, values: Sequence[Values]) -> dict[str, Any]:
    """Return the record of a mention: its place, and the mean of each signal over the measured tokens."""
    means = [math.nan if None in column else float(np.mean(column)) for column in zip(*values, strict=True)]
    return {
        "name": mention.name,
        "start": mention.start,
        "end": mention.end,
        "token": token,
        "values": [float(f"{mean:.6g}") if math.isfinite(mean) else None for mean in means],
    }


def _read_mentions(row: Row, signals: Sequence[str]) -> list[tuple[str, list[float]]]:
    """Return the mentions stored with an answer: names and signals."""
    try:
        if row.extra is None or row.extra["signals"] != list(signals):
            raise ValueError("other signals" if row.extra else "none")
        mentions = [
            (str(entry["name"]), [math.nan if value is None else float(value) for value in entry["values"]])
            for entry in row.extra["mentions"]
        ]
        if any(len(values) != len(signals) for _, values in mentions):
            raise ValueError("too few or too many values")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"detect: the answer of {row.strategy} to item {row.item} has no signals that can be read ({error}); they "
            "are measured while a run answers, so run `mmhall bench detect` into a new folder"
        ) from error
    return mentions
