"""Run the searches for several prompts together: what several of them need next is done at once.

A search is a generator. It yields a request, waits, and is sent the result; all that it needs of the model it requests,
so that a pass can be shared. It may also yield a list of generators, which then run side by side, and is sent the list
of what they return.

Rows at the same length are one `DecodeBatch`, whichever searches they belong to, so that ops and combinations see what
they see in any batch: rows with owners. Of all requests that wait the shortest texts' are served first, equal ones in
one pass. A search that reads a shorter text anew, such as one that goes back, so steps alone until it has caught up
with the others, and its rows join theirs.

Where no op acts, rows of different lengths share a pass as well (`_together`): steps of all lengths are one pass. Texts
are then read anew only when no row can step, so that the rows of all searches begin together.

A search that asks for anything else gives up its rows. Their place in the batch is computed on until a quarter of all
rows is idle, since to remove rows copies those that stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mmhall.attention import Memory
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._search_rows import Ask, Feed, Keep, Request, Resume, SearchRows, SharedBatch, Split, Steps
from mmhall.generation._together import join_batches, merge_batches, select_together, step_together

_IDLE = 0.25  # share of idle rows from which they are removed


@dataclass(slots=True, eq=False)
class _Task:
    """A generator that runs, and those that it waits for; `place` is its own among those of its parent."""

    steps: Steps
    parent: _Task | None = None
    place: int = 0
    results: list[Any] = field(default_factory=list)
    left: int = 0


class Scheduler:
    """Runs generators, and serves what they request."""

    def __init__(self, prompts: DecodeBatch) -> None:
        """Search from the ends of prompts, which stay as they are."""
        self._prompts, self._mixed = prompts, not prompts.edited
        self._waiting: dict[_Task, Any] = {}
        self._joined: list[SharedBatch] = []  # the batches that share a cache, in order

    def run(self, searches: Sequence[Steps]) -> list[Any]:
        """Return what the generators return."""
        whole = _Task(_side_by_side(searches))
        self._advance(whole, None)
        while self._waiting:
            now = min(map(self._when, self._waiting.values()))
            served = {task: one for task, one in self._waiting.items() if self._when(one) == now}
            for task in served:
                del self._waiting[task]
            for task, result in self._serve(served):
                self._advance(task, result)
        return whole.results

    def _advance(self, task: _Task, value: Any) -> None:
        """Send a generator a result, and note what it needs next."""
        try:
            wanted = task.steps.send(value)
        except StopIteration as end:
            if task.parent is not None:
                task.parent.results[task.place] = end.value
                task.parent.left -= 1
                if not task.parent.left:
                    self._advance(task.parent, task.parent.results)
            return
        if isinstance(wanted, Request):
            self._waiting[task] = wanted
            return
        task.results, task.left = [None] * len(wanted), len(wanted)
        for place, steps in enumerate(wanted):
            self._advance(_Task(steps, task, place), None)
        if not wanted:
            self._advance(task, [])

    def _when(self, request: Request) -> tuple[int, int, int, int]:
        """Return when to serve a request: the smallest first, equal ones together."""
        match request:
            case Keep():
                return 0, 0, 0, id(request.rows.shared)
            case Feed():
                return 1, 0 if self._mixed else request.rows.shared.length, 2, 0
            case Split():
                return 1, request.rows.shared.length, 1, request.tokens.shape[1]
            case Resume():
                return 3 if self._mixed else 1, 0 if self._mixed else len(request.texts[0]), 0, 0
        return 2, 0, 0, id(request.function)

    def _serve(self, served: dict[_Task, Any]) -> Iterator[tuple[_Task, Any]]:
        """Serve requests of one kind; yield the results of a pass before the next one."""
        first = next(iter(served.values()))
        if isinstance(first, Ask):
            yield from zip(served, first.function([one.argument for one in served.values()]), strict=True)
        elif isinstance(first, Resume):
            for batch in self._joined:  # its rows are given up, or they would have been fed before
                batch.only([])
            self._joined = []
            for length in sorted({len(one.texts[0]) for one in served.values()}):
                same = {task: one for task, one in served.items() if len(one.texts[0]) == length}
                yield from zip(same, self._resume(list(same.values())), strict=True)
        elif isinstance(first, Keep):
            _keep(list(served.values()))
            yield from ((task, None) for task in served)
        else:
            for batches in self._arrange(list(dict.fromkeys(one.rows.shared for one in served.values())), first):
                own = {task: one for task, one in served.items() if one.rows.batch in batches}
                self._pass(batches, list(own.values()))
                yield from ((task, None) for task in own)

    def _resume(self, requests: Sequence[Resume]) -> list[SearchRows]:
        """Read texts of equal length in one pass."""
        device = self._prompts.said.device
        texts = [list(text) for one in requests for text in one.texts]
        rows = self._prompts.taken(torch.tensor([one.prompt for one in requests for _ in one.texts], device=device))
        said = torch.tensor(texts, dtype=torch.long, device=device)
        memory = Memory.join([memory for one in requests for memory in one.memories])
        if said.shape[1]:
            last = 1 if rows.one_by_one or list(memory) else 0
            rows.reread(said[:, : said.shape[1] - last], memory)
            if last:
                rows.step(said[:, -1])
        return SharedBatch(rows).hand_out([len(one.texts) for one in requests])

    def _arrange(self, batches: list[SharedBatch], request: Feed | Split) -> Iterator[list[SharedBatch]]:
        """Yield the batches that share each pass, after rows that wait for another pass were set apart."""
        for waiting in self._waiting.values():
            part = getattr(waiting, "rows", None)
            if part is not None and part.batch in (*batches, *self._joined):
                part.set_apart()
        if self._mixed and isinstance(request, Feed):
            joined = list(dict.fromkeys([*self._joined, *batches]))
            if join_batches([batch.rows for batch in joined]):
                self._joined = joined
                yield joined
                return
        for number, batch in enumerate(self._joined):
            if batch in batches and len(self._joined) > 1:  # candidates are read by the rows of one batch alone
                self._joined[number] = batch.hand_on()
        sizes = [batch.rows.size for batch in batches]
        if len(batches) > 1 and merge_batches([batch.rows for batch in batches]):
            for number, batch in enumerate(batches[1:], start=1):
                batches[0].take_over(batch, sum(sizes[:number]))
            self._joined = [batch for batch in self._joined if batch not in batches]
            batches = batches[:1]
        yield from ([batch] for batch in batches)

    def _pass(self, batches: Sequence[SharedBatch], requests: Sequence[Feed | Split]) -> None:
        """Feed the rows of batches that share a cache; those of searches that ask for nothing are idle."""
        own = [[one for one in requests if one.rows.batch is batch] for batch in batches]
        going = [[(one.rows, one.parents) for one in part] for part in own]
        size = sum(batch.rows.size for batch in batches)
        idle = size - sum(len(one.tokens) for one in requests)
        if idle > _IDLE * size or not all(map(_in_order, requests)):
            chosen = [batch.pick(pairs) for batch, pairs in zip(batches, going, strict=True)]
            select_together([batch.rows for batch in batches], chosen)
            self._joined = [batch for batch in self._joined if batch.parts]
            batches, own = [batch for batch in batches if batch.parts], [part for part in own if part]
        else:
            for batch, pairs in zip(batches, going, strict=True):
                batch.leave(pairs)
        tokens = [batch.spread([one.tokens for one in part]) for batch, part in zip(batches, own, strict=True)]
        if isinstance(requests[0], Split):
            batches[0].rows.split(tokens[0])
        else:
            step_together([batch.rows for batch in batches], tokens)


def _in_order(request: Feed | Split) -> bool:
    """Whether the rows that go on are some of the rows, in their order."""
    return request.parents is None or bool((request.parents.diff() > 0).all())


def _keep(requests: Sequence[Keep]) -> None:
    """Continue rows of one batch after candidates were read."""
    batch, differing = requests[0].rows.shared, [one.differing for one in requests]
    places = torch.cat([one.rows.index for one in requests])
    if not torch.equal(places, torch.arange(batch.rows.size, device=places.device)):
        differing = [None]  # rows move up, or change places
    index = batch.pick([(one.rows, one.parents) for one in requests])
    newest = None if None in differing else max(one for one in differing if one is not None)
    batch.rows.keep(index, torch.cat([one.candidates for one in requests]), newest)


def _side_by_side(searches: Sequence[Steps]) -> Steps:
    """Run generators side by side."""
    return (yield searches)
