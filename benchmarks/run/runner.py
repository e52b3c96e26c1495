"""The runner: asks every item with every strategy and stores the answers as they are generated.

Batches    the same for the same run, for any number of workers and restarts: questions about one picture
           stay together (their shared prefix is computed once), items with and without a picture are separate, and
           batches have prompts of similar length.
Turns      strategies alternate batch by batch, with a rotating start, so that they are paired on items and
           their times are measured under the same conditions.
Leases     a worker claims a batch from the store before it answers it, so that several can share one run. A worker
           that dies loses its lease, but no committed answers.
Failures   an item that cannot be answered is recorded with its error and asked again when the run is continued;
           out of memory, the batch is halved.
Budgets    with a budget of positions or memory, items of a batch that do not fit wait, and join as others end
           (`LVLM.generate_many`). Batches, leases, seeds and answers stay the same.
Deaths     an item that kills its worker each time is isolated by asking its batch last and in pieces; after three
           deaths while it was asked alone, it is recorded with this error and not asked again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from mmhall.answers import Answer
from mmhall.benchmarks.base import COUNTED, Benchmark, Item
from mmhall.benchmarks.evidence.mentions import measure_mentions
from mmhall.benchmarks.evidence.threshold import SCORE, yes_score
from mmhall.benchmarks.evidence.unknown_words import measure_unknown
from mmhall.benchmarks.run.ahead import ReadAhead
from mmhall.benchmarks.run.inputs import ITEM_ERRORS, BatchInputs, reopen_thoughts
from mmhall.benchmarks.run.pictures import note_pictures
from mmhall.benchmarks.run.runs import Part, Run
from mmhall.collecting import collector_paused
from mmhall.errors import MmhallError, RunError, is_out_of_memory
from mmhall.generation import Budget
from mmhall.lvlm import LVLM
from mmhall.results.leases import STRIKES, Leases
from mmhall.results.store import Row, Store
from mmhall.strategies import Strategy

Progress = Callable[[int], None]

_WINDOW = 32  # batches within which items are sorted by length
_HOPELESS = 3  # pictures without any answer after which a run without answers stops
_FATAL = f"the process died {STRIKES} times while it was asked this item alone; it is not asked again in this run"
_POLL = 0.2  # seconds between two polls for batches that other workers have claimed


def answer(
    lvlm: LVLM,
    run: Run,
    part: Part,
    strategies: Sequence[Strategy],
    *,
    batch_size: int = 16,
    budget: Budget | None = None,
    progress: Progress = lambda answers: None,
    ahead: bool | None = None,
) -> None:
    """Generate the missing answers of one benchmark of a run.

    Args:
        lvlm: The model.
        run: The run; answers are committed to its store after every batch of one strategy.
        part: The benchmark and its items.
        strategies: Strategies of the run; each item is asked once with each.
        batch_size: Largest number of items decoded together.
        budget: What may be decoded of a batch at a time; None: all of it.
        progress: Called with the number of new answers and failures; at first with that of stored answers.
        ahead: Whether to read the next batch in a thread while one is answered; None: if the model is not on the CPU,
            whose cores it would take.

    Raises:
        RunError: The store cannot be written, or no item can be answered.
        MmhallError: A strategy does not work with the model.
    """
    store, name = run.store, part.benchmark.name
    made_batches = batches(part.items, batch_size)
    leases = Leases(store, name, len(made_batches))
    answered, warm = store.count_done(name), set[str]()
    ahead = lvlm.adapter.device.type != "cpu" if ahead is None else ahead
    progress(answered)
    with ReadAhead(lvlm, part) as reader:
        while not leases.is_finished():
            number = leases.claim()
            if number is None:
                time.sleep(_POLL)  # others work on what is left, unless they die
                continue
            done = store.done_in(name, number)
            pieces, given_up = split_batch(leases, part, made_batches[number], strategies, number, done)
            for items in pieces:
                note_pictures(store, part, items)
                with leases.note_asked(number, [item.id for item in items]):
                    asked = [each for each in strategies if any((item.id, str(each)) not in done for item in items)]
                    _warm_up(lvlm, part, items[0], [each for each in asked if str(each) not in warm])
                    warm |= set(map(str, asked))
                    inputs = reader.take(items)
                    if ahead and len(pieces) == 1:  # an item that kills the process gives no strikes to suspected ones
                        reader.begin(_upcoming(store, leases, part, made_batches, strategies))
                    for rows in answers(inputs, strategies, number, done, budget):
                        store.add(rows)
                        leases.renew()
                        progress(len(rows))
                        answered += sum(row.error is None for row in rows)
            store.add(given_up)
            progress(len(given_up))
            leases.finish(number)
            if not answered and not store.count_done(name):
                _refuse_hopeless(run, part)


def _upcoming(
    store: Store, leases: Leases, part: Part, made_batches: Sequence[Sequence[Item]], strategies: Sequence[Strategy]
) -> list[Item]:
    """Return the items that this process will probably ask next, together; none where that is not known."""
    number = leases.upcoming()
    if number is None:
        return []
    done = store.done_in(part.benchmark.name, number)
    pieces, _ = split_batch(leases, part, made_batches[number], strategies, number, done)
    return pieces[0] if len(pieces) == 1 else []


def split_batch(
    leases: Leases,
    part: Part,
    items: Sequence[Item],
    strategies: Sequence[Strategy],
    number: int,
    done: set[tuple[str, str]],
) -> tuple[list[list[Item]], list[Row]]:
    """Return the unanswered items of a batch, in pieces that are asked together, and failures for given-up items.

    Args:
        leases: Leases of the benchmark, with the strikes of its items.
        part: The benchmark.
        items: Items of the batch.
        strategies: All strategies of the run.
        number: Number of the batch.
        done: (item, strategy) pairs with an answer.
    """
    left = {item.id: item for item in items if any((item.id, str(strategy)) not in done for strategy in strategies)}
    pieces = leases.pieces(number, list(left))
    fatal = [left[item] for item in left if not any(item in piece for piece in pieces)]
    given_up = [_failed_row(part, item, strategy, number, _FATAL) for item in fatal for strategy in strategies]
    return [[left[item] for item in piece] for piece in pieces], given_up


@collector_paused()
def batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Divide items into batches of at most `size`; the same items always give the same batches.

    Items of a picture stay together unless they exceed a batch.
    """
    filled: list[list[Item]] = []
    for _, part in groupby(_by_picture(items), key=lambda group: group[0].picture is None):
        groups = list(part)
        for start in range(0, len(groups), _WINDOW * size):
            window = groups[start : start + _WINDOW * size]
            window.sort(key=lambda group: max(len(item.prompt) for item in group))
            filled += _fill_batches(window, size)
    return filled


