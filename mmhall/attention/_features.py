"""What a vision tower has computed, kept for further strategies that are asked about the same pictures.

A tower computes the same for the same pixels. Inside `reuse_features` its forward therefore looks up the content of its
arguments, picture by picture, and computes only pictures that it does not know; without that context it computes all.
The seconds that a picture took are kept with it and counted again when it is looked up (`PassCount.looked_up`), so that
each strategy costs what it costs alone, whichever is asked first.

With ops in the tower, with gradients, under autocast and in training nothing is looked up or kept.

Weights, adapters and hooks of a tower must not change between contexts that share what is kept: a run opens them for
one batch of items.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial, update_wrapper
from itertools import accumulate, pairwise
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mmhall._transformers.outputs import combine, tensors_of
from mmhall.attention._passes import count_looked_up, tower_pass

MOST_BYTES = 2**28
_GRID = "grid_thw"  # the argument of towers that read all patches as one list: rows of (time, rows, columns)
_USERS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # adapters of each tower
_LOCK = threading.Lock()

Features = dict[nn.Module, "KeptFeatures"]
"""What is kept of each tower; it begins empty."""

_features: ContextVar[Features | None] = ContextVar("mmhall_features", default=None)


@contextmanager
def reuse_features(features: Features) -> Iterator[None]:
    """Look up what vision towers compute inside this context, and keep it in `features`."""
    token = _features.set(features)
    try:
        yield
    finally:
        _features.reset(token)


def forget_features() -> bool:
    """Free what is kept in this context, where memory is exhausted; return whether there was something."""
    features = _features.get()
    kept = bool(features)
    if features is not None:
        features.clear()
    return kept


def keep_features(tower: nn.Module) -> Callable[[], None]:
    """Let a vision tower look up what it computes where that is reused; return a function that undoes this.

    A tower whose forward was replaced, as by accelerate for offloaded weights, keeps that forward and looks up nothing.
    """
    with _LOCK:
        if "forward" in vars(tower) and not _looks_up(tower):
            return lambda: None
        if not _looks_up(tower):
            tower.forward = update_wrapper(partial(_encode, tower), partial(type(tower).forward, tower))  # type: ignore[method-assign]
        _USERS[tower] = _USERS.get(tower, 0) + 1
    return partial(_release, tower)


def _looks_up(tower: nn.Module) -> bool:
    return getattr(vars(tower).get("forward"), "func", None) is _encode


def _release(tower: nn.Module) -> None:
    with _LOCK:
        _USERS[tower] -= 1
        if not _USERS[tower]:
            del _USERS[tower]
            if _looks_up(tower):  # whatever replaced it since stays
                del tower.forward


def _encode(tower: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Call a tower, as its forward."""
    forward, features = partial(type(tower).forward, tower), _features.get()
    edited = tower_pass.get() is not None
    if features is None or edited or tower.training or torch.is_grad_enabled():
        return forward(*args, **kwargs)
    call = TowerCall.of(args, kwargs)
    if call is None or torch.is_autocast_enabled(call.device.type):
        return forward(*args, **kwargs)
    return features.setdefault(tower, KeptFeatures()).encode(forward, call)


