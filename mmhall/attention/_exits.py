"""Early exits: next-token logits from the states of an inner layer.

The states go through the model's own head together with those of the last layer, in the same matrix product: no
extra pass is needed, and a family's logit scale and soft cap apply to them as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from mmhall.attention._passes import current_exits, suspended
from mmhall.attention._read_out import ReadOut
from mmhall.attention._state_hooks import module_input
from mmhall.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class Exit:
    """Early exit at an inner layer; pass the same object to a session and to `Step.exits`.

    Attributes:
        layer: 0-based decoder layer whose output is read; -1: the embeddings, which are the input of layer 0.
        norm: Whether the states pass the model's final norm, as those of the last layer do.
        positions: Prompt positions to read, (prompts, N) 0-based, once, when the prompt is read; None: the position
            of the newest token, at every step.
        through: Takes the states, (rows, tokens, hidden size), before the norm, and returns those to read instead, in
            the same shape, such as a side stream that an op has computed in this pass.
    """

    layer: int
    norm: bool = True
    positions: Tensor | None = None
    through: Callable[[Tensor], Tensor] | None = None


class Exits:
    """The exits of a request, bound to a model's parts."""

    def __init__(self, exits: Sequence[Exit], layers: Sequence[nn.Module], read_out: ReadOut) -> None:
        """Bind exits to the parts of a model.

        Args:
            exits: The exits.
            layers: Layers of the decoder.
            read_out: Final norm and output head.
        """
        self._exits, self._layers, self._read_out = exits, layers, read_out

    @contextmanager
    def read(
        self, rows: slice, count: int = 1, *, prompt: bool = False, others: Sequence[tuple[Exits, slice]] = ()
    ) -> Iterator[ExitReader]:
        """Read the exits in the single forward pass inside this context.

        Args:
            rows: The rows with exits.
            count: Number of newest tokens to read of each row.
            prompt: Whether the pass reads a whole prompt.
            others: Exits of the same model to read in other rows.
        """
        wanted = [(exits._exits, at) for exits, at in ((self, rows), *others)]
        wanted = [([each for each in exits if each.positions is None or prompt], at) for exits, at in wanted]
        reader = ExitReader(wanted, count)
        token, hooks = current_exits.set(reader), []
        try:
            for each, at in reader.places:
                take = partial(reader.take, each, at, self._read_out.norm if each.norm else None)
                if each.layer < 0:
                    hooks.append(self._layers[0].register_forward_pre_hook(take, with_kwargs=True))
                else:
                    hooks.append(self._layers[each.layer].register_forward_hook(take))
            hooks.append(self._read_out.head.register_forward_pre_hook(reader.append))
            yield reader
        finally:
            current_exits.reset(token)
            for hook in hooks:
                hook.remove()


class ExitReader:
    """States of the exits in one pass: appended to those of the last layer before the head, then split off.

    Other threads may call the hooked modules, too: the hooks act only in the context of this reader.

    Attributes:
        places: Each exit to read with its rows.
    """

    def __init__(self, exits: Sequence[tuple[Sequence[Exit], slice]], count: int) -> None:
        """Start without states.

        Args:
            exits: Exits and the rows in which they are read; some may be read in several groups of rows.
            count: As in `Exits.read`.
        """
        self.places = [(each, at) for own, at in exits for each in own]
        self._sizes, self._count = [len(own) for own, _ in exits], count
        self._states: dict[tuple[Exit, int], Tensor] = {}  # (rows, tokens, hidden size), by exit and first row
        self._shape = torch.Size()

    def take(self, exit_: Exit, at: slice, norm: nn.Module | None, layer: nn.Module, args: Any, *rest: Any) -> None:
        """Store the states of an exit: its rows of the output of its layer, or of the input of layer 0."""
        if current_exits.get() is not self:
            return
        output = rest[-1] if exit_.layer >= 0 else module_input(args, rest[0] if rest else {})
        states: Tensor = (output[0] if isinstance(output, tuple) else output)[at]
        rows = states[:, -self._count :] if exit_.positions is None else _select(exit_, exit_.positions, states)
        if exit_.through is not None:
            with suspended():
                rows = exit_.through(rows)
        self._states[exit_, at.start or 0] = rows if norm is None else norm(rows)

    def append(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Append the rows of the exits to the input of the head, as one list of rows.

        Raises:
            ModelError: The pass has skipped a layer.
        """
        if current_exits.get() is not self:
            return None
        missing = next((each.layer for each, at in self.places if (each, at.start or 0) not in self._states), None)
        if missing is not None:
            raise ModelError(
                f"layer {missing} was not passed, so it has no output: prompts without a picture skip layers that "
                "attend to pictures; choose another layer"
            )
        states = args[0]
        self._shape, size = states.shape[:-1], states.shape[-1]
        parts = (states, *self._parts())
        flat = torch.cat([part.to(states).reshape(1, -1, size) for part in parts], dim=1)
        return (flat, *args[1:])

    def split(self, logits: Tensor) -> tuple[Tensor, list[dict[Exit, Tensor]]]:
        """Split the logits of a pass into those of the last layer and those of the exits.

        Args:
            logits: Output of the model, (1, all rows, V).

        Returns:
            Logits of the last layer, (batch, tokens, V); for each group of rows those of its exits, (rows, tokens, V)
            float32.
        """
        states = self._parts()
        main, *parts = logits[0].split([self._shape.numel(), *(part.shape[0] * part.shape[1] for part in states)])
        read = zip(self.places, states, parts, strict=True)
        early = iter((each, part.view(*state.shape[:2], -1).float()) for (each, _), state, part in read)
        return main.view(*self._shape, -1), [dict(islice(early, size)) for size in self._sizes]

    def _parts(self) -> list[Tensor]:
        return [self._states[each, at.start or 0] for each, at in self.places]


def _select(exit_: Exit, positions: Tensor, states: Tensor) -> Tensor:
    """Select positions of each prompt, (prompts, N), from states, (prompts, T, D).

    Raises:
        ModelError: The positions have another shape, or are outside the prompt.
    """
    prompts, length, size = states.shape
    valid = positions.ndim == 2 and len(positions) == prompts and bool(((positions >= 0) & (positions < length)).all())
    if not valid:
        raise ModelError(
            f"the positions of an exit of layer {exit_.layer} must be ({prompts}, N) numbers from 0 to {length - 1}, "
            f"got shape {tuple(positions.shape)} from {int(positions.min())} to {int(positions.max())}"
        )
    return states.gather(1, positions.to(states.device)[:, :, None].expand(-1, -1, size))
