"""Items behind a figure of a run: those that a strategy and the baseline count differently, and their stored answers.

An item is listed where it adds something else to the strategy's figure than to the baseline's. Its effect is what the
baseline's figure becomes if this item alone is answered by the strategy; items with the largest effects come first. For
a share of items, such as accuracy, the effects add up to the difference that the table shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from mmhall.benchmarks.base import Benchmark, Item, Metric
from mmhall.benchmarks.chair import VISIBILITIES
from mmhall.benchmarks.evaluation import MEAN
from mmhall.benchmarks.pope import SETTINGS
from mmhall.benchmarks.report.examples import Piece, data_url, pieces
from mmhall.benchmarks.report.sections import column_name
from mmhall.benchmarks.run.runs import Part
from mmhall.demo.runs import Cache, OpenRun, open_run, render
from mmhall.display.records import Truth, text_record
from mmhall.errors import ImageError, OptionError, RunError
from mmhall.images import open_image
from mmhall.results.store import Row

ANY = "any"
CAUSES = ("co-occurring", "adversarial", "popular", "random")
SIDES = ("better", "worse")
PAGE, SIDE = 20, 192


@dataclass(frozen=True, slots=True)
class Contested:
    """An item that a strategy and the baseline count differently.

    Attributes:
        item: The item.
        texts: The baseline's answer, and the strategy's.
        effect: Change of the baseline's figure if the strategy answers this item, in the figure's unit as shown.
        side: "better" or "worse" by this change; "" if it is neither.
        causes: Causes of absent objects that only one of the two names.
        visibilities: Visibilities of present objects that only one of the two names.
        only: Objects that only one of the two names: name, 0 for the baseline or 1, whether it is there.
    """

    item: Item
    texts: tuple[str, str]
    effect: float
    side: str
    causes: tuple[str, ...]
    visibilities: tuple[str, ...]
    only: tuple[tuple[str, int, bool], ...]


def items(
    root: Path,
    name: Any,
    benchmark: Any,
    group: Any,
    metric: Any,
    strategy: Any,
    cause: Any = ANY,
    visibility: Any = ANY,
    side: Any = ANY,
    offset: Any = 0,
) -> dict[str, Any]:
    """Return the items behind a figure of a run, some at a time: {html, shown, total}.

    Args:
        root: Folder of the runs.
        name: Name of the run.
        benchmark: Name of the benchmark.
        group: Name of the group.
        metric: Name of the metric.
        strategy: Strategy to compare with the baseline.
        cause: Keep items with a contested absent object of this cause: CHAIR's, or the setting of POPE's question.
        visibility: Keep items with a contested present object of this visibility.
        side: Keep items on which the strategy is "better" or "worse".
        offset: Number of items to pass over; from 0 on, the html has head and filters, else further items alone.

    Raises:
        RunError: There is no such run, benchmark, figure or strategy, or the run can no longer be read.
        OptionError: The offset is no number of items.
    """
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise OptionError("demo", "offset", offset, "a number of items, 0 or more")
    run = open_run(root, name)
    part = run.part(benchmark)
    figure = _metric(part, group, metric)
    run.check_strategy(strategy)
    contested = contested_items(run, benchmark, group, metric, strategy)
    chosen = {"cause": cause, "visibility": visibility, "side": side}
    kept = _filter(contested, chosen)
    page = kept[offset : offset + PAGE]
    html = render(
        "items.html",
        whole=offset == 0,
        page=[(one, _thumbnail(part, one.item), _answers(part, one)) for one in page],
        run=run.name,
        benchmark=benchmark,
        group=group,
        names=(run.strategies[0], strategy),
        figure=column_name(figure),
        filters=_choices(contested, chosen),
        asks=len({one.item.prompt for one in contested}) > 1,
        total=len(kept),
    )
    return {"html": html, "shown": offset + len(page), "total": len(kept)}


def stored_item(root: Path, name: Any, benchmark: Any, item: Any, strategy: Any) -> dict[str, Any]:
    """Return an item with the stored answers of the baseline and of a strategy; nothing is asked again.

    Args:
        root: Folder of the runs.
        name: Name of the run.
        benchmark: Name of the benchmark.
        item: Id of the item.
        strategy: The strategy.

    Returns:
        setup, without a picture; image, the picture as a data URL, "" if there is none; columns, a column record for
        each of the two; model, of the run; notes, what a reader must know.

    Raises:
        RunError: There is no such run, benchmark, item or strategy, or the run can no longer be read.
        ImageError: The picture can no longer be opened.
    """
    run = open_run(root, name)
    part = run.part(benchmark)
    chosen = next((candidate for candidate in part.items if candidate.id == item), None)
    if chosen is None:
        raise RunError(f"{benchmark} has no item {item!r} in this run; choose one of the list")
    run.check_strategy(strategy)
    truth, answers = item_truth(run, part, chosen), run.answers(benchmark)
    columns = [
        stored_record(part.benchmark, chosen, row, truth)
        for own in dict.fromkeys((run.strategies[0], strategy))
        if (row := answers.get(own, {}).get(chosen.id)) is not None
    ]
    setup = {
        "picture": None,
        "prompt": chosen.prompt,
        "strategies": [column["strategy"] for column in columns],
        "max_new_tokens": part.benchmark.max_new_tokens,
        "temperature": 0.0,
        "seed": 0,
        "present": None if truth.present is None else list(truth.present),
        "absent": None if truth.absent is None else list(truth.absent),
    }
    notes = [f"Stored answers of the run {run.name}: words without scores, as no tokens are stored."]
    return {
        "setup": setup,
        "image": _image(part, chosen),
        "columns": columns,
        "model": run.model,
        "notes": notes,
    }


def _thumbnail(part: Part, item: Item) -> str:
    return data_url(part.picture(item), SIDE, "jpeg")


def _answers(part: Part, one: Contested) -> tuple[Sequence[Piece], ...]:
    return tuple(pieces(part.benchmark, one.item, text) for text in one.texts)


def _image(part: Part, item: Item) -> str:
    """Return an item's picture as a data URL of its file's size; "" for an item without one.

    Raises:
        ImageError: It can no longer be opened.
    """
    path = part.picture(item)
    if path is None:
        return ""
    try:
        image = open_image(path)
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ").split(";")[0]
        raise ImageError(f"the picture {item.picture} of this item can no longer be shown: it {reason}") from error
    return data_url(path, max(image.size), "png")


def stored_record(benchmark: Benchmark, item: Item, row: Row, truth: Truth) -> dict[str, Any]:
    """Return the column record of a stored answer, judged by the benchmark's rule where that judges answers whole."""
    record = text_record(
        row.text,
        item.prompt,
        truth,
        strategy=row.strategy,
        state="cut" if row.stopped_by == "length" else "done",
        tokens=row.new_tokens,
        seconds=row.seconds,
    )
    claims = benchmark.claims(item, row.text)
    if "" in claims and item.truth.get("label") in ("yes", "no"):
        says = (record["verdict"] or {}).get("says", "")
        record["verdict"] = {"says": says, "truth": item.truth["label"], "right": claims[""]}
    return record


