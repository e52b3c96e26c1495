"""The ops of a request, sorted into layers: what is asked of each, known before anything is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import nn

from mmhall.attention._dropping import Drop, dropping
from mmhall.attention._ops import FEATURES, VISION, Op, overrides
from mmhall.attention._passes import Block, Frame, announced
from mmhall.attention._state_hooks import standing
from mmhall.attention._tower import Tower, follow_tower
from mmhall.errors import CompositionError

ROWS = "rows"  # the site at which tokens are dropped
_IN_ATTENTION = ("bias", "rows", "edit_output", "keep")


@dataclass(frozen=True, eq=False)
class Plan:
    """Ops by layer; it never changes.

    Attributes:
        ops: In the order they act.
        kinds: Of each decoder layer.
        modules: What holds each site that an op edits or sees, by layer and site.
        tower: What is asked of the vision tower; None: nothing.
        compared: Layers whose head outputs an op compares with those of a pass in lock step.
        keeping: Layers in which an op replaces keys and values.
        drop: What drops tokens of the prompts; None: nothing does.
    """

    ops: tuple[Op, ...]
    kinds: tuple[str, ...]
    modules: Mapping[tuple[int, str], nn.Module] = field(default_factory=dict)
    tower: Tower | None = None
    compared: frozenset[int] = field(init=False)
    keeping: frozenset[int] = field(init=False)
    drop: Drop | None = field(init=False)
    _attending: tuple[tuple[Op, ...], ...] = field(init=False, repr=False)
    _sites: Mapping[tuple[int, str], tuple[Op, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Sort the ops.

        Raises:
            CompositionError: Two ops edit the states of one site of one layer, or one acts where tokens are missing.
        """
        set_once = object.__setattr__
        set_once(self, "modules", MappingProxyType(dict(self.modules)))
        layers = range(len(self.kinds))
        sites = {key: tuple(op for op in self.ops if acts_at_site(op, self.kinds, *key)) for key in self.modules}
        for (layer, site), own in sites.items():
            writers = [op for op in own if site in op.sites]
            if any(not op.projection for op in writers[1:]):
                way_out = "" if site == FEATURES else ", or give them different layers"
                raise CompositionError(
                    f"two strategies edit {self._named(layer, site)}, and their edits do not add up; use one of them"
                    f"{way_out}"
                )
        set_once(self, "_attending", tuple(self._of(layer) for layer in layers))
        set_once(self, "_sites", sites)
        set_once(self, "keeping", frozenset(i for i in layers if any(overrides(op, "keep") for op in self.of_layer(i))))
        compared = (i for i in layers if any(op.compares for op in self.of_layer(i)))
        set_once(self, "compared", frozenset(compared))
        set_once(self, "drop", self._dropping())

    @property
    def one_by_one(self) -> bool:
        """Whether tokens must be read one after the other: an op remembers, or replaces keys that later ones see."""
        return any(op.remembers or overrides(op, "keep") for op in self.ops)

    @property
    def remembers(self) -> bool:
        """Whether an op uses what rows remember."""
        return any(op.remembers for op in self.ops)

    def _named(self, layer: int, site: str) -> str:
        """Name a site in words."""
        if site == FEATURES:
            return "the features of the vision tower"
        vision = " of the vision tower" if VISION.issuperset(self.kinds) else ""
        return f"the states at {site!r} of layer {layer}{vision}"

    def _of(self, layer: int) -> tuple[Op, ...]:
        own = (op for op in self.ops if concerns(op, self.kinds, layer) and self.kinds[layer] != "linear")
        return tuple(op for op in own if any(overrides(op, method) for method in _IN_ATTENTION))

    def _dropping(self) -> Drop | None:
        """Return the op that drops tokens, if there is one, and refuse what would mistake the rows that are left."""
        drops = [op for op in self.ops if isinstance(op, Drop) and not op.empty]
        if len(drops) > 1:
            raise CompositionError("two strategies drop tokens of the prompt, and a run can do that once; use one")
        for layer in range(drops[0].layer, len(self.kinds)) if drops else ():
            acting = (*self.of_layer(layer), *self.acts_at_site(layer, "attn"), *self.acts_at_site(layer, "mlp"))
            if acting:
                raise CompositionError(
                    f"{type(acting[0]).__name__} acts inside layer {layer}, where tokens of the prompt are missing: "
                    f"they are dropped from layer {drops[0].layer} on; give it earlier layers, or use one of the two"
                )
        return drops[0] if drops else None

    def of_layer(self, layer: int) -> tuple[Op, ...]:
        """Return the ops that a layer's attention calls, in the order they act."""
        return self._attending[layer]

    def acts_at_site(self, layer: int, site: str) -> tuple[Op, ...]:
        """Return the ops that edit or see a site, in the order they act."""
        return self._sites.get((layer, site), ())


def concerns(op: Op, kinds: Sequence[str], layer: int) -> bool:
    """Whether an op concerns a layer."""
    return kinds[layer] in op.kinds and (op.layers is None or layer in op.layers)


def acts_at_site(op: Op, kinds: Sequence[str], layer: int, site: str) -> bool:
    """Whether an op edits the states of a site, sees what enters the layer ("in"), or drops tokens before ("rows")."""
    if site == ROWS:
        return isinstance(op, Drop) and op.acts(layer)
    if site == FEATURES:
        return site in op.sites and bool(VISION & op.kinds)
    return concerns(op, kinds, layer) and (overrides(op, "see_states") if site == "in" else site in op.sites)


@contextmanager
def follow_frame(frame: Frame) -> Iterator[None]:
    """Let the forward passes inside this context follow the plans of a frame."""
    with ExitStack() as stack:
        stack.enter_context(announced(frame))
        stack.enter_context(follow_tower(frame))
        modules = {key: held for plan in frame.plans for key, held in plan.modules.items()}
        sites = {key: held for key, held in modules.items() if key[1] != ROWS}
        if sites:
            stack.enter_context(standing(frame, sites))
        whole = {layer: held for (layer, site), held in modules.items() if site == ROWS}
        if whole:
            stack.enter_context(dropping(frame, whole))
        yield


@contextmanager
def active(plan: Plan | None, prompt: int | None = None) -> Iterator[None]:
    """Let the forward passes inside this context follow a plan in all their rows.

    Args:
        plan: None: plain attention, whatever is active around this context.
        prompt: Positions of the prompts, from which steps are counted; not needed to read prompts only.
    """
    with follow_frame(Frame((Block(plan, prompt),))):
        yield
