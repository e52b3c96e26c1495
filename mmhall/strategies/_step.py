"""What the scores of the next tokens are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mmhall.attention import Exit, Memory


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step of decoding, for N rows that follow each other; V tokens of the vocabulary.

    Attributes:
        main: Log-probabilities of the main inputs, (N, V) float32.
        branches: Those of each branch that is decoded beside them, (N, V) each, in the session's order.
        said: Tokens of the answers so far, (N, t).
        memory: What the rows remember; it follows them, and what is put into it now is there at the next step.
        exits: Log-probabilities of each exit, (N, V); of one with positions, (N, positions, V), at step 0 only.
        levels: Log-sum-exps of the logits that `main` and `branches` were made from, (N, 1) each.
    """

    main: Tensor
    branches: tuple[Tensor, ...]
    said: Tensor
    memory: Memory = field(default_factory=Memory)
    exits: Mapping[Exit, Tensor] = field(default_factory=dict)
    levels: tuple[Tensor, ...] = ()

    @property
    def t(self) -> int:
        """Tokens of the answers so far."""
        return self.said.shape[1]
