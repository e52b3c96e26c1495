"""Detect: which figures of the model tell the objects it makes up from those that are there.

Paper    None of its own: measures of arXiv:2412.13949 (T-VHD: lower at hallucinated words) and arXiv:2508.10552 (MDI,
         AEI), and the usual ones of uncertainty.
Items    One caption per picture, as CHAIR's.
Prompt   CHAIR's.
Rule     "mmhall": objects are found with our own vocabulary, as in CHAIR, behind a model's thoughts; one the annotation
         lacks is hallucinated.
Signals  Read off the unsteered model for the caption that a strategy wrote, where the object's word begins: at its
         first token, for what follows is nearly determined by it ("token='mean'": the mean over its tokens). Which
         way each points was fixed beforehand; a hallucinated object is expected to have
           a late *position* in the caption (token index): the baseline all others must beat, for hallucination grows
             with a caption's length, and what depends on the picture decays with it;
           a low *log-probability*, and a high *entropy* of the distribution the token was chosen from;
           a low *image gain* (log-probability minus that without the picture) and a low *image divergence*
             (Jensen-Shannon, between the distributions with and without it);
           a low *image share* of attention, mean over layers and heads;
           a high *MDI* and *AEI* of the text in the token's row, of early, middle and late layers
             (`mmhall.analysis`);
           a low *T-VHD*: the k largest head divergences of each layer, summed (all heads where there are fewer than k).
         Where a model has no such figure (attention to the picture in layers of its own), the signal is left empty.
Metrics  One table a signal. AUROC: how often, of one hallucinated and one supported mention, the former has the more
         suspect value; ties count half (numerator Mann-Whitney's U, denominator the pairs; 50 is chance). Minus
         position: what it exceeds position's by, on the same draws. At equal position: among pairs in the same tenth of
         positions only. Hallucinated: share of the mentions. Intervals by bootstrap over pictures.
Cost     Beside writing: every caption that names an object is read twice more in its batch, with and without the
         picture, in one pass each and none of it step by step; between them the head outputs of the caption's tokens
         are held, layers x tokens x hidden size. Seconds per answer in a report do not contain it.
Differs  No paper's set-up is repeated, so no figure compares with theirs. MDI and AEI are defined for whole answers;
         here they are taken of a single row, where AEI says in other words what MDI says. Strategies write different
         captions, so a strategy's AUROC is not tested against the baseline's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmhall.adapters import Request
from mmhall.analysis import GROUPS, AnswerScores, score_answers
from mmhall.benchmarks.base import Counts, Item, Metric
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.pictures import PictureBenchmark, PictureSet
from mmhall.benchmarks.data.vocabulary import Mention, looked_for
from mmhall.benchmarks.evaluation import Cell, Evaluation
from mmhall.benchmarks.rules.thoughts import blanked
from mmhall.errors import DataError
from mmhall.images import open_image
from mmhall.options import option
from mmhall.results.separation import Flags, Labels, Separation, quantile_strata
from mmhall.results.statistics import Array, Estimate, Resampler
from mmhall.results.store import Row
from mmhall.words import spans_of, tokens_within

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
STRATA = 10
Values = list[float | None]


@dataclass(frozen=True)
class Detect(PictureBenchmark):
    """Signals of hallucination, judged on the objects that captions name.

    Attributes:
        rule: Which words name which object.
        token: Where a word of several tokens is read: at the first, or on average.
        k: Head divergences that T-VHD sums in each layer.
        max_new_tokens: Most tokens a caption may have.
    """

    name: ClassVar[str] = "detect"
    groups: ClassVar[tuple[str, ...]] = tuple(SIGNALS)
    metrics: ClassVar[tuple[Metric, ...]] = (  # pairs of mentions reach across captions: `evaluate` counts them
        Metric("AUROC", {"pairs won": 1}, {"pairs": 1}, "higher"),
        Metric("minus position", {"pairs won": 1, "pairs won by position": -1}, {"pairs": 1}, "higher"),
        Metric("at equal position", {"close pairs won": 1}, {"close pairs": 1}, "higher"),
        Metric("hallucinated", {"absent": 1}, {"named": 1}),
    )

    rule: str = option("mmhall", choices=("mmhall",))
    token: str = option("first", choices=("first", "mean"))
    k: int = option(8, low=1)
    max_new_tokens: int = option(128, low=1)

    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Ask for one caption per picture that shows anything."""
        return Chair().items(pictures, seed)

    def count(self, item: Item, text: str) -> Counts:
        """Count the objects a caption names, and those that are not there."""
        marks = self.mark(item, text)
        return {"n": 1, "named": len(marks), "absent": sum(not right for *_, right in marks)}

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark each object named."""
        return [(m.start, m.end, m.name in item.truth["objects"]) for m in _found(item, text)]

    def claims(self, item: Item, text: str) -> Mapping[str, bool]:
        """Return the objects named, whatever the words, and whether each is there."""
        return {m.name: m.name in item.truth["objects"] for m in _found(item, text)}

    def measure(
        self, lvlm: LVLM, asked: Sequence[tuple[Item, Path | None]], answers: Sequence[Answer]
    ) -> list[dict[str, Any] | None]:
        """Return the signals of every object named: {"signals": names, "mentions": [{"name", ..., "values"}]}."""
        named = [_found(item, answer.text) for (item, _), answer in zip(asked, answers, strict=True)]
        kept: list[dict[str, Any]] = [{"signals": list(SIGNALS), "mentions": []} for _ in answers]
        chosen = [number for number, found in enumerate(named) if found]
        if not chosen:
            return list(kept)
        adapter, ids = lvlm.adapter, [answers[number].token_ids for number in chosen]
        requests = [Request(i.prompt, (open_image(p),) if p else ()) for i, p in (asked[n] for n in chosen)]
        scored = score_answers(adapter, adapter.inputs(requests), ids, heads=True)
        for number, found in zip(chosen, scored, strict=True):
            places = tokens_of(adapter.tokenizer, answers[number], named[number])
            for mention, wrote in zip(named[number], places, strict=True):
                read = wrote if self.token == "mean" else wrote[:1]
                kept[number]["mentions"].append(
                    _entry(mention, wrote[0], [_values(found, self.k, token) for token in read])
                )
        return list(kept)

    def evaluate(self, items: Sequence[Item], rows: Sequence[Row], strategies: Sequence[str]) -> Evaluation:
        """Judge every signal on the mentions of the captions that all strategies have written.

        Raises:
            DataError: An answer has no signals, or damaged ones.
        """
        general = super().evaluate(items, rows, strategies)  # costs and numbers; no item is of a group, so no cells
        answers = {(row.item, row.strategy): row for row in rows if row.error is None}
        scored = [item for item in items if all((item.id, s) in answers for s in strategies)]
        if not scored:
            return general
        resampler = Resampler([item.cluster for item in scored])
        cells: list[Cell] = []
        for strategy in strategies:
            cells += self._cells(strategy, Named.of(scored, [answers[i.id, strategy] for i in scored]), resampler)
        size = len(scored), len({item.cluster for item in scored})
        return replace(general, cells=tuple(cells), sizes=dict.fromkeys(self.groups, size))

    def _cells(self, strategy: str, named: Named, resampler: Resampler) -> list[Cell]:
        judges: dict[bytes, _Judge] = {}
        made = []
        for column, (signal, sign) in enumerate(SIGNALS.items()):
            there = np.isfinite(named.values[:, column])
            same = there.tobytes()
            if same not in judges:
                judges[same] = _Judge(resampler, named, there)
            estimates = judges[same](sign * named.values[there, column])
            made += [
                Cell(self.name, signal, metric, strategy, estimate, None)
                for metric, estimate in zip(self.metrics, estimates, strict=True)
            ]
        return made


@dataclass(frozen=True, slots=True)
class Named:
    """Every object that some captions name; M mentions.

    Attributes:
        captions: How many captions.
        items: 0-based caption of each mention, (M,).
        absent: Whether it is hallucinated, (M,).
        values: Its signals in the order of `SIGNALS`, (M, signals); NaN where there is none.
    """

    captions: int
    items: Labels
    absent: Flags
    values: Array

    def per_caption(self, chosen: Flags) -> Array:
        """Count some of the mentions in each caption, (captions,)."""
        return np.bincount(self.items[chosen], minlength=self.captions).astype(np.float64)

    @classmethod
    def of(cls, items: Sequence[Item], rows: Sequence[Row]) -> Named:
        """Collect what was kept with some answers.

        Raises:
            DataError: An answer has no signals, or damaged ones.
        """
        told = [(n, name, values) for n, row in enumerate(rows) for name, values in _told(row)]
        absent = [name not in items[n].truth["objects"] for n, name, _ in told]
        return cls(
            len(items),
            np.array([n for n, _, _ in told], np.intp),
            np.array(absent, bool),
            np.array([values for *_, values in told], np.float64).reshape(len(told), len(SIGNALS)),
        )


class _Judge:
    """Judges signals that the same mentions have."""

    def __init__(self, resampler: Resampler, named: Named, there: Flags) -> None:
        items, absent, position = named.items[there], named.absent[there], named.values[there, 0]
        self._all = Separation(resampler, items, absent)
        self._close = Separation(resampler, items, absent, quantile_strata(position, STRATA))
        self._position = self._all.auroc(position)
        self._share = resampler.estimate(named.per_caption(there & named.absent), named.per_caption(there))

    def __call__(self, suspect: Array) -> tuple[Estimate, ...]:
        """Return what `Detect.metrics` names, of values that are high where a mention is suspect, (mentions,)."""
        found = self._all.auroc(suspect)
        return found.estimate(), found.minus(self._position), self._close.auroc(suspect).estimate(), self._share


def _found(item: Item, text: str) -> list[Mention]:
    """Find the objects that a caption names behind a model's thoughts, of those that the item's data knows."""
    return looked_for(item.truth).mentions(blanked(text))


def tokens_of(tokenizer: Any, answer: Answer, named: Sequence[Mention]) -> list[tuple[int, ...]]:
    """Return which tokens wrote each mention of an answer, 0-based and in order.

    Args:
        tokenizer: Decodes.
        answer: Its text is the decoded one without the white space around it, behind a mark of thoughts if a run has
            put one there.
        named: Mentions in its text.
    """
    text, spans = spans_of(tokenizer, answer.token_ids)
    written = text.lstrip()
    mark = next((at for at in range(len(answer.text)) if written.startswith(answer.text[at:])), 0)
    lead = len(text) - len(written) - mark
    return [tokens_within(spans, lead + mention.start, lead + mention.end) for mention in named]


def _values(scored: AnswerScores, k: int, token: int) -> Values:
    """Return the signals at one token, in the order of `SIGNALS`."""
    sure, balance, heads = scored.uncertainty, scored.dominance, scored.divergence
    parts = (sure.logprobs, sure.entropies, sure.image_gains, sure.image_divergences, sure.image_shares)
    groups = balance.of([token]).groups() if balance is not None else None
    told: Values = [float(token), *(None if part is None else part[token] for part in parts)]
    told += [groups[group][index] if groups else None for index in ("mdi", "aei_text") for group in GROUPS]
    return [*told, None if heads is None else float(heads.per_token(min(k, heads.values.shape[2]))[token])]


def _entry(mention: Mention, token: int, values: Sequence[Values]) -> dict[str, Any]:
    """Write a mention as it is kept: where it stands, and each signal's mean over the tokens that count."""
    means = [math.nan if None in column else float(np.mean(column)) for column in zip(*values, strict=True)]
    return {
        "name": mention.name,
        "start": mention.start,
        "end": mention.end,
        "token": token,
        "values": [float(f"{mean:.6g}") if math.isfinite(mean) else None for mean in means],
    }


def _told(row: Row) -> list[tuple[str, list[float]]]:
    """Read the mentions kept with an answer: names and signals."""
    try:
        if row.extra is None or row.extra["signals"] != list(SIGNALS):
            raise ValueError("other signals" if row.extra else "none")
        told = [
            (str(entry["name"]), [math.nan if value is None else float(value) for value in entry["values"]])
            for entry in row.extra["mentions"]
        ]
        if any(len(values) != len(SIGNALS) for _, values in told):
            raise ValueError("too few or too many values")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"detect: the answer of {row.strategy} to item {row.item} has no signals that can be read ({error}); they "
            "are measured while a run answers, so run `mmhall bench detect` into a new folder"
        ) from error
    return told
