"""Read a second prompt in lock step with the main one, so that each layer of one can be compared with the other's.

Both passes are ordinary calls of the model, each with its own masks, positions and cache; the second runs in
a thread that stops in every compared layer until the main pass has been there too. Only one of the
two ever computes. What is compared in a layer may therefore depend on what was changed in the layers before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from mmhall.attention import ATTENTION, Call, Op, Plan, reading
from mmhall.errors import CompositionError
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._threads import CallerContext


class _Left(BaseException):
    """The main pass needs no more of this one."""


class _Offer(Op):
    """Hands a layer's head outputs to the main pass and waits for it to get there."""

    kinds = ATTENTION

    def __init__(self, layers: frozenset[int], turns: _Turns) -> None:
        self.layers, self._turns = layers, turns

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        self._turns.offer(call.layer, output)
        return output


class _Turns:
    """A pass in a thread, resumed from one compared layer to the next."""

    def __init__(self, source: PlannedBatch, main: Plan) -> None:
        own = source.plan
        assert own is not None
        if own.drop is not None:
            raise CompositionError(
                "a branch in lock step cannot drop tokens: its head outputs are compared layer by layer"
            )
        self._source, self._plan = source, replace(own, ops=(_Offer(main.compared, self), *own.ops))
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._held: Tensor | BaseException | None = None
        self._layer = -1  # where the pass has come to
        self._left = False
        work = CallerContext(source.prepared.input_ids.device).wrap(self._work)
        self._thread = threading.Thread(target=work, name="mmhall lockstep", daemon=True)

    def at(self, layer: int) -> Tensor | None:
        """Let the pass go on to a layer; return its head outputs there, (B, Q, H, Dv), None if it leaves that out."""
        while self._layer < layer:
            if self._thread.ident is None:
                self._thread.start()
            else:
                self._theirs.release()
            self._mine.acquire()
            if isinstance(self._held, BaseException):
                raise self._held
        return self._held if self._layer == layer else None  # type: ignore[return-value]

    def offer(self, layer: int, output: Tensor) -> None:
        """Hand over what the pass has come to, and wait."""
        self._layer, self._held = layer, output
        self._mine.release()
        self._theirs.acquire()
        if self._left:
            raise _Left

    def close(self) -> None:
        """End the pass wherever it is."""
        if self._thread.is_alive():
            self._left = True
            self._theirs.release()
            self._thread.join()

    def _work(self) -> None:
        try:
            with torch.inference_mode(), reading(replace(self._source, plan=self._plan).frame):
                self._source.prepared.read()
            self._layer = len(self._plan.kinds)
        except _Left:
            pass
        except BaseException as error:
            self._held = error
        finally:
            self._mine.release()


@contextmanager
def lockstep_reference(
    main: Plan | None, source: PlannedBatch | None
) -> Iterator[Callable[[int], Tensor | None] | None]:
    """Let the ops of a plan compare with a pass over another prompt, while the main one is read.

    Args:
        main: The plan of the main pass.
        source: The other prompt, with a plan of its own; None: there is none.

    Yields:
        What gives its head outputs by layer, (B, Q', H, Dv), None in layers that it leaves out; None: nothing to
        compare with.
    """
    if main is None or source is None or not main.compared:
        yield None
        return
    turns = _Turns(source, main)
    try:
        yield turns.at
    finally:
        turns.close()