def answers(
    inputs: BatchInputs,
    strategies: Sequence[Strategy],
    number: int,
    done: set[tuple[str, str]],
    budget: Budget | None = None,
) -> Iterator[list[Row]]:
    """Answer a batch with one strategy after the other; the first strategy rotates from batch to batch.

    Args:
        inputs: The batch, with model and benchmark.
        strategies: All strategies of the run.
        number: Number of the batch.
        done: (item, strategy) pairs with an answer.
        budget: As in `answer`.
    """
    first = number % len(strategies)
    for strategy in (*strategies[first:], *strategies[:first]):
        left = [item for item in inputs.items if (item.id, str(strategy)) not in done]
        if left:
            yield _answer_or_split(inputs, left, strategy, number, budget, controls=strategy is strategies[0])


def _by_picture(items: Sequence[Item]) -> list[list[Item]]:
    """Group items by picture; items without a picture come last, each as its own group."""
    groups: dict[tuple[bool, str], list[Item]] = {}
    for item in items:
        key = (False, item.picture) if item.picture is not None else (True, item.id)
        groups.setdefault(key, []).append(item)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]


def _fill_batches(groups: Sequence[list[Item]], size: int) -> list[list[Item]]:
    filled: list[list[Item]] = [[]]
    for group in groups:
        if filled[-1] and len(filled[-1]) + len(group) > size:
            filled.append([])
        for start in range(0, len(group), size):
            piece = group[start : start + size]
            if len(filled[-1]) + len(piece) > size:
                filled.append([])
            filled[-1] += piece
    return filled if filled[-1] else filled[:-1]


