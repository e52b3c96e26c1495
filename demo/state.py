"""State of the server, shared by all visitors: the model and its lock, running work, and the answers given."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from PIL import Image

from mmhall.errors import ModelError, OptionError

if TYPE_CHECKING:
    from mmhall.analysis import Followed
    from mmhall.answers import Answer
    from mmhall.lvlm import LVLM

_SESSIONS = 256
_ANSWERS, _ROOM = 256, 2 << 30  # answers kept, and bytes of their pictures and traces


@dataclass(slots=True)
class Kept:
    """An answer that was given, and what was asked.

    Attributes:
        picture: The picture, RGB.
        prompt: The user's text.
        answer: The answer.
        facts: What its record says beside the answer, such as the strategy as requested.
        followed: Its trace and likeliest tokens, once somebody asked for them.
    """

    picture: Image.Image
    prompt: str
    answer: Answer
    facts: dict[str, Any]
    followed: Followed | None = None

    @property
    def size(self) -> int:
        """Approximate bytes of the picture, and of the trace's tensors."""
        traced = 0 if self.followed is None else self.followed.size
        return 3 * self.picture.width * self.picture.height + traced


class Answers:
    """Answers by key. When room is short, those used least recently go.

    A key is made from what was asked and answered, not from who asked, so that visitors share traces; it cannot be
    guessed without a secret of the server.
    """

    def __init__(self, room: int = _ROOM) -> None:
        """Start empty.

        Args:
            room: Bytes of pictures and traces; the latest answer is kept whatever its size.
        """
        self._room, self._lock, self._secret = room, Lock(), secrets.token_bytes(16)
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def digest(self, picture: Image.Image) -> bytes:
        """Return a keyed digest of a picture, for `add`."""
        return hashlib.blake2b(picture.tobytes(), key=self._secret, salt=b"%8d%8d" % picture.size).digest()

    def add(self, digest: bytes, kept: Kept) -> str:
        """Keep an answer and return its key; an equal answer to an equal request keeps its trace."""
        asked = repr((digest, kept.prompt, kept.answer.strategy, kept.answer.token_ids, kept.answer.stopped_by))
        key = hashlib.blake2b(asked.encode(), key=self._secret, digest_size=16).hexdigest()
        with self._lock:
            before = self._kept.pop(key, None)
            if before is not None:
                kept.followed, kept.picture = before.followed, before.picture
            self._kept[key] = kept
        self.fit()
        return key

    def get(self, key: Any) -> Kept:
        """Return an answer.

        Raises:
            OptionError: There is none of that key, or no longer.
        """
        with self._lock:
            if not isinstance(key, str) or key not in self._kept:
                raise OptionError("demo", "id", key, "that of a recent answer; ask again")
            self._kept.move_to_end(key)
            return self._kept[key]

    def fit(self) -> None:
        """Drop answers until the others fit; to be called when one has grown."""
        with self._lock:
            while len(self._kept) > 1 and (
                len(self._kept) > _ANSWERS or sum(kept.size for kept in self._kept.values()) > self._room
            ):
                self._kept.popitem(last=False)


@dataclass(slots=True)
class AppState:
    """State of the server.

    Attributes:
        model: The model, loaded or being loaded.
        runs: Folder with the runs to show.
        owner_specs: Strategies that the page's owner offers.
        answers: Answers given.
        files: Paths of pictures that were made from uploads, to be deleted with these.
    """

    model: Future[LVLM]
    runs: Path
    owner_specs: Sequence[str] = ()
    answers: Answers = field(default_factory=Answers)
    files: set[str] = field(default_factory=set)
    _lock: Lock = field(default_factory=Lock)
    _stops: dict[str, Event] = field(default_factory=dict)  # of each session's latest work

    def wait_for_model(self) -> LVLM:
        """Return the model, once it is loaded: two threads must not import its libraries at once.

        Raises:
            MmhallError: The model cannot be loaded.
        """
        try:
            return self.model.result()
        except Exception as error:
            raise ModelError("the model could not be loaded; the terminal of the page says why") from error

    def require_model(self) -> LVLM:
        """Return the model at once.

        Raises:
            ModelError: It is being loaded, or cannot be loaded.
        """
        if not self.model.done():
            raise ModelError("the model is still being loaded; try again in a moment")
        return self.wait_for_model()

    @contextmanager
    def exclusive_model(self) -> Iterator[LVLM]:
        """Lock the model for one call; a call that was cancelled may still run its last step."""
        lvlm = self.wait_for_model()
        with self._lock:
            yield lvlm

    def begin(self, session: str) -> Event:
        """Start work for a visitor and stop earlier work; returns what is set once the new work must stop."""
        self.stop(session)
        self._stops.pop(session, None)  # moves the session to the end; the oldest are dropped first
        stop = self._stops[session] = Event()
        while len(self._stops) > _SESSIONS:
            self._stops.pop(next(iter(self._stops)))
        return stop

    def stop(self, session: str) -> None:
        """Stop the work of a visitor."""
        if session in self._stops:
            self._stops[session].set()
