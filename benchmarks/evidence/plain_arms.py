"""What needs no method to say less in a caption: the baseline's captions made shorter, and the plain model's own arms.

Cuts       The first 20, 30, 40, 60 or 80 words; all but the last one or two sentences.
Filters    Without the mentions of least log-probability (6 quantiles), or without those that the model denies when it
           is asked about them; where a run has stored both (`mentions`). The text around a mention stays.
Matched    As many words, or as many mentions, as the strategy's caption of that picture has; and the most probable
           mentions, as many in all captions together as the strategy has.
Others     The caption as it is, and the plain controls of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from mmhall.benchmarks.base import Array, Benchmark, Counts, Item
from mmhall.benchmarks.evidence.lineup import Lineup
from mmhall.benchmarks.evidence.mentions import Certainty
from mmhall.benchmarks.rules.length import WORDS, count_words, cut, drop_sentences
from mmhall.benchmarks.rules.thoughts import blank_thoughts
from mmhall.results.store import Row

SENTENCES = (1, 2)
QUANTILES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)  # of the mentions, by log-probability
DELETED = "deleted"  # last word of the names of filters
WHOLE, DENIED = "whole captions", f"denied mentions {DELETED}"
SAME_LENGTH, SAME_MENTIONS, SAME_FILTER = (
    "as many words",
    "as many mentions",
    "as many mentions, the most probable ones",
)
_GAP = "…"  # takes the place of a mention: words around it must not join to a name


def shared_arms(
    benchmark: Benchmark,
    items: Sequence[Item],
    rows: Mapping[str, Sequence[Row]],
    counts: Mapping[str, Sequence[Counts]],
    lineup: Lineup,
    certainties: Sequence[Sequence[Certainty]] | None,
) -> dict[str, Sequence[Counts]]:
    """Return the counts of the arms that all strategies are compared with, by name.

    Args:
        benchmark: The benchmark.
        items: Items of the group.
        rows: Strategy to its captions, in the order of the items.
        counts: Strategy to the counts of its captions.
        lineup: The part of each strategy.
        certainties: Those of the mentions of the baseline's captions; None: not known.
    """
    base = lineup.arms[0]
    texts = [blank_thoughts(row.text) for row in rows[base]]
    shortened = {name: [shorten(text) for text in texts] for name, shorten in _cuts().items()}
    shortened |= _filtered(texts, certainties)
    return {
        **{
            name: _count(benchmark, items, rows[base], changed)
            for name, changed in shortened.items()
            if changed != texts
        },
        **{name: counts[name] for name in lineup.plain_captions},
        WHOLE: counts[base],
    }


def matched_arms(
    benchmark: Benchmark,
    items: Sequence[Item],
    base: Sequence[Row],
    rows: Sequence[Row],
    ends: Sequence[Sequence[int]],
    certainties: Sequence[Sequence[Certainty]] | None,
) -> dict[str, Sequence[Counts]]:
    """Return the counts of the baseline's captions, cut to the words, and to the mentions, of another strategy's.

    Args:
        benchmark: The benchmark.
        items: Items of the group.
        base: The baseline's captions, in the order of the items.
        rows: The strategy's captions.
        ends: Ends of the mentions of each of the baseline's captions (`mention_ends`).
        certainties: Those of the mentions of the baseline's captions; None: not known.
    """
    words, mentions, total = list[str](), list[str](), 0
    for item, old, new, stops in zip(items, base, rows, ends, strict=True):
        text = blank_thoughts(old.text)
        words.append(cut(text, count_words(blank_thoughts(new.text))))
        most = len(benchmark.mark(item, new.text))
        total += most
        mentions.append(text if most >= len(stops) else text[: stops[most - 1]] if most else "")
    named = {SAME_LENGTH: words, SAME_MENTIONS: mentions}
    if certainties is not None and total:
        texts, logprobs = [blank_thoughts(row.text) for row in base], _logprobs(certainties)
        least = float(logprobs[-min(total, len(logprobs))]) if len(logprobs) else 0.0
        named[SAME_FILTER] = _kept(texts, certainties, partial(_is_probable, least=least))
    return {name: _count(benchmark, items, base, changed) for name, changed in named.items()}


def mention_ends(benchmark: Benchmark, items: Sequence[Item], rows: Sequence[Row]) -> list[list[int]]:
    """Return where the mentions of captions end, in characters, in order."""
    return [[end for _, end, _ in benchmark.mark(i, row.text)] for i, row in zip(items, rows, strict=True)]


def _cuts() -> dict[str, Callable[[str], str]]:
    cuts: dict[str, Callable[[str], str]] = {f"first {n} words": partial(cut, words=n) for n in WORDS}
    return cuts | {
        f"without the last {'sentence' if n == 1 else f'{n} sentences'}": partial(drop_sentences, count=n)
        for n in SENTENCES
    }


def _filtered(texts: Sequence[str], certainties: Sequence[Sequence[Certainty]] | None) -> dict[str, list[str]]:
    """Return captions without some of their mentions, by name; none where nothing is stored of them."""
    if certainties is None or not any(certainties):
        return {}
    least = np.quantile(_logprobs(certainties), QUANTILES)
    kept: dict[str, Callable[[Certainty], bool]] = {
        f"least probable {quantile:.0%} {DELETED}": partial(_is_probable, least=float(floor))
        for quantile, floor in zip(QUANTILES, least, strict=True)
    }
    if all(one.yes is not None for own in certainties for one in own):
        kept[DENIED] = _is_confirmed
    return {name: _kept(texts, certainties, keep) for name, keep in kept.items()}


def _logprobs(certainties: Sequence[Sequence[Certainty]]) -> Array:
    """Return the log-probabilities of all mentions, the least one first."""
    return np.sort([one.logprob for own in certainties for one in own])


def _kept(
    texts: Sequence[str], certainties: Sequence[Sequence[Certainty]], keep: Callable[[Certainty], bool]
) -> list[str]:
    """Return captions without the mentions that are not kept."""
    captions = zip(texts, certainties, strict=True)
    return [_without(text, [one for one in own if not keep(one)]) for text, own in captions]


def _is_probable(mention: Certainty, least: float) -> bool:
    return mention.logprob >= least


def _is_confirmed(mention: Certainty) -> bool:
    return mention.yes is not None and mention.yes >= 0


def _without(text: str, mentions: Sequence[Certainty]) -> str:
    for mention in sorted(mentions, key=lambda one: -one.start):
        text = f"{text[: mention.start]}{_GAP}{text[mention.end :]}"
    return text


def _count(benchmark: Benchmark, items: Sequence[Item], rows: Sequence[Row], texts: Sequence[str]) -> list[Counts]:
    return benchmark.counts(items, [replace(row, text=text) for row, text in zip(rows, texts, strict=True)])
