"""The vision tower in a request: the pass that encodes pictures, and the features that it hands to the projector.

A tower is read and edited by the same ops as the decoder, those with "vision" among their `kinds`. It runs before the
decoder: while `generate` prepares a request or in the first forward, as transformers likes. It is therefore the tower
itself that tells when it begins; the plan is that of the frame which is announced then.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from mmhall._transformers.attention import sdpa
from mmhall.attention._hook import NAME, bind, planned, unbind
from mmhall.attention._ops import FEATURES, Call, Visit
from mmhall.attention._passes import Block, Frame, Pass, announced_frame, suspended, tower_pass
from mmhall.attention._state_hooks import hooked, visited
from mmhall.errors import ModelError

if TYPE_CHECKING:
    from mmhall.attention._plan import Plan

_NAME = f"{NAME}_vision"
_HOOKS = "_mmhall_tower"
_LAYER = "_mmhall_encoder_layer"
_LOCK = threading.RLock()
_HOOKED: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class PictureRows:
    """How many rows of a vision tower hold the pictures of each prompt, in the order of the prompts; 0: not known.

    Attributes:
        layers: In its encoder layers: pictures or tiles, or patches where it reads all pictures as one list.
        features: On the first axis of the features.
    """

    layers: tuple[int, ...]
    features: tuple[int, ...]

    def owners(self, site: str, shape: Sequence[int], start: int = 0) -> Tensor | None:
        """Return which prompt each row belongs to, 0-based.

        Args:
            site: "features", or any other.
            shape: Of the states without their width: (B, Q), of features also (rows,) and others.
            start: Of one list of patches, the first that is there.

        Returns:
            Of that shape; None: it cannot be told.
        """
        counts = self.features if site == FEATURES else self.layers
        if len(counts) == 1:
            return torch.zeros(*shape, dtype=torch.long)
        each = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        if len(each) == shape[0]:
            return each.view(-1, *[1] * (len(shape) - 1)).expand(*shape)
        if len(shape) == 2 and shape[0] == 1 and start + shape[1] <= len(each):
            return each[None, start : start + shape[1]]
        return None


@dataclass(frozen=True, eq=False)
class Tower:
    """What is asked of a vision tower.

    Attributes:
        plan: Its ops by encoder layer; those of the features behind the last one.
        module: The tower.
        layers: Its encoder layers, in the order they run.
        projector: What takes the features; None: nobody asks for them.
        argument: What its forward calls them.
        pictures: Whose pictures stand where; None: not known.
    """

    plan: Plan
    module: PreTrainedModel
    layers: Sequence[nn.Module]
    projector: nn.Module | None = None
    argument: str = ""
    pictures: PictureRows | None = None

    @property
    def depth(self) -> int:
        """Number of encoder layers."""
        return len(self.plan.kinds)

    @property
    def attending(self) -> frozenset[int]:
        """Layers whose attention is read or edited."""
        return frozenset(layer for layer in range(self.depth) if self.plan.of_layer(layer))

    def stands(self, frame: Frame, site: str, shape: Sequence[int], device: torch.device, start: int = 0) -> Pass:
        """Tell where a call of an encoder layer stands; arguments as in `PictureRows.owners`."""
        owners = None if self.pictures is None else self.pictures.owners(site, shape, start)
        owners = None if owners is None else owners.to(device)
        end = start + shape[-1]
        block = Block(frame.blocks[0].plan, prompt=end)  # all of it is prompt
        seen = Frame((block,), reread=frame.reread, owners=owners, memory=frame.memory)
        return Pass(seen, block, end, shape[-1], None)


@dataclass(frozen=True, slots=True, eq=False)
class TowerPass:
    """One pass of a vision tower.

    Attributes:
        frame: What was announced.
        tower: What is asked.
        attended: Patches that each layer has attended from so far, as some towers attend picture by picture; behind the
            last layer those that the projector was given.
        hooks: Those at its sites, taken away at its end.
    """

    frame: Frame
    tower: Tower
    attended: Counter[int] = field(default_factory=Counter)
    hooks: ExitStack = field(default_factory=ExitStack)


class OpenTower:
    """What an adapter has opened of a vision tower: each part when an op first needs it, until the adapter is closed.

    A tower that nobody asks for anything is as it was.
    """

    def __init__(self) -> None:
        """Open nothing."""
        self._undo: dict[str, Callable[[], None]] = {}

    def open(self, tower: Tower) -> None:
        """Open what a plan needs.

        Raises:
            ModelError: The tower's attention cannot be replaced.
        """
        with _LOCK:
            self._hook("tower", tower.module, _hook_tower)
            if tower.projector is not None:
                self._hook("projector", tower.projector, _hook_projector)
            if tower.attending and "attention" not in self._undo:
                self._attend(tower)

    def close(self) -> None:
        """Undo all of it; what other adapters of the model need stays."""
        with _LOCK:
            while self._undo:
                self._undo.popitem()[1]()

    def _attend(self, tower: Tower) -> None:
        _mark(tower.layers)  # before the first call
        if not bind(tower.module, _NAME, attention):
            _unmark(tower.layers)
            raise ModelError(
                f"the attention of {type(tower.module).__name__}, the vision tower, cannot be replaced through "
                "transformers' interface"
            )
        self._undo["attention"] = partial(unbind, tower.module, partial(_unmark, tower.layers))

    def _hook(self, name: str, part: nn.Module, install: Callable[[nn.Module], tuple[RemovableHandle, ...]]) -> None:
        if name in self._undo:
            return
        count = _HOOKED.get(part, 0)
        if not hasattr(part, _HOOKS):  # a copy of an open part carries hooks and mark alike
            setattr(part, _HOOKS, install(part))
        _HOOKED[part] = count + 1
        self._undo[name] = partial(_unhook, part)


def _unhook(part: nn.Module) -> None:
    _HOOKED[part] -= 1
    if not _HOOKED[part]:
        for hook in vars(part).pop(_HOOKS):
            hook.remove()


def _hook_tower(tower: nn.Module) -> tuple[RemovableHandle, ...]:
    return tower.register_forward_pre_hook(_begin), tower.register_forward_hook(_end, always_call=True)


def _hook_projector(projector: nn.Module) -> tuple[RemovableHandle, ...]:
    return (projector.register_forward_pre_hook(_features, with_kwargs=True),)


def _mark(layers: Sequence[nn.Module]) -> None:
    for index, layer in enumerate(layers):
        for part in layer.modules():
            setattr(part, _LAYER, index)


def _unmark(layers: Sequence[nn.Module]) -> None:
    for layer in layers:
        for part in layer.modules():
            vars(part).pop(_LAYER, None)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as SDPA does, except where ops concern this encoder layer; arguments and result as in the decoder."""
    plain = partial(sdpa, module, dropout=dropout, scaling=scaling, **kwargs)
    here = tower_pass.get()
    ops = () if here is None else here.tower.plan.of_layer(getattr(module, _LAYER))
    if here is None or not ops:
        return plain(query, key, value, attention_mask)[0], None
    layer: int = getattr(module, _LAYER)
    start = here.attended[layer]
    here.attended[layer] += query.shape[2]
    where = here.tower.stands(here.frame, "attn", (len(query), query.shape[2]), query.device, start)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    call = Call(layer, "vision", where, start, query, key, value, attention_mask, scale)
    with suspended():
        return planned(call, ops, plain), None


