"""The argument of a session's `combine`: log-probabilities of one step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mmhall.attention import Exit, Memory


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One decoding step of N rows; V is the size of the vocabulary.

    Attributes:
        main: Log-probabilities of the main inputs, (N, V) float32.
        branches: Log-probabilities of each decoded branch, (N, V) each, in the session's order.
        said: Tokens of the answers so far, (N, t).
        memory: Tensors stored for each row; what is stored now is there at the next step.
        exits: Log-probabilities of each exit, (N, V); of one with positions, (N, positions, V), at step 0 only.
        levels: Log-sum-exps of the logits of `main` and of each branch, (N, 1) each.
        owners: Index of the prompt that each row belongs to, (N,) 0-based; None: row i belongs to prompt i.
    """

    main: Tensor
    branches: tuple[Tensor, ...]
    said: Tensor
    memory: Memory = field(default_factory=Memory)
    exits: Mapping[Exit, Tensor] = field(default_factory=dict)
    levels: tuple[Tensor, ...] = ()
    owners: Tensor | None = None

    @property
    def t(self) -> int:
        """Number of tokens of the answers so far."""
        return self.said.shape[1]

    def each(self, values: Tensor) -> Tensor:
        """Expand values of each prompt, (prompts, ...), to every row."""
        values = values.to(self.main.device)
        return values if self.owners is None else values[self.owners]
