"""The vision tower in a request: the pass that encodes pictures, and the features for the projector.

Ops with "vision" among their `kinds` read and edit the tower as they do the decoder. The tower runs before the
decoder: while `generate` prepares a request, or in the first forward pass, depending on transformers. A hook on the
tower therefore marks the beginning of its pass, which follows the plan of the current frame.
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
from mmhall.attention._attend import attend_with_ops
from mmhall.attention._features import keep_features
from mmhall.attention._hook import NAME, bind_attention, unbind_attention
from mmhall.attention._ops import FEATURES, Call, Visit
from mmhall.attention._passes import Block, Frame, Pass, current_frames, suspended, tower_pass
from mmhall.attention._state_hooks import hook_site, run_ops
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
    """Number of rows of a vision tower for the pictures of each prompt, in the order of the prompts; 0: unknown.

    Attributes:
        layers: Rows in the encoder layers: pictures or tiles, or patches where all pictures are read as one list.
        features: Rows on the first axis of the features.
    """

    layers: tuple[int, ...]
    features: tuple[int, ...]

    def owners(self, site: str, shape: Sequence[int], start: int = 0) -> Tensor | None:
        """Return the 0-based index of the prompt that each row belongs to.

        Args:
            site: "features", or any other site.
            shape: Shape of the states without their width: (B, Q), for features also (rows,) and others.
            start: In one list of patches, index of the first patch of this call.

        Returns:
            Tensor of that shape; None: unknown.
        """
        counts = self.features if site == FEATURES else self.layers
        if len(counts) == 1:
            return torch.zeros(*shape, dtype=torch.long)
        prompts = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        if len(prompts) == shape[0]:
            return prompts.view(-1, *[1] * (len(shape) - 1)).expand(*shape)
        if len(shape) == 2 and shape[0] == 1 and start + shape[1] <= len(prompts):
            return prompts[None, start : start + shape[1]]
        return None


@dataclass(frozen=True, eq=False)
class Tower:
    """Plan for a vision tower, with the parts of the tower.

    Attributes:
        plan: Ops by encoder layer; ops of the features at the index after the last layer.
        module: The tower.
        layers: Encoder layers in the order in which they run.
        projector: Module that takes the features; None: no op reads or edits them.
        argument: Name of the features in the projector's forward.
        pictures: Rows of the pictures of each prompt; None: unknown.
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
        """Layers in which ops read or edit attention."""
        return frozenset(layer for layer in range(self.depth) if self.plan.of_layer(layer))

    def pass_of(self, frame: Frame, site: str, shape: Sequence[int], device: torch.device, start: int = 0) -> Pass:
        """Return the pass of one call of an encoder layer; arguments as in `PictureRows.owners`."""
        owners = None if self.pictures is None else self.pictures.owners(site, shape, start)
        owners = None if owners is None else owners.to(device)
        end = start + shape[-1]
        block = Block(frame.blocks[0].plan, prompt=end)  # all patches count as prompt
        own_frame = Frame((block,), reread=frame.reread, owners=owners, memory=frame.memory)
        return Pass(own_frame, block, end, shape[-1], None)


@dataclass(frozen=True, slots=True, eq=False)
class TowerPass:
    """One pass of a vision tower.

    Attributes:
        frame: The current frame.
        tower: Plan for the tower.
        attended: Number of query patches of each layer so far, as some towers attend picture by picture; at the index
            after the last layer, number of patches that the projector has received.
        hooks: Hooks at the sites, removed at the end of the pass.
    """

    frame: Frame
    tower: Tower
    attended: Counter[int] = field(default_factory=Counter)
    hooks: ExitStack = field(default_factory=ExitStack)