@contextmanager
def follow_tower(frame: Frame) -> Iterator[None]:
    """Let a vision tower follow a frame that is announced inside this context, and check that it did.

    Raises:
        ModelError: It encoded pictures, but some op was never called: it would be ignored without a word.
    """
    token = tower_pass.set(None)
    try:
        yield
        here = tower_pass.get()
        if here is not None:
            _check(here)
    finally:
        here = tower_pass.get()
        if here is not None:
            here.hooks.close()  # torch calls no hook behind a pass that a user has interrupted
        tower_pass.reset(token)


def _check(here: TowerPass) -> None:
    tower, missing = here.tower, sorted(here.tower.attending - here.attended.keys())
    if missing:
        raise ModelError(
            f"layers {missing} of the vision tower {type(tower.module).__name__} do not attend through transformers' "
            "attention interface; mmhall cannot read or edit their attention"
        )
    if tower.projector is not None and tower.depth not in here.attended:
        raise ModelError(
            f"pictures were encoded, but {type(tower.projector).__name__} was given no features; mmhall cannot read or "
            "edit the features of this model"
        )


def _begin(module: nn.Module, args: Any) -> None:
    asked = _asked(module)
    if asked is None:
        return
    here = TowerPass(*asked)
    tower_pass.set(here)
    for (layer, site), part in here.tower.plan.modules.items():
        if site != FEATURES:
            edit = partial(_edited, here, layer, site)
            here.hooks.callback(hooked(part, site, lambda: tower_pass.get() is here, edit).remove)


def _end(module: nn.Module, args: Any, output: Any) -> None:
    here = tower_pass.get()
    if here is not None and here.tower.module is module:
        here.hooks.close()


def _asked(part: nn.Module) -> tuple[Frame, Tower] | None:
    """Return the frame that is announced and what it asks of a tower or its projector; None: nothing.

    Raises:
        ModelError: Several branches are encoded in one pass.
    """
    frame = announced_frame()
    towers = [] if frame is None else [plan.tower for plan in frame.plans if plan.tower is not None]
    tower = next((tower for tower in towers if part in (tower.module, tower.projector)), None)
    if frame is None or tower is None:
        return None
    if len(frame.blocks) > 1:
        raise ModelError("the pictures of several branches are encoded in one pass; read each branch by itself")
    return frame, tower


def _edited(here: TowerPass, layer: int, site: str, states: Tensor, source: Tensor) -> Tensor:
    """Return the states at a site of an encoder layer as ops leave them; the same tensor where none changed them."""
    flat = states.ndim == 2  # one list of patches
    held, entering = (part[None] if flat else part for part in (states, source))
    where = here.tower.stands(here.frame, site, held.shape[:2], held.device)
    edited = visited(Visit(layer, "vision", where, site, held, entering), here.tower.plan.acts_at_site(layer, site))
    if edited is held:
        return states
    return edited[0] if flat else edited


def _features(projector: nn.Module, args: tuple[Any, ...], *rest: dict[str, Any]) -> Any:
    """Return the projector's arguments with the features as ops leave them; None: as they are.

    Where another thread takes its hooks away at this moment, torch calls without the keyword arguments.
    """
    asked = _asked(projector)
    if asked is None:
        return None
    (frame, tower), (kwargs,) = asked, rest
    named = tower.argument in kwargs
    states: Tensor = kwargs[tower.argument] if named else args[0]
    here = tower_pass.get()
    if here is not None:
        here.attended[tower.depth] += states.shape[-2]
    where = tower.stands(frame, FEATURES, states.shape[:-1], states.device)
    visit = Visit(tower.depth, "vision", where, FEATURES, states, states)
    edited = visited(visit, tower.plan.acts_at_site(tower.depth, FEATURES))
    if edited is states:
        return None
    return (args, {**kwargs, tower.argument: edited}) if named else ((edited, *args[1:]), kwargs)
