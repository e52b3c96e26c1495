"""Edits of a vision tower: as ops, and as plain forward hooks on a model that mmhall never touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.attention import VISION, Op
from tests.adapters.conftest import noise

SITES = ("attn", "mlp", "out", "features")
REQUESTS = (
    Request("Is there a dog?", (noise(96, 64),)),
    Request("What is it that we see on the left?", (noise(40, 72, seed=1),)),
)


def waved(states: Tensor) -> Tensor:
    """Scale each component by itself, whatever the shape."""
    return states * (1 + 0.5 * torch.sin(torch.arange(states.shape[-1])))


def doubled(states: Tensor) -> Tensor:
    return states * 2


class Edit(Op):
    """Edits the states of one site of the tower, in one layer or all."""

    kinds = VISION

    def __init__(self, site: str, edit: Callable[[Tensor], Tensor], layers: Sequence[int] | None = None):
        self.sites, self._edit = frozenset({site}), edit
        self.layers = None if layers is None else frozenset(layers)
        self.visits = []

    def edit_states(self, visit, states):
        self.visits.append((visit.layer, visit.site))
        assert (visit.kind, visit.step, visit.start, visit.prefill, visit.answer) == ("vision", 0, 0, True, False)
        assert visit.count == states.shape[-2]
        return self._edit(states)


@contextmanager
def hooked(model: nn.Module, site: str, edit: Callable[[Tensor], Tensor], layers: Sequence[int] = ()) -> Iterator[None]:
    """Edit states of a model's tower by hooks of our own; its parts are proven by test_anatomy."""
    anatomy = Anatomy(model)
    with ExitStack() as hooks:
        if site == "features":
            hooks.callback(anatomy.projector.register_forward_pre_hook(_given(anatomy, edit), with_kwargs=True).remove)
        for layer in layers if site != "features" else ():
            hooks.callback(anatomy.vision.site(layer, site).register_forward_hook(_returned(edit), prepend=True).remove)
        yield


def _given(anatomy, edit):
    name = anatomy.features_argument

    def change(module, args, kwargs):
        if name in kwargs:
            return args, {**kwargs, name: edit(kwargs[name])}
        return (edit(args[0]), *args[1:]), kwargs

    return change


def _returned(edit):
    def change(module, args, output):
        return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

    return change


def traces(model: nn.Module) -> tuple[list[int], list[str], str]:
    """What mmhall could leave behind: hooks of the parts, marks on them, and the tower's attention."""
    parts = list(model.modules())
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts]
    marks = [name for part in parts for name in vars(part) if name.startswith("_mmhall")]
    return hooks, marks, Anatomy(model).vision.module.config._attn_implementation
