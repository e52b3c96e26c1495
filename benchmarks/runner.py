"""Ask every item with every strategy and store the answers as they come.

Strategies take turns batch by batch, each starting in its turn, so that they are paired on items and
their times are measured under the same conditions. What is stored already is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.runs import Part
from mmhall.lvlm import LVLM
from mmhall.results.store import Row, Store
from mmhall.strategies import Strategy

Progress = Callable[[int], None]


def run(
    lvlm: LVLM,
    part: Part,
    strategies: Sequence[Strategy],
    store: Store,
    *,
    batch_size: int = 16,
    progress: Progress = lambda answers: None,
) -> None:
    """Answer what a run still lacks of one benchmark.

    Args:
        lvlm: The model.
        part: The benchmark and its items.
        strategies: Each item is asked once with each.
        store: Where answers go; committed after every batch of one strategy.
        batch_size: Items decoded together.
        progress: Called with the number of answers just settled, stored ones included.

    Raises:
        MmhallError: A picture or a prompt is unusable, or the store cannot be written.
    """
    done = store.done(part.benchmark.name)
    missing = len(part.items) * len(strategies) > len(done)
    for strategy in strategies if missing else ():  # the first call pays for caches and kernels: not an answer's cost
        lvlm.generate_batch([part.request(part.items[0])], strategy, max_new_tokens=2)
    for number, batch in enumerate(_batches(part.items, batch_size)):
        for strategy in (*strategies[number % len(strategies) :], *strategies[: number % len(strategies)]):
            left = [item for item in batch if (item.id, str(strategy)) not in done]
            if left:
                store.add(_answered(lvlm, part, left, strategy, number))
            progress(len(batch))


def _answered(lvlm: LVLM, part: Part, items: Sequence[Item], strategy: Strategy, batch: int) -> list[Row]:
    """Answer a batch with one strategy."""
    benchmark = part.benchmark
    answers = lvlm.generate_batch([part.request(item) for item in items], strategy, **benchmark.settings)
    extras = benchmark.measure(lvlm, [(item, part.picture(item)) for item in items], answers)
    return [
        Row(
            benchmark.name,
            item.id,
            str(strategy),
            answer.text,
            answer.stopped_by,
            answer.usage.new_tokens,
            answer.usage.seconds,
            batch,
            extra,
        )
        for item, answer, extra in zip(items, answers, extras, strict=True)
    ]


def _batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Group items of nearby pictures; the same items always make the same batches."""
    numbered = groupby(enumerate(items), key=lambda pair: pair[0] // size)
    return [[item for _, item in group] for _, group in numbered]
