"""Prompts that wait to be read: taken in order, as many as there is room for, those about one picture together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, repeat
from pathlib import Path
from typing import Any

from mmhall.adapters import Batch, Inputs, Request
from mmhall.errors import MmhallError, OptionError, PromptError
from mmhall.generation._requests import Images, Prompt, check_pair
from mmhall.generation._settings import check_seeds

_NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A prompt that waits.

    Attributes:
        number: 0-based number of the request.
        images: Its pictures.
        prompt: Its text or messages.
        seed: Seed of its draws; None: that of the settings.
        error: Why it cannot be asked; None: it can.
        read: Its request and inputs, where they were made already.
    """

    number: int
    images: Images
    prompt: Prompt
    seed: int | None = None
    error: MmhallError | None = None
    read: tuple[Request, Inputs] | None = None

    @property
    def pictures(self) -> int:
        """Number of its pictures."""
        return len(_key(self.images))

    @property
    def pair(self) -> tuple[Images, Prompt]:
        """Pictures and prompt."""
        return self.images, self.prompt


class Waiting:
    """A queue of prompts, read from an iterable only as far as needed."""

    def __init__(self, prompts: Iterable[Asked], most: int) -> None:
        """Start in front of the first prompt; `most` is the largest number of prompts that are taken at once."""
        self._groups = _groups(prompts, most)
        self._next, self._sole = deque[list[Asked]](), set[int]()

    def take(self, room: int, *, alone: bool = False) -> list[Asked]:
        """Return the next prompts, at most `room`; none where the next ones belong together and less than half fit.

        Args:
            room: Most prompts, >= 1.
            alone: Take any part of prompts that belong together rather than none: there will be no more room.
        """
        taken: list[Asked] = []
        while group := self._next.popleft() if self._next else next(self._groups, []):
            sole = group[0].number in self._sole or group[0].error is not None
            alike = not taken or (not sole and bool(_key(taken[0].images)) == bool(_key(group[0].images)))
            if not taken and len(group) > room and (alone or 2 * room >= len(group)):
                self._next.appendleft(group[room:])
                return group[:room]
            if not alike or len(taken) + len(group) > room:
                self._next.appendleft(group)
                break
            taken += group
            if sole:
                break
        return taken

    @property
    def pictures(self) -> int:
        """Number of pictures of each of the next prompts; 0 where none waits."""
        if not self._next:
            self._next.extend(islice(self._groups, 1))
        return self._next[0][0].pictures if self._next else 0

    def put_back(self, asked: Sequence[Asked], *, sole: bool = False) -> None:
        """Put prompts back to the front, to be taken together; or with `sole` each alone."""
        self._sole |= {each.number for each in asked if sole}
        self._next.extendleft([[each] for each in reversed(asked)] if sole else [list(asked)])

    def give_back(self, asked: Sequence[Asked]) -> None:
        """Put prompts back to the front that had no room, to be taken as far as there is some."""
        self._next.extendleft([each] for each in reversed(asked))


def queue(requests: Iterable[tuple[Images, Prompt]] | Batch, seeds: Iterable[int] | None, most: int) -> Waiting:
    """Let requests wait, as many as they are.

    Args:
        requests: Pairs of picture and prompt; or a batch made of them.
        seeds: Seed of each request's draws; None: that of the settings.
        most: Most prompts that are taken at once, >= 1.

    Raises:
        OptionError: Later: a seed is out of range, or there are fewer of them than requests.
    """
    if not isinstance(requests, Batch):
        return Waiting(_numbered(requests, seeds), most)
    pairs = [(list(request.images), request.prompt) for request in requests.requests]
    read = zip(requests.requests, requests.singles, strict=True)
    return Waiting((replace(asked, read=next(read)) for asked in _numbered(pairs, seeds)), most)


def _numbered(requests: Iterable[tuple[Images, Prompt]], seeds: Iterable[int] | None) -> Iterator[Asked]:
    each = repeat(None) if seeds is None else (seed for one in seeds for seed in check_seeds([one], 1))
    for number, pair in enumerate(requests):
        seed = next(each, _NONE)
        if seed is _NONE:
            raise OptionError("generate_many", "seeds", number, f"one for each request: they end after {number}")
        try:
            check_pair(pair)
        except PromptError as error:
            yield Asked(number, None, "", seed, error)
        else:
            yield Asked(number, *pair, seed)


def _groups(prompts: Iterable[Asked], most: int) -> Iterator[list[Asked]]:
    """Yield successive prompts about the same pictures together, at most `most` of them; others one by one."""
    for key, group in groupby(prompts, key=lambda asked: _key(asked.images)):
        piece: list[Asked] = []
        for asked in group:
            piece.append(asked)
            if len(piece) == most or not key:
                yield piece
                piece = []
        if piece:
            yield piece


def _key(images: Any) -> tuple[Any, ...]:
    """Return a key that prompts about the same pictures share; empty without a picture."""
    every = images if isinstance(images, list | tuple) else () if images is None else (images,)
    return tuple(str(each) if isinstance(each, str | Path) else id(each) for each in every)
