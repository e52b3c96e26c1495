"""Application state, shared by all visitors of a page: the model and its lock, the trace cache, running work."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmhall.demo.compare import Column
from mmhall.demo.scenes import bundled_scenes
from mmhall.demo.setups import Setup

if TYPE_CHECKING:
    from mmhall.demo.trace_cache import TraceCache
    from mmhall.lvlm import LVLM


_TICKETS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The comparison on a visitor's page.

    Attributes:
        picture: The picture, RGB.
        setup: The set-up.
        columns: The answers.
    """

    picture: Image.Image
    setup: Setup
    columns: tuple[Column, ...]

    def __deepcopy__(self, memo: object) -> Shown:
        """Return the comparison itself, as it is immutable."""
        return self


@dataclass(slots=True)
class Ticket:
    """Work that runs for a visitor.

    Attributes:
        number: Number of the ticket.
        stopping: Whether the work must stop.
        discarded: Whether the result is no longer shown.
    """

    number: int
    stopping: bool = False
    discarded: bool = False


@dataclass(slots=True)
class AppState:
    """Application state.

    Attributes:
        model: The model, loaded or being loaded.
        runs: Folder with the runs to show.
        owner_specs: Strategies that the page's owner offers.
    """

    model: Future[LVLM]
    runs: Path
    owner_specs: tuple[str, ...] = ()
    _lock: Lock = field(default_factory=Lock)
    _tickets: dict[str, Ticket] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _traces: TraceCache | None = None

    @property
    def lvlm(self) -> LVLM:
        """The model; waits until it is loaded."""
        return self.model.result()

    def wait_for_model(self) -> None:
        """Wait until the model is loaded, since two threads must not import its libraries at once.

        Raises:
            MmhallError: The model cannot be loaded.
        """
        self.model.result()

    @property
    def traces(self) -> TraceCache:
        """The trace cache."""
        from mmhall.demo.trace_cache import TraceCache

        if self._traces is None:
            self._traces = TraceCache(self.lvlm)
        return self._traces

    @contextmanager
    def exclusive_model(self) -> Iterator[LVLM]:
        """Lock the model for one event; an event that was cancelled may still run its last step."""
        with self._lock:
            yield self.lvlm

    def begin(self, session: str) -> Ticket:
        """Start work for a visitor and stop earlier work."""
        self.stop(session)
        self._tickets.pop(session, None)  # moves the session to the end; the oldest are dropped first
        ticket = self._tickets[session] = Ticket(next(self._numbers))
        while len(self._tickets) > _TICKETS:
            self._tickets.pop(next(iter(self._tickets)))
        return ticket

    def ticket(self, session: str, number: Any) -> Ticket | None:
        """Return a visitor's ticket of this number; None if later work has started. Without a number, start work."""
        latest = self._tickets.get(session)
        if latest is None or not number:
            return self.begin(session)
        return latest if latest.number == number else None

    def stop(self, session: str, *, discarded: bool = False) -> None:
        """Stop the work of a visitor; `discarded`: its result is no longer shown."""
        ticket = self._tickets.get(session)
        if ticket is not None:
            ticket.stopping, ticket.discarded = True, ticket.discarded or discarded

    def forget(self, session: str) -> None:
        """Stop the work of a visitor and forget the visitor."""
        self.stop(session, discarded=True)
        self._tickets.pop(session, None)


def scene_number(picture: Image.Image) -> int | None:
    """Return the index of the bundled scene with equal pixels; None if there is none."""
    return next((i for i, scene in enumerate(bundled_scenes()) if _same_pixels(scene.scene.image, picture)), None)


def _same_pixels(first: Image.Image, second: Image.Image) -> bool:
    return first.size == second.size and first.tobytes() == second.tobytes()
