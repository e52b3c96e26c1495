"""Plans: the ops of a request, sorted by layer and site before the model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn

from mmhall.attention._dropping import Drop, drop_tokens
from mmhall.attention._layout import Layout
from mmhall.attention._ops import FEATURES, VISION, Op, overrides
from mmhall.attention._passes import Block, Frame, use_frames
from mmhall.attention._state_hooks import hook_sites
from mmhall.attention._tower import Tower, follow_tower
from mmhall.errors import CompositionError

ROWS = "rows"  # the site at which prompt tokens are dropped
POSITIONS = "positions"  # the site, of layer 0, at which gaps in their positions are closed
_IN_ATTENTION = ("remask", "bias", "rows", "edit_output", "keep")


@dataclass(frozen=True, eq=False)
class Plan:
    """Ops by layer; immutable.

    Attributes:
        ops: Ops in the order in which they act.
        kinds: Kind of each layer.
        modules: Module of each site that an op edits or reads, by layer and site.
        tower: Plan for the vision tower; None: no op acts there.
        compared: Layers whose head outputs an op compares with those of the lockstep reference pass.
        keeping: Layers in which an op replaces keys and values.
        drop: Op that drops prompt tokens; None: no tokens are dropped.
    """

    ops: tuple[Op, ...]
    kinds: tuple[str, ...]
    modules: Mapping[tuple[int, str], nn.Module] = field(default_factory=dict)
    tower: Tower | None = None
    compared: frozenset[int] = field(init=False)
    keeping: frozenset[int] = field(init=False)
    drop: Drop | None = field(init=False)
    _attention_ops: tuple[tuple[Op, ...], ...] = field(init=False, repr=False)
    _sites: Mapping[tuple[int, str], tuple[Op, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Sort the ops by layer and site.

        Raises:
            CompositionError: Two ops edit the states of the same site, or an op edits a layer's input or what attention
                or MLP add, or replaces masks, keys or values, in a layer in which tokens are missing.
        """
        set_once = object.__setattr__
        set_once(self, "modules", MappingProxyType(dict(self.modules)))
        layers = range(len(self.kinds))
        sites = {key: tuple(op for op in self.ops if acts_at_site(op, self.kinds, *key)) for key in self.modules}
        for (layer, site), ops in sites.items():
            writers = [op for op in ops if site in op.sites]
            if any(not op.projection for op in writers[1:]):
                alternative = "" if site == FEATURES else ", or give them different layers"
                if sum(not op.projection for op in writers) == 1:
                    alternative += ", or write the projection last"
                raise CompositionError(
                    f"two strategies edit {self._describe_site(layer, site)}, and their edits do not add up; "
                    f"use one of them{alternative}"
                )
        set_once(self, "_attention_ops", tuple(self._find_attention_ops(layer) for layer in layers))
        set_once(self, "_sites", sites)
        set_once(self, "keeping", frozenset(i for i in layers if any(overrides(op, "keep") for op in self.of_layer(i))))
        compared = (i for i in layers if any(op.compares for op in self.of_layer(i)))
        set_once(self, "compared", frozenset(compared))
        set_once(self, "drop", self._find_drop())

    @property
    def one_by_one(self) -> bool:
        """Whether tokens must be read one by one: an op uses memory, or replaces keys and values."""
        return any(op.remembers or overrides(op, "keep") for op in self.ops)

    @property
    def remembers(self) -> bool:
        """Whether an op uses memory."""
        return any(op.remembers for op in self.ops)

    def _describe_site(self, layer: int, site: str) -> str:
        """Describe a site in words, for messages."""
        if site == FEATURES:
            return "the features of the vision tower"
        vision = " of the vision tower" if VISION.issuperset(self.kinds) else ""
        return f"the states at {site!r} of layer {layer}{vision}"

    def _find_attention_ops(self, layer: int) -> tuple[Op, ...]:
        ops = (op for op in self.ops if acts_in_layer(op, self.kinds, layer) and self.kinds[layer] != "linear")
        return tuple(op for op in ops if any(overrides(op, method) for method in _IN_ATTENTION))

    def _find_drop(self) -> Drop | None:
        """Return the op that drops tokens, or None; refuse what cannot act in layers in which tokens are missing."""
        drops = [op for op in self.ops if isinstance(op, Drop) and not op.empty]
        if len(drops) > 1:
            raise CompositionError("two strategies drop tokens of the prompt, but only one can; use one of them")
        for layer in range(drops[0].layer, len(self.kinds)) if drops else ():
            whole = (op for op in self.of_layer(layer) if overrides(op, "keep") or overrides(op, "remask"))
            edits = (op for site in ("in", "attn", "mlp") for op in self.at_site(layer, site) if site in op.sites)
            acting = (*whole, *edits)
            if acting:
                raise CompositionError(
                    f"{type(acting[0]).__name__} edits states or keys inside layer {layer}, where tokens of the prompt "
                    f"are missing: they are dropped from layer {drops[0].layer} on; give it earlier layers, or use one "
                    "of the two"
                )
        return drops[0] if drops else None

    def layout(self, layer: int) -> Layout | None:
        """Return which positions of the latest prompts are left in a layer; None: all of them."""
        if self.drop is None or not self.drop.acts(layer) or self.drop.layout.whole:
            return None
        return self.drop.layout

    def of_layer(self, layer: int) -> tuple[Op, ...]:
        """Return the attention ops of a layer, in the order in which they act."""
        return self._attention_ops[layer]

    def at_site(self, layer: int, site: str) -> tuple[Op, ...]:
        """Return the ops that edit or read a site, in the order in which they act."""
        return self._sites.get((layer, site), ())


def acts_in_layer(op: Op, kinds: Sequence[str], layer: int) -> bool:
    """Whether an op acts in a layer."""
    return kinds[layer] in op.kinds and (op.layers is None or layer in op.layers)


def acts_at_site(op: Op, kinds: Sequence[str], layer: int, site: str) -> bool:
    """Whether an op edits the states of a site, reads those of site "in", or drops tokens before the layer ("rows")."""
    if site == ROWS:
        return isinstance(op, Drop) and op.acts(layer)
    if site == POSITIONS:
        return isinstance(op, Drop) and op.contiguous and layer == 0 and not op.empty
    if site == FEATURES:
        return site in op.sites and bool(VISION & op.kinds)
    reads = site == "in" and overrides(op, "see_states")
    return acts_in_layer(op, kinds, layer) and (reads or site in op.sites)


@contextmanager
def follow_frames(*frames: Frame) -> Iterator[None]:
    """Apply the plans of frames to the passes inside this context, whose rows are those of each frame in turn."""
    with ExitStack() as stack:
        stack.enter_context(use_frames(frames))
        stack.enter_context(follow_tower())
        modules = {key: module for frame in frames for plan in frame.plans for key, module in plan.modules.items()}
        sites = {key: module for key, module in modules.items() if key[1] not in (ROWS, POSITIONS)}
        if sites:
            stack.enter_context(hook_sites(frames, sites))
        layers = {layer: module for (layer, site), module in modules.items() if site == ROWS}
        if layers:
            stack.enter_context(drop_tokens(frames, layers, modules.get((0, POSITIONS))))
        yield


@contextmanager
def active(plan: Plan | None, prompt: int | None = None) -> Iterator[None]:
    """Apply a plan to all rows of the forward passes inside this context.

    Args:
        plan: The plan; None: plain attention, also inside the context of another plan.
        prompt: Length of the prompts in positions; steps are counted from there. Not needed for passes over prompts.
    """
    with follow_frames(Frame((Block(plan, prompt),))):
        yield