class TowerHooks:
    """Hooks of one adapter on a vision tower, installed when an op first needs them, removed with the adapter.

    Without ops for it, a tower has no hooks; it keeps what it computes, see `keep_features`.
    """

    def __init__(self, tower: nn.Module | None = None) -> None:
        """Start without hooks; a tower keeps what it computes from now on."""
        self._undo = {} if tower is None else {"kept features": keep_features(tower)}

    def open(self, tower: Tower) -> None:
        """Install the hooks that a plan needs.

        Raises:
            ModelError: The tower's attention cannot be replaced.
        """
        with _LOCK:
            self._hook("tower", tower.module, _hook_tower)
            if tower.projector is not None:
                self._hook("projector", tower.projector, _hook_projector)
            if tower.attending and "attention" not in self._undo:
                self._bind_attention(tower)

    def close(self) -> None:
        """Remove all hooks, except those that other adapters of the model need."""
        with _LOCK:
            while self._undo:
                self._undo.popitem()[1]()

    def _bind_attention(self, tower: Tower) -> None:
        _mark(tower.layers)  # before the first call
        if not bind_attention(tower.module, _NAME, attention):
            _unmark(tower.layers)
            raise ModelError(
                f"the attention of {type(tower.module).__name__}, the vision tower, cannot be replaced through "
                "transformers' interface"
            )
        self._undo["attention"] = partial(unbind_attention, tower.module, partial(_unmark, tower.layers))

    def _hook(self, name: str, part: nn.Module, install: Callable[[nn.Module], tuple[RemovableHandle, ...]]) -> None:
        if name in self._undo:
            return
        count = _HOOKED.get(part, 0)
        if not hasattr(part, _HOOKS):  # a copy of a hooked part has both the hooks and this attribute
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
    return (projector.register_forward_pre_hook(_edit_features, with_kwargs=True),)


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
    """Compute SDPA, with the ops of this encoder layer; arguments and result as in the decoder."""
    plain = partial(sdpa, module, dropout=dropout, scaling=scaling, **kwargs)
    here = tower_pass.get()
    ops = () if here is None else here.tower.plan.of_layer(getattr(module, _LAYER))
    if here is None or not ops:
        return plain(query, key, value, attention_mask)[0], None
    layer: int = getattr(module, _LAYER)
    start = here.attended[layer]
    here.attended[layer] += query.shape[2]
    where = here.tower.pass_of(here.frame, "attn", (len(query), query.shape[2]), query.device, start)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    call = Call(layer, "vision", where, start, query, key, value, attention_mask, scale)
    with suspended():
        return attend_with_ops(call, ops, plain), None


@contextmanager
def follow_tower() -> Iterator[None]:
    """Apply the plan of the current frame to the vision tower inside this context.

    Raises:
        ModelError: The tower encoded pictures, but some op was never called, so it would have been ignored.
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
            here.hooks.close()  # torch calls no forward hook after a pass that a user has interrupted
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
    active = _active_tower(module)
    if active is None:
        return
    here = TowerPass(*active)
    tower_pass.set(here)
    for (layer, site), part in here.tower.plan.modules.items():
        if site != FEATURES:
            edit = partial(_edit_states, here, layer, site)
            here.hooks.callback(hook_site(part, site, lambda: tower_pass.get() is here, edit).remove)


def _end(module: nn.Module, args: Any, output: Any) -> None:
    here = tower_pass.get()
    if here is not None and here.tower.module is module:
        here.hooks.close()


def _active_tower(part: nn.Module) -> tuple[Frame, Tower] | None:
    """Return the current frame and its plan for a tower or projector, or None where there is no such plan.

    Raises:
        ModelError: Several branches are encoded in one pass.
    """
    frames = current_frames()
    towers = [plan.tower for frame in frames for plan in frame.plans if plan.tower is not None]
    tower = next((tower for tower in towers if part in (tower.module, tower.projector)), None)
    if tower is None:
        return None
    (frame, *others) = frames
    if others or len(frame.blocks) > 1:
        raise ModelError("the pictures of several branches are encoded in one pass; read each branch by itself")
    return frame, tower


def _edit_states(here: TowerPass, layer: int, site: str, states: Tensor, source: Tensor) -> Tensor:
    """Run the ops at a site of an encoder layer; return the edited states, the same tensor if unchanged."""
    flat = states.ndim == 2  # one list of patches
    before, source = (part[None] if flat else part for part in (states, source))
    where = here.tower.pass_of(here.frame, site, before.shape[:2], before.device)
    visit = Visit(layer, "vision", where, site, before, source)
    edited = run_ops(visit, here.tower.plan.at_site(layer, site))
    if edited is before:
        return states
    return edited[0] if flat else edited


def _edit_features(projector: nn.Module, args: tuple[Any, ...], *rest: dict[str, Any]) -> Any:
    """Return the projector's arguments with features edited by ops, or None where they do not change.

    torch omits the keyword arguments while another thread removes its hooks.
    """
    active = _active_tower(projector)
    if active is None:
        return None
    (frame, tower), (kwargs,) = active, rest
    by_keyword = tower.argument in kwargs
    states: Tensor = kwargs[tower.argument] if by_keyword else args[0]
    here = tower_pass.get()
    if here is not None:
        here.attended[tower.depth] += states.shape[-2]
    where = tower.pass_of(frame, FEATURES, states.shape[:-1], states.device)

    def given(features: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (args, {**kwargs, tower.argument: features}) if by_keyword else ((features, *args[1:]), kwargs)

    def project(features: Tensor) -> Any:
        args, kwargs = given(features)
        return projector(*args, **kwargs)

    visit = Visit(tower.depth, "vision", where, FEATURES, states, states, project)
    edited = run_ops(visit, tower.plan.at_site(tower.depth, FEATURES))
    return None if edited is states else given(edited)