def item_truth(run: OpenRun, part: Part, item: Item) -> Truth:
    """Return what a run knows of an item's picture: all of its objects, by any benchmark, or the one asked about."""
    path = part.picture(item)
    for other in run.parts:
        for one in other.items:
            objects = one.truth.get("objects")
            if path is not None and isinstance(objects, list) and other.picture(one) == path:
                return Truth(tuple(objects))
    asked, label = item.truth.get("object"), item.truth.get("label")
    if not asked or label not in ("yes", "no"):
        return Truth()
    return Truth((asked,), ()) if label == "yes" else Truth((), (asked,))


def _find_contested(run: OpenRun, benchmark: str, group: str, metric: str, strategy: str) -> tuple[Contested, ...]:
    """Return the items behind a figure, those with the largest effects first."""
    part, figure, answers = run.part(benchmark), _metric(run.part(benchmark), group, metric), run.answers(benchmark)
    scored = [item for item in part.items if all(item.id in answers.get(own, ()) for own in run.everyone)]
    groups = [one for one in part.benchmark.grid if any(one in item.groups for item in scored)]
    own, base = answers.get(strategy, {}), answers.get(run.strategies[0], {})
    effects: dict[str, float] = {}
    for one in groups if group == MEAN else [group]:
        members = [item for item in scored for named in item.groups if named == one]
        for item, effect in _effects(part.benchmark, one, figure, members, own, base):
            effects[item.id] = effects.get(item.id, 0.0) + effect / (len(groups) if group == MEAN else 1)
    found = [
        _contest(part.benchmark, item, (base[item.id].text, own[item.id].text), figure, effects[item.id])
        for item in scored
        if item.id in effects
    ]
    return tuple(sorted(found, key=lambda one: -abs(one.effect)))


