"""Early exits: what the model would say next if it stopped at an inner layer.

The states that leave a layer go through the model's own head beside those of the last layer, in the same product: no
pass of their own is made, and a family's scale of logits and its soft cap hold for them as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmhall.attention._passes import exits_read
from mmhall.attention._state_hooks import entering
from mmhall.errors import ModelError


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
        reading = Reading([one for one in self._wanted if one.positions is None or prompt], rows, count)
        token, hooks = exits_read.set(reading), []
        try:
            for one in reading.wanted:
                taken = partial(reading.take, one, self._norm if one.norm else None)
                if one.layer < 0:
                    hooks.append(self._layers[0].register_forward_pre_hook(taken, with_kwargs=True))
                else:
                    hooks.append(self._layers[one.layer].register_forward_hook(taken))
            hooks.append(self._head.register_forward_pre_hook(reading.append))
            yield reading
        finally:
            exits_read.reset(token)
            for hook in hooks:
                hook.remove()


class Reading:
    """What one pass gives: the rows of inner layers are put behind those of the last one, and taken apart again.

    Its hooks stand on modules that other threads may be calling too: it takes part in the pass of its own context only.

    Attributes:
        wanted: The exits to read.
    """

    def __init__(self, wanted: Sequence[Exit], rows: int, count: int) -> None:
        """Get ready; arguments as in `Exits.reading`."""
        self.wanted, self._rows, self._count = wanted, rows, count
        self._held: dict[Exit, Tensor] = {}  # (rows, tokens, hidden size), once a layer has been passed
        self._shape = torch.Size()

    def take(self, one: Exit, norm: nn.Module | None, layer: nn.Module, args: Any, *rest: Any) -> None:
        """Keep the rows that are wanted of what leaves a layer, or enters the first."""
        if exits_read.get() is not self:
            return
        output = rest[-1] if one.layer >= 0 else entering(args, rest[0] if rest else {})
        states: Tensor = (output[0] if isinstance(output, tuple) else output)[: self._rows]
        taken = states[:, -self._count :] if one.positions is None else _at(one, one.positions, states)
        self._held[one] = taken if norm is None else norm(taken)

    def append(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Put the exits' rows behind the states that the head is given, all in one list of rows.

        Raises:
            ModelError: The pass has left out a layer.
        """
        if exits_read.get() is not self:
            return None
        missing = next((one.layer for one in self.wanted if one not in self._held), None)
        if missing is not None:
            raise ModelError(
                f"layer {missing} was not passed, so nothing leaves it: prompts without a picture skip layers that "
                "attend to pictures; choose another layer"
            )
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


def _at(one: Exit, positions: Tensor, states: Tensor) -> Tensor:
    """Pick positions of each prompt, (prompts, N), of states, (prompts, T, D).

    Raises:
        ModelError: There are none such.
    """
    prompts, length, size = states.shape
    fit = positions.ndim == 2 and len(positions) == prompts and bool(((positions >= 0) & (positions < length)).all())
    if not fit:
        raise ModelError(
            f"the positions of an exit of layer {one.layer} must be ({prompts}, N) numbers from 0 to {length - 1}, got "
            f"shape {tuple(positions.shape)} from {int(positions.min())} to {int(positions.max())}"
        )
    return states.gather(1, positions.to(states.device)[:, :, None].expand(-1, -1, size))
