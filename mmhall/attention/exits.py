"""Early exits: what the model would say next if it stopped at an inner layer.

The states that leave a layer go through the model's own head beside those of the last layer, in the same product: no
pass of their own is made, and a family's scale of logits and its soft cap hold for them as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmhall.attention.states import entering


@dataclass(frozen=True, slots=True, eq=False)
class Exit:
    """An inner layer whose logits are wanted; hand the same object to a session and to `Step.exits`.

    Attributes:
        layer: 0-based decoder layer; what leaves it is read. -1: the embeddings, which enter the first.
        norm: Whether the states pass the model's final norm, as those of the last layer do.
        positions: Prompt positions to read, (prompts, N) 0-based, once, when the prompt is read; None: the newest
            token's, at every step.
    """

    layer: int
    norm: bool = True
    positions: Tensor | None = None


class Exits:
    """The exits of a request, bound to a model's parts."""

    def __init__(
        self, wanted: Sequence[Exit], layers: Sequence[nn.Module], norm: nn.Module | None, head: nn.Module
    ) -> None:
        """Bind them.

        Args:
            wanted: The exits.
            layers: The decoder's layers.
            norm: Its final norm; None: it has none.
            head: What turns states into logits.
        """
        self._wanted, self._layers, self._norm, self._head = wanted, layers, norm, head

    @contextmanager
    def reading(self, rows: int, count: int = 1, *, prompt: bool = False) -> Iterator[Reading]:
        """Read the exits in the one forward pass that is made inside this context.

        Args:
            rows: The first so many rows of the batch have exits.
            count: Newest tokens of each row that are read.
            prompt: Whether the pass reads a whole prompt.
        """
        wanted = [one for one in self._wanted if one.positions is None or prompt]
        held: dict[Exit, Tensor] = {}
        reading, hooks = Reading(held, count), []
        token = _current.set(reading)
        try:
            for one in wanted:
                hooks.append(self._hooked(one.layer, partial(self._take, reading, one, held, rows)))
            hooks.append(self._head.register_forward_pre_hook(reading.append))
            yield reading
        finally:
            _current.reset(token)
            for hook in hooks:
                hook.remove()

    def _hooked(self, layer: int, take: Callable[..., None]) -> RemovableHandle:
        """Hand over what leaves a layer, or what enters the first, when it has been passed."""
        if layer < 0:
            return self._layers[0].register_forward_pre_hook(take, with_kwargs=True)
        return self._layers[layer].register_forward_hook(take)

    def _take(
        self, reading: Reading, one: Exit, held: dict[Exit, Tensor], rows: int, module: nn.Module, args: Any, *rest: Any
    ) -> None:
        """Keep the rows that are wanted of what leaves a layer, or enters the first."""
        if _current.get() is not reading:  # the pass of another thread
            return
        (output,) = rest
        if one.layer < 0:
            output = entering(args, output)
        states: Tensor = (output[0] if isinstance(output, tuple) else output)[:rows]
        if one.positions is None:
            taken = states[:, -reading.count :]
        else:
            at = one.positions.to(states.device)[:, :, None].expand(-1, -1, states.shape[-1])
            taken = states.gather(1, at)
        held[one] = self._norm(taken) if one.norm and self._norm is not None else taken


class Reading:
    """What one pass gives: the rows of inner layers are put behind those of the last one, and taken apart again.

    Attributes:
        count: Newest tokens of each row that are read.
    """

    def __init__(self, held: Mapping[Exit, Tensor], count: int) -> None:
        """Get ready.

        Args:
            held: States of each exit, (rows, tokens, hidden size), once its layer has been passed.
            count: Newest tokens of each row.
        """
        self._held, self.count = held, count
        self._shape = torch.Size()

    def append(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Put the exits' rows behind the states that the head is given, all in one list of rows."""
        if _current.get() is not self:  # the pass of another thread
            return None
        states = args[0]
        self._shape, size = states.shape[:-1], states.shape[-1]
        parts = (states, *self._held.values())
        flat = torch.cat([part.to(states).reshape(1, -1, size) for part in parts], dim=1)
        return (flat, *args[1:])

    def split(self, logits: Tensor) -> tuple[Tensor, dict[Exit, Tensor]]:
        """Take logits apart.

        Args:
            logits: What the model returned, (1, all rows, V).

        Returns:
            Those of the last layer, (batch, tokens, V); and those of each exit, (rows, tokens, V) float32.
        """
        sizes = [self._shape.numel(), *(part.shape[0] * part.shape[1] for part in self._held.values())]
        main, *parts = logits[0].split(sizes)
        early = {
            one: part.view(*states.shape[:2], -1).float()
            for (one, states), part in zip(self._held.items(), parts, strict=True)
        }
        return main.view(*self._shape, -1), early


_current: ContextVar[Reading | None] = ContextVar("mmhall_exits", default=None)