def _answer_or_split(
    inputs: BatchInputs,
    items: Sequence[Item],
    strategy: Strategy,
    number: int,
    budget: Budget | None = None,
    *,
    controls: bool = False,
) -> list[Row]:
    """Answer items with one strategy together; after an error alone or in halves; else return failures.

    Args:
        inputs: The inputs of the batch, with model and benchmark.
        items: The items.
        strategy: The strategy.
        number: Number of the batch.
        budget: As in `answer`.
        controls: Whether to measure what controls are made of: others, also added ones, are compared with these.
    """
    try:
        return _generate_rows(inputs, items, strategy, number, budget, controls=controls)
    except ITEM_ERRORS as error:
        reason: str = str(error)
        pieces = [[item] for item in items]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = f"out of memory: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        pieces = [list(items[: len(items) // 2]), list(items[len(items) // 2 :])]
    if len(items) == 1:
        return [_failed_row(inputs.part, items[0], strategy, number, reason)]
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    answered = (_answer_or_split(inputs, piece, strategy, number, budget, controls=controls) for piece in pieces)
    return [row for rows in answered for row in rows]


def _generate_rows(
    inputs: BatchInputs,
    items: Sequence[Item],
    strategy: Strategy,
    number: int,
    budget: Budget | None = None,
    *,
    controls: bool = False,
) -> list[Row]:
    found, part = _generate(inputs, items, strategy, budget), inputs.part
    failed = [(item, each) for item, each in zip(items, found, strict=True) if isinstance(each, MmhallError)]
    answered = [(item, each) for item, each in zip(items, found, strict=True) if isinstance(each, Answer)]
    rows = [_failed_row(part, item, strategy, number, str(error)) for item, error in failed]
    return rows + (_measured_rows(inputs, answered, strategy, number, controls=controls) if answered else [])


def _generate(
    inputs: BatchInputs, items: Sequence[Item], strategy: Strategy, budget: Budget | None
) -> Sequence[Answer | MmhallError]:
    """Return the answer to each item; with a budget, or the error of one that has none."""
    lvlm, benchmark = inputs.lvlm, inputs.part.benchmark
    options = {"seeds": _seeds(benchmark, items), "scores": _kept_scores(benchmark, strategy), **benchmark.settings}
    with inputs.kept():
        if budget is None:
            return lvlm.generate_batch(inputs.of(items), strategy, **options)
        options |= {"batch_size": budget.answers, "max_tokens": budget.positions, "memory": budget.memory}
        found = dict(lvlm.generate_many(inputs.of(items), strategy, **options))
    return [found[number] for number in range(len(items))]


def _kept_scores(benchmark: Benchmark, strategy: Strategy) -> int:
    """Return of how many first tokens scores are kept: of yes/no answers one; beams and searches have none."""
    return int(benchmark.yes_no and strategy.beams == 1 and not strategy.searches)


