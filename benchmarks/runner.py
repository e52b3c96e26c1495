"""Ask every item with every strategy and store the answers as they come.

Strategies take turns batch by batch, each starting in its turn, so that they are paired on items and
their times are measured under the same conditions. What is stored already is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from mmhall.benchmarks.base import Benchmark, Item
from mmhall.benchmarks.pictures import PictureSet
from mmhall.lvlm import LVLM
from mmhall.results.store import Row, Store
from mmhall.strategies import Strategy

Progress = Callable[[int], None]


def run(
    lvlm: LVLM,
    benchmark: Benchmark,
    items: Sequence[Item],
    pictures: PictureSet,
    strategies: Sequence[Strategy],
    store: Store,
    *,
    batch_size: int = 16,
    progress: Progress = lambda answers: None,
) -> None:
    """Answer what a run still lacks.

    Args:
        lvlm: The model.
        benchmark: Whose items they are.
        items: What to ask.
        pictures: Where the items' pictures are.
        strategies: Each item is asked once with each.
        store: Where answers go; committed after every batch of one strategy.
        batch_size: Items decoded together.
        progress: Called with the number of answers just settled, stored ones included.

    Raises:
        MmhallError: A picture or a prompt is unusable, or the store cannot be written.
    """
    done = store.done(benchmark.name)
    paths = {p.id: p.path for p in pictures.pictures}
    missing = len(items) * len(strategies) > len(done)
    for strategy in strategies if missing else ():  # the first call pays for caches and kernels: not an answer's cost
        lvlm.generate_batch([(paths[items[0].picture], items[0].prompt)], strategy, max_new_tokens=2)
    for number, batch in enumerate(_batches(items, batch_size)):
        for strategy in (*strategies[number % len(strategies) :], *strategies[: number % len(strategies)]):
            left = [item for item in batch if (item.id, str(strategy)) not in done]
            if left:
                answers = lvlm.generate_batch(
                    [(paths[item.picture], item.prompt) for item in left],
                    strategy,
                    max_new_tokens=benchmark.max_new_tokens,
                )
                store.add(
                    Row(
                        benchmark.name,
                        item.id,
                        str(strategy),
                        answer.text,
                        answer.stopped_by,
                        answer.usage.new_tokens,
                        answer.usage.seconds,
                        number,
                    )
                    for item, answer in zip(left, answers, strict=True)
                )
            progress(len(batch))


def _batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Group items of nearby pictures; the same items always make the same batches."""
    numbered = groupby(enumerate(items), key=lambda pair: pair[0] // size)
    return [[item for _, item in group] for _, group in numbered]