@dataclass(frozen=True)
class TowerCall:
    """The arguments of a tower for some pictures.

    Attributes:
        tensors: The tensors among the arguments, by name or number of a positional one; the pixels first.
        settings: All other arguments, likewise.
        sizes: Rows of the pixels that each picture takes.
    """

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TowerCall | None:
        """Sort the arguments of a call; None: they hold something whose content is unknown."""
        named = {**{str(number): value for number, value in enumerate(args)}, **kwargs}
        tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        settings = {name: value for name, value in named.items() if name not in tensors}
        if not tensors or not all(tensor.ndim for tensor in tensors.values()) or not _is_plain([*settings.values()]):
            return None
        rows, grid = len(next(iter(tensors.values()))), tensors.get(_GRID)
        sizes = (1,) * rows if grid is None else tuple(grid.prod(dim=-1).tolist())
        apart = sum(sizes) == rows and all(len(tensor) in (rows, len(sizes)) for tensor in tensors.values())
        return cls(tensors, settings, sizes if apart else (rows,))

    @property
    def device(self) -> torch.device:
        """Device of the pixels."""
        return next(iter(self.tensors.values())).device

    @property
    def whole(self) -> TowerCall:
        """The call as one picture, which is not split."""
        return replace(self, sizes=(sum(self.sizes),))

    @property
    def key(self) -> bytes:
        """Digest of the content of all arguments."""
        digest = hashlib.sha256(repr([*self.settings.items()]).encode())
        for name, tensor in self.tensors.items():
            digest.update(repr((name, tensor.dtype, tensor.shape, tensor.device)).encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.digest()

    def pictures(self) -> list[TowerCall]:
        """Split the call into those of each picture."""
        rows, count = sum(self.sizes), len(self.sizes)
        if count == 1:
            return [self]
        split = [tensor.split(list(self.sizes) if len(tensor) == rows else 1) for tensor in self.tensors.values()]
        parts = (dict(zip(self.tensors, own, strict=True)) for own in zip(*split, strict=True))
        return [TowerCall(own, self.settings, (size,)) for own, size in zip(parts, self.sizes, strict=True)]

    @staticmethod
    def join(calls: Sequence[TowerCall]) -> TowerCall:
        """Return one call for the pictures of several."""
        first, sizes = calls[0], tuple(size for call in calls for size in call.sizes)
        return TowerCall(
            {name: torch.cat([call.tensors[name] for call in calls]) for name in first.tensors}, first.settings, sizes
        )

    def run(self, forward: Callable[..., Any]) -> Any:
        """Call the tower."""
        named = {**self.tensors, **self.settings}
        args = [named.pop(str(number)) for number in range(len(named)) if str(number) in named]
        return forward(*args, **named)

    def split(self, output: Any) -> list[Any] | None:
        """Copy the output for each picture; None: it is unknown which of its rows belong to which picture."""
        rows, ends = sum(self.sizes), [0, *accumulate(self.sizes)]
        try:
            lengths = {len(tensor) for tensor in tensors_of(output)}
        except TypeError:
            return None
        if len(self.sizes) > 1:
            merged = _GRID in self.tensors  # a list of patches may become a shorter one, each grid by the same factor
            if any(length * end % rows or not (merged or length == rows) for length in lengths for end in ends):
                return None

        def part(first: int, last: int, whole: Sequence[Tensor]) -> Tensor:
            (tensor,) = whole
            return tensor[first * len(tensor) // rows : last * len(tensor) // rows].clone()

        return [combine(partial(part, first, last), [output]) for first, last in pairwise(ends)]


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, None, or a list of such, so that its representation says all about it."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What a tower has computed for a picture, and the seconds that it took."""

    output: Any
    seconds: float


class KeptFeatures:
    """What a tower has computed for single pictures, or for several at once where it mixes them."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        """Keep at most so many bytes; what was not used for longest is freed first."""
        self._most, self._bytes, self._lock = most, 0, threading.Lock()
        self._known: OrderedDict[bytes, _Encoded] = OrderedDict()
        self._apart: bool | None = None  # whether the tower's output has rows of each picture; None: not yet seen

    def encode(self, forward: Callable[..., Any], call: TowerCall) -> Any:
        """Return what a tower computes; pictures that it knows are looked up.

        Args:
            forward: Its forward.
            call: Its arguments.
        """
        if len(call.sizes) > 1 and self._apart is None:
            output, seconds = _timed(forward, call)
            self._apart = call.split(output) is not None
            call = call if self._apart else call.whole
            keys = [picture.key for picture in call.pictures()]
            self._keep(zip(keys, _divided(call, output, seconds) or (), strict=False))
            return output
        pictures = (call.whole if self._apart is False else call).pictures()
        keys = [picture.key for picture in pictures]
        known = self._find(keys)
        missing = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in known}
        if missing:
            rest = TowerCall.join([*missing.values()])
            output, seconds = _timed(forward, rest)
            parts = _divided(rest, output, seconds)
            if parts is not None:
                known.update(zip(missing, parts, strict=True))
                self._keep(zip(missing, parts, strict=True))
            if len(missing) == len(pictures):
                return output
            if parts is None:
                return call.run(forward)
        once = sum(known[key].seconds for key in missing)  # of these seconds have just passed
        count_looked_up(sum(known[key].seconds for key in keys) - once)
        return combine(torch.cat, [known[key].output for key in keys])

    def _find(self, keys: Sequence[bytes]) -> dict[bytes, _Encoded]:
        with self._lock:
            known = {key: self._known[key] for key in keys if key in self._known}
            for key in known:
                self._known.move_to_end(key)
            return known

    def _keep(self, parts: Iterable[tuple[bytes, _Encoded]]) -> None:
        with self._lock:
            for key, part in parts:
                if key not in self._known:
                    self._known[key] = part
                    self._bytes += _size(part.output)
            while self._bytes > self._most:
                self._bytes -= _size(self._known.popitem(last=False)[1].output)


def _timed(forward: Callable[..., Any], call: TowerCall) -> tuple[Any, float]:
    """Call a tower, and return the seconds that it took as well."""
    if call.device.type == "cuda":
        torch.cuda.synchronize(call.device)
    began, output = perf_counter(), call.run(forward)
    if call.device.type == "cuda":
        torch.cuda.synchronize(call.device)
    return output, perf_counter() - began


def _divided(call: TowerCall, output: Any, seconds: float) -> list[_Encoded] | None:
    """Split an output by pictures, its seconds by their rows; None: the rows of each are unknown."""
    parts = call.split(output)
    if parts is None:
        return None
    return [_Encoded(part, seconds * size / sum(call.sizes)) for part, size in zip(parts, call.sizes, strict=True)]


def _size(output: Any) -> int:
    """Return the size of an output in bytes."""
    return sum(tensor.nbytes for tensor in tensors_of(output))