def _measured_rows(
    inputs: BatchInputs, answered: Sequence[tuple[Item, Answer]], strategy: Strategy, number: int, *, controls: bool
) -> list[Row]:
    """Measure answers, and return their rows."""
    lvlm, part, benchmark = inputs.lvlm, inputs.part, inputs.part.benchmark
    items, written = [item for item, _ in answered], [answer for _, answer in answered]
    answers = reopen_thoughts(inputs.prompts(items), written)
    asked = [(item, part.picture(item)) for item in items]
    extras = benchmark.measure(lvlm, asked, answers)
    searched = strategy.beams > 1 or strategy.searches
    extras = [_with_cost(answer, extra, searched) for answer, extra in zip(written, extras, strict=True)]
    if controls and benchmark.trades:
        with inputs.kept():
            measured = measure_mentions(lvlm, benchmark, inputs.of(items), items, answers)
        extras = [{**(extra or {}), **own} for extra, own in zip(extras, measured, strict=True)]
    if benchmark.asks_in_words:
        unknown = measure_unknown(lvlm.adapter.tokenizer, items)
        extras = [{**(extra or {}), **own} for extra, own in zip(extras, unknown, strict=True)]
    if _kept_scores(benchmark, strategy):
        extras = [_with_score(lvlm, answer, extra) for answer, extra in zip(written, extras, strict=True)]
    return [
        Row(
            benchmark.name,
            item.id,
            str(strategy),
            answer.text,
            answer.stopped_by,
            answer.usage.new_tokens,
            answer.usage.seconds,
            number,
            extra,
        )
        for item, answer, extra in zip(items, answers, extras, strict=True)
    ]


def _with_cost(answer: Answer, extra: dict[str, Any] | None, searched: bool) -> dict[str, Any]:
    """Add the counted passes to an answer's measurements; unless it is a search, ended rows leave.

    They are those of the prompts that were read together: the whole batch, or with a budget a part of it.
    """
    usage = answer.usage
    counted = {"prompt_reads": usage.prompt_reads, "prompt_tokens": usage.prompt_tokens}
    counted |= {"passes": usage.passes, "rows": usage.rows, "tokens": usage.longest - 1}  # the last token is not read
    counted["read"] = usage.longest - 1 if searched else max(0, usage.new_tokens - 1)
    return {**(extra or {}), COUNTED: counted}


def _with_score(lvlm: LVLM, answer: Answer, extra: dict[str, Any] | None) -> dict[str, Any] | None:
    """Add the score of a yes/no answer to its measurements; an answer that ends before its first token has none."""
    first = [] if answer.scores is None else list(answer.scores[:1])
    score = yes_score(lvlm.adapter, first[0]) if first else None
    return extra if score is None else {**(extra or {}), SCORE: score}


def _seeds(benchmark: Benchmark, items: Sequence[Item]) -> list[int] | None:
    """Return a sampling seed for every item, the same for all strategies; None: no sampling."""
    if not benchmark.settings.get("do_sample"):
        return None
    base = benchmark.settings.get("seed", 0)
    return [int.from_bytes(hashlib.sha256(f"{base}/{item.id}".encode()).digest()[:4], "big") for item in items]


def _failed_row(part: Part, item: Item, strategy: Strategy, number: int, reason: str) -> Row:
    return Row(part.benchmark.name, item.id, str(strategy), "", "", 0, 0.0, number, error=reason)


def _warm_up(lvlm: LVLM, part: Part, item: Item, strategies: Sequence[Strategy]) -> None:
    """Run each strategy once, so that caches and kernels are not counted in the time of answers."""
    for strategy in strategies:
        try:
            lvlm.generate_batch([part.request(item)], strategy, max_new_tokens=2)
        except ITEM_ERRORS:
            continue


def _refuse_hopeless(run: Run, part: Part) -> None:
    """Stop a run without any answer after failures on several pictures.

    Raises:
        RunError: No item can be answered; with the first reason.
    """
    reasons = {row.item: row.error for row in run.store.rows(part.benchmark.name) if row.error is not None}
    failed = [item for item in part.items if item.id in reasons]
    several = min(_HOPELESS, len({item.cluster for item in part.items}))
    if failed and len({item.cluster for item in failed}) >= several:
        name = part.benchmark.name
        raise RunError(f"{name}: none of the first {len(failed)} items can be answered: {reasons[failed[0].id]}")
