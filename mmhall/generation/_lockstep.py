"""The lockstep reference pass: read a second prompt layer by layer with the main one, to compare head outputs.

Both passes are ordinary calls of the model, each with its own masks, positions and cache. The reference pass runs in a
thread that stops in every compared layer until the main pass has reached it; only one of the two computes at a time. So
a comparison in a layer sees the edits of the layers before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from mmhall.attention import ATTENTION, Call, Op, Plan, follow_frames
from mmhall.errors import CompositionError
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._threads import CallerContext


class _Stopped(BaseException):
    """The main pass has ended and needs no further layer."""


class _HandOver(Op):
    """Hands a layer's head outputs to the main pass and waits until it needs the next ones."""

    kinds = ATTENTION

    def __init__(self, layers: frozenset[int], reference: _ReferencePass) -> None:
        self.layers, self._reference = layers, reference

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        self._reference.hand_over(call.layer, output)
        return output


class _ReferencePass:
    """A pass in a thread, resumed from one compared layer to the next."""

    def __init__(self, source: PlannedBatch, main: Plan) -> None:
        plan = source.plan
        assert plan is not None
        if plan.drop is not None:
            raise CompositionError(
                "a branch in lock step cannot drop tokens: its head outputs are compared layer by layer"
            )
        self._source, self._plan = source, replace(plan, ops=(_HandOver(main.compared, self), *plan.ops))
        self._ready, self._resume = threading.Semaphore(0), threading.Semaphore(0)
        self._result: Tensor | BaseException | None = None
        self._layer = -1  # the last layer reached
        self._stop = False
        work = CallerContext(source.prepared.input_ids.device).wrap(self._work)
        self._thread = threading.Thread(target=work, name="mmhall lockstep", daemon=True)

    def head_outputs(self, layer: int) -> Tensor | None:
        """Run up to a layer and return its head outputs, (B, Q, H, Dv); None if the pass skips the layer."""
        while self._layer < layer:
            if self._thread.ident is None:
                self._thread.start()
            else:
                self._resume.release()
            self._ready.acquire()
            if isinstance(self._result, BaseException):
                raise self._result
        return self._result if self._layer == layer else None  # type: ignore[return-value]

    def hand_over(self, layer: int, output: Tensor) -> None:
        """Store a layer's head outputs, and wait to be resumed; for the pass's thread."""
        self._layer, self._result = layer, output
        self._ready.release()
        self._resume.acquire()
        if self._stop:
            raise _Stopped

    def close(self) -> None:
        """End the pass in whatever layer it is."""
        if self._thread.is_alive():
            self._stop = True
            self._resume.release()
            self._thread.join()
        vars(self).clear()  # its op and its thread refer to it: its cache would stay until Python collects cycles

    def _work(self) -> None:
        try:
            with torch.inference_mode(), follow_frames(replace(self._source, plan=self._plan).frame):
                self._source.prepared.read()
            self._layer = len(self._plan.kinds)
        except _Stopped:
            pass
        except BaseException as error:
            self._result = error
        finally:
            self._ready.release()


@contextmanager
def lockstep_reference(
    main: Plan | None, source: PlannedBatch | None
) -> Iterator[Callable[[int], Tensor | None] | None]:
    """Run a reference pass beside the main pass, for ops that compare with it.

    Args:
        main: The plan of the main pass.
        source: The reference prompt with its plan; None: there is none.

    Yields:
        A function that returns the reference's head outputs of a layer, (B, Q', H, Dv), None in layers it skips; None:
        there is nothing to compare.
    """
    if main is None or source is None or not main.compared:
        yield None
        return
    reference = _ReferencePass(source, main)
    try:
        yield reference.head_outputs
    finally:
        reference.close()
