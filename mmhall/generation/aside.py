"""Read a second prompt in lock step with the main one, so that each layer of one can be compared with the other's.

Both passes are ordinary calls of the model, each with its own masks, positions and cache; the second runs in
a thread that stops in every compared layer until the main pass has been there too. Only one of the
two ever computes. What is compared in a layer may therefore depend on what was changed in the layers before it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mmhall.attention import Call, Op, Plan, active
from mmhall.generation.prepare import Prepared
from mmhall.threads import Caller


class _Left(BaseException):
    """The main pass needs no more of this one."""


class _Offer(Op):
    """Hands a layer's head outputs to the main pass and waits for it to get there."""

    def __init__(self, main: Plan, turns: _Turns) -> None:
        self.layers, self._main, self._turns = main.compared, main, turns

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        self._turns.offer(call.layer, output)
        for op in self._main.for_layer(call.layer):
            output = op.edit_aside(call, output)
        return output


class _Turns:
    """A pass in a thread, resumed from one compared layer to the next."""

    def __init__(self, prepared: Prepared, plan: Plan) -> None:
        self._prepared, self._main = prepared, plan
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._held: Tensor | BaseException | None = None
        self._layer = -1  # where the pass has come to
        self._left = False
        work = Caller(prepared.input_ids.device).wrap(self._work)
        self._thread = threading.Thread(target=work, name="mmhall aside", daemon=True)

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
        from mmhall.generation.branches import read

        own = Plan([_Offer(self._main, self)], self._main.kinds)
        try:
            with torch.inference_mode(), active(own):
                read(self._prepared)
            self._layer = len(self._main.kinds)
        except _Left:
            pass
        except BaseException as error:
            self._held = error
        finally:
            self._mine.release()


@contextmanager
def beside(plan: Plan | None, prepared: Prepared | None) -> Iterator[None]:
    """Let the ops of a plan compare with a pass over another prompt, while the main one is read."""
    if plan is None or prepared is None or not plan.compared:
        yield
        return
    turns = _Turns(prepared, plan)
    plan.aside = turns.at
    try:
        yield
    finally:
        plan.aside = None
        turns.close()
