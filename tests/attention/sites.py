"""States written at sites of layers: the op that asks mmhall for it, and plain hooks that do the same to a copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmhall.adapters._anatomy import SITES, Anatomy
from mmhall.attention import EVERY, Op


def written(layer: int, site: str, states: Tensor) -> Tensor:
    """An edit of each row by itself that differs by layer and site: scaled, and moved by a share of its norm."""
    generator = torch.Generator().manual_seed(10 * layer + SITES.index(site))
    direction = nn.functional.normalize(torch.randn(states.shape[-1], generator=generator), dim=0)
    return 0.9 * states + 0.4 * states.norm(dim=-1, keepdim=True) * direction.to(states)


class Write(Op):
    """Writes states, and notes every visit."""

    kinds = EVERY

    def __init__(self, *sites, layers=None, edit=written):
        self.sites, self.layers = frozenset(sites), None if layers is None else frozenset(layers)
        self.visits, self._edit = [], edit

    def edit_states(self, visit, states):
        self.visits.append(visit)
        return self._edit(visit.layer, visit.site, states)


@contextmanager
def hooked(model: PreTrainedModel, op: Write) -> Iterator[list[tuple[int, str, Tensor, Tensor]]]:
    """Write what an op writes by hooks on a model that mmhall does not drive.

    Yields:
        Layer, site, what entered the module and what left it, of each time that one was called.
    """
    decoder, seen = Anatomy(model).decoder, []
    with ExitStack() as hooks:
        for layer in range(len(decoder.layers)) if op.layers is None else op.layers:
            for site in op.sites:

                def write(module, args, kwargs, output, at=(layer, site)):
                    states = output[0] if isinstance(output, tuple) else output
                    seen.append((*at, args[0] if args else kwargs["hidden_states"], states))
                    states = op._edit(*at, states)
                    return (states, *output[1:]) if isinstance(output, tuple) else states

                hooks.callback(decoder.site(layer, site).register_forward_hook(write, with_kwargs=True).remove)
        yield seen


def hooks_of(model: nn.Module) -> list[tuple[str, int]]:
    """How many hooks each module has, of those that have any."""
    kinds = "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"
    counts = [(name, sum(len(getattr(part, kind)) for kind in kinds)) for name, part in model.named_modules()]
    return [(name, count) for name, count in counts if count]
