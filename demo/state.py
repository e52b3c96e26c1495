"""What all visitors of a page share: one model, one turn at it, the traces at hand, what runs for whom."""

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
    """A comparison that a visitor sees.

    Attributes:
        picture: RGB.
        setup: What was asked.
        columns: What was said.
    """

    picture: Image.Image
    setup: Setup
    columns: tuple[Column, ...]

    def __deepcopy__(self, memo: object) -> Shown:
        """Stay one object: nothing of it changes."""
        return self


@dataclass(slots=True)
class Ticket:
    """Something that runs for a visitor.

    Attributes:
        number: Its own.
        stopping: Whether it is to end.
        unseen: Whether its end is of no interest any more.
    """

    number: int
    stopping: bool = False
    discarded: bool = False


@dataclass(slots=True)
class AppState:
    """The page's back room.

    Attributes:
        model: Loaded, or being loaded.
        runs: Folder whose results may be browsed.
        owned: Strategies that the page's owner offers.
    """

    model: Future[LVLM]
    runs: Path
    owner_specs: tuple[str, ...] = ()
    _turn: Lock = field(default_factory=Lock)
    _tickets: dict[str, Ticket] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _traces: TraceCache | None = None

    @property
    def lvlm(self) -> LVLM:
        """The model; waits until it is loaded."""
        return self.model.result()

    def wait(self) -> None:
        """Wait for the model; its libraries must not be imported from two threads at once.

        Raises:
            MmhallError: It cannot be loaded.
        """
        self.model.result()

    @property
    def traces(self) -> TraceCache:
        """Traces of the model."""
        from mmhall.demo.trace_cache import TraceCache

        if self._traces is None:
            self._traces = TraceCache(self.lvlm)
        return self._traces

    @contextmanager
    def exclusive_model(self) -> Iterator[LVLM]:
        """Have the model to oneself: an event that was given up may still take its last step."""
        with self._turn:
            yield self.lvlm

    def begin(self, session: str) -> Ticket:
        """Begin something for a visitor; what ran for them before is to end."""
        self.stop(session)
        self._tickets.pop(session, None)  # the latest goes to the end, those at the front make room
        ticket = self._tickets[session] = Ticket(next(self._numbers))
        while len(self._tickets) > _TICKETS:
            self._tickets.pop(next(iter(self._tickets)))
        return ticket

    def ticket(self, session: str, number: Any) -> Ticket | None:
        """Return what was begun for a visitor under a number; None: something else was begun since.

        Who sends no number begins now.
        """
        latest = self._tickets.get(session)
        if latest is None or not number:
            return self.begin(session)
        return latest if latest.number == number else None

    def stop(self, session: str, *, discarded: bool = False) -> None:
        """End what runs for a visitor; `discarded`: it is not to be shown any more either."""
        ticket = self._tickets.get(session)
        if ticket is not None:
            ticket.stopping, ticket.discarded = True, ticket.discarded or discarded

    def forget(self, session: str) -> None:
        """Forget a visitor."""
        self.stop(session, discarded=True)
        self._tickets.pop(session, None)


def scene_number(picture: Image.Image) -> int | None:
    """Return which bundled scene a picture is, None if it is none."""
    return next((i for i, one in enumerate(bundled_scenes()) if _alike(one.scene.image, picture)), None)


def _alike(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()
