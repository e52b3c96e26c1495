"""Options that name attention heads, and the base of strategies that take them from a list or from a fit.

"16.29, 26.9" names head 29 of layer 16 and head 9 of layer 26, both 0-based. "all" stands for all heads, "fitted" for
those that `mmhall fit` found on the model.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from mmhall.errors import OptionError
from mmhall.options import by_model
from mmhall.strategies import LearnedStrategy, Strategy
from mmhall.strategies._base import TUNED
from mmhall.strategies._layers import format_layers
from mmhall.strategies._learned import AS_FITTED
from mmhall.strategies._twins import random_choice

if TYPE_CHECKING:
    from mmhall.adapters import Adapter

ALL, FITTED = "all", "fitted"
HEAD_GAINS = "the gains of heads"  # the claim of strategies that scale head outputs
EXPECTED = 'heads such as "16.29, 26.9" (layer.head), "" for none, "all", or "fitted"'
_HEAD = re.compile(r"\s*(\d{1,4})\.(\d{1,4})\s*")


def is_head_spec(spec: str) -> bool:
    """Whether a text is a valid option of heads."""
    return spec in (ALL, FITTED) or not spec or all(map(_HEAD.fullmatch, spec.split(",")))


def heads_option(general: str = FITTED) -> Any:
    """Declare an option that names heads.

    Args:
        general: Default for models without a published value or an artifact.
    """
    return by_model(general, holds=is_head_spec, expected=EXPECTED)


def select_heads(
    adapter: Adapter,
    owner: Strategy,
    option: str,
    spec: str,
    kinds: Collection[str] | None = None,
    *,
    whole: bool = False,
) -> Tensor:
    """Return the heads that a strategy's option lists, (layers, heads) bool.

    Args:
        adapter: The model.
        owner: The strategy, for error messages.
        option: Name of the option, for error messages.
        spec: Its value, not "fitted".
        kinds: Kinds of layers whose heads can be named; None: those that hold image columns.
        whole: Leave out layers that get only the newest row of a prompt.

    Raises:
        OptionError: The model has no such head, or its layer is of another kind.
    """
    usable = usable_heads(adapter, kinds, whole=whole)
    if spec == ALL:
        return usable
    chosen = torch.zeros_like(usable)
    for part in filter(None, spec.split(",")):
        match = _HEAD.fullmatch(part)
        layer, head = map(int, match.groups()) if match else (-1, -1)
        if not (0 <= layer < len(usable) and 0 <= head < adapter.heads and usable[layer, head]):
            layers = format_layers(usable.any(dim=1).nonzero()[:, 0].tolist())
            expected = f"heads 0 to {adapter.heads - 1} of layers {layers} of this model"
            raise OptionError(owner.name, option, part.strip(), expected)
        chosen[layer, head] = True
    return chosen


def usable_heads(
    adapter: Adapter,
    kinds: Collection[str] | None = None,
    *,
    whole: bool = False,
    layers: Collection[int] | None = None,
) -> Tensor:
    """Mark the heads of layers of some kinds, (layers, heads) bool.

    Args:
        adapter: The model.
        kinds: Kinds of layers; None: those that hold image columns.
        whole: Leave out layers that get only the newest row of a prompt.
        layers: Only these layers; None: all.
    """
    kinds = adapter.image_kinds if kinds is None else kinds
    attends = torch.tensor([kind in kinds for kind in adapter.kinds])
    attends[sorted(adapter.newest_only) if whole else []] = False
    attends &= torch.tensor([layers is None or layer in layers for layer in range(len(attends))])
    return attends[:, None].expand(-1, adapter.heads).clone()


def top_heads(scores: Tensor, share: float, among: Tensor) -> Tensor:
    """Choose the heads with the largest scores, (layers, heads) bool; of equal ones the first.

    Args:
        scores: (layers, heads).
        share: Share of the heads of `among`, in [0, 1]; above 0 at least one head is chosen.
        among: Heads that may be chosen, (layers, heads) bool.
    """
    count = 0 if share == 0 else max(1, round(share * int(among.sum())))
    order = scores.double().masked_fill(~among, -torch.inf).flatten().argsort(descending=True, stable=True)
    chosen = torch.zeros(scores.numel(), dtype=torch.bool)
    chosen[order[:count].cpu()] = True
    return chosen.view(scores.shape) & among.cpu()


def random_heads(chosen: Tensor, twin: int, what: str, among: Tensor | None = None) -> Tensor:
    """Choose as many heads of each layer at random, preferably others, (layers, heads) bool; see `random_choice`."""
    layers = range(len(chosen))
    pools = [None] * len(chosen) if among is None else list(among)
    return torch.stack([random_choice(chosen[i], twin, f"{what} of layer {i}", pools[i]) for i in layers])


def format_heads(chosen: Tensor) -> str:
    """Format heads, (layers, heads) bool, as `select_heads` reads them."""
    return ", ".join(f"{layer}.{head}" for layer, head in chosen.nonzero().tolist())


@dataclass(frozen=True, kw_only=True)
class HeadStrategy(LearnedStrategy):
    """The base of strategies that act in listed heads: given by hand, published for the model, or found by a fit.

    Attributes:
        lists: Names of the options that list heads, made by `heads_option`. Those left open take the heads of a loaded
            artifact, else the published ones. An artifact is needed only where one is "fitted".
    """

    lists: ClassVar[tuple[str, ...]]
    unless: ClassVar[str] = ", unless its heads are given or published"

    def for_fit(self) -> LearnedStrategy:
        """Return this strategy with all lists to be fitted.

        Raises:
            OptionError: A list is given.
        """
        for option in self.lists:
            self.check(option, getattr(self, option) in (None, FITTED), "left out: a fit finds the heads")
        return replace(self, **dict.fromkeys(self.lists, FITTED))

    def needs_artifact(self, adapter: Adapter) -> bool:
        """Whether a list is "fitted", or left open without a published value or with an artifact."""
        open_values = self._open_values(adapter)
        values = (open_values[name][0] if name in open_values else getattr(self, name) for name in self.lists)
        return FITTED in values

    def _open_values(self, adapter: Adapter) -> dict[str, tuple[Any, str]]:
        """Let the heads of a loaded artifact win over published ones."""
        values = super()._open_values(adapter)
        if self.name not in adapter.artifacts:
            return values
        fitted = {name for name in self.lists if name in values and values[name][1] != TUNED}
        return {**values, **dict.fromkeys(fitted, (FITTED, AS_FITTED))}