def _effects(
    benchmark: Benchmark,
    group: str,
    metric: Metric,
    members: Sequence[Item],
    own: Mapping[str, Row],
    base: Mapping[str, Row],
) -> list[tuple[Item, float]]:
    """Return the members that are counted differently, each with its effect on the baseline's figure."""
    rows, base_rows = ([each[item.id] for item in members] for each in (own, base))
    if group in benchmark.pairwise:
        counts, base_counts = benchmark.paired(members, rows, base_rows, group)
    else:
        counts, base_counts = benchmark.counts(members, rows), benchmark.counts(members, base_rows)
    terms, base_terms = metric.terms(counts), metric.terms(base_counts)
    totals = [term.sum() for term in base_terms]
    moved = metric.figure(*(total - b + o for total, b, o in zip(totals, base_terms, terms, strict=True)))
    effects = (moved - metric.figure(*totals)) * metric.scale
    differs = [any(o[i] != b[i] for o, b in zip(terms, base_terms, strict=True)) for i in range(len(members))]
    return [(item, float(e) if isfinite(e) else 0.0) for item, e, d in zip(members, effects, differs, strict=True) if d]


def _contest(benchmark: Benchmark, item: Item, texts: tuple[str, str], metric: Metric, effect: float) -> Contested:
    claims = [benchmark.claims(item, text) for text in texts]
    names = [name for claim in claims for name in claim if claims[0].get(name) != claims[1].get(name)]
    present = {name: any(claim.get(name, False) for claim in claims) for name in names}
    if "" in present:  # the whole answer: what is contested is the object asked about
        present[""] = item.truth.get("label") == "yes"
    gain = effect if metric.better == "higher" else -effect
    side = "" if not effect or metric.better is None else "better" if gain > 0 else "worse"
    only = tuple((name, int(name in claims[1]), present[name]) for name in names if name)
    return Contested(item, texts, effect, side, _causes(item, present), _visibilities(item, present), only)


def _causes(item: Item, present: Mapping[str, bool]) -> tuple[str, ...]:
    """Return the causes of contested hallucinations: CHAIR's of each object, or the settings of POPE's question."""
    hallucinated = [name for name, there in present.items() if not there]
    if "causes" in item.truth:
        return _ordered(CAUSES, [item.truth["causes"].get(name, "random") for name in hallucinated])
    if hallucinated == [""] and item.truth.get("label") == "no":
        return _ordered(CAUSES, [group for group in item.groups if group in SETTINGS])
    return ()


def _visibilities(item: Item, present: Mapping[str, bool]) -> tuple[str, ...]:
    """Return the visibilities of contested present objects: CHAIR's of each object, or that of POPE's question."""
    truth: Any = item.truth.get("visibility") or {}
    by_name = truth if isinstance(truth, Mapping) else {"": truth}
    return _ordered(VISIBILITIES, [by_name[name] for name, there in present.items() if there and by_name.get(name)])


def _ordered(order: Sequence[str], occurring: Sequence[str]) -> tuple[str, ...]:
    """Return the occurring names, each once: those of `order` first, then the others by name."""
    first = [name for name in order if name in occurring]
    return (*first, *sorted(set(occurring) - set(order)))


_FILTERS: Mapping[str, tuple[str, Callable[[Contested], tuple[str, ...]]]] = {
    "cause": ("Why it was made up", lambda one: one.causes),
    "visibility": ("How well it shows", lambda one: one.visibilities),
    "side": ("The strategy does", lambda one: (one.side,) if one.side else ()),
}


def _filter(contested: Sequence[Contested], chosen: Mapping[str, Any]) -> list[Contested]:
    return [one for one in contested if all(value in (ANY, *_FILTERS[name][1](one)) for name, value in chosen.items())]


def _choices(contested: Sequence[Contested], chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the filters: name, label, and each value with the number of items that it leaves beside the others."""
    orders = {"cause": CAUSES, "visibility": VISIBILITIES, "side": SIDES}
    filters = []
    for name, (label, values) in _FILTERS.items():
        others = _filter(contested, {other: value for other, value in chosen.items() if other != name})
        known = _ordered(orders[name], [value for one in contested for value in values(one)])
        counts = {value: sum(value in values(one) for one in others) for value in known}
        if known:
            filters.append({"name": name, "label": label, "chosen": chosen[name], "any": len(others), "counts": counts})
    return filters


def _metric(part: Part, group: Any, metric: Any) -> Metric:
    """Return a metric of a group.

    Raises:
        RunError: There is none of that name.
    """
    found = next((one for one in part.benchmark.metrics if one.name == metric), None)
    if found is None or group not in (*part.benchmark.groups, MEAN):
        raise RunError(f"{part.benchmark.name} has no figure {metric!r} of {group!r}; choose a cell of the table")
    return found


contested_items = Cache(_find_contested, 32)
