"""What ops ask of a vision tower, found in the model and checked before anything is read."""

from __future__ import annotations

from collections.abc import Sequence

from mmhall.adapters._anatomy import SITES, Anatomy
from mmhall.attention import FEATURES, VISION, Op, PictureRows, Plan, Tower, acts_at_site, overrides
from mmhall.errors import CompositionError, ModelError


def tower_of(anatomy: Anatomy, ops: Sequence[Op], pictures: PictureRows | None) -> Tower | None:
    """Sort ops into the layers of a vision tower; None: none concerns it.

    Args:
        anatomy: The parts of the model.
        ops: All ops of a plan.
        pictures: Whose pictures stand where; None: not known.

    Raises:
        ModelError: The model has no such part.
        CompositionError: An op asks for what a vision tower does not have, or two ops edit the same states.
    """
    for op in ops:
        _check(op)
    own = [op for op in ops if VISION & op.kinds]
    if not own:
        return None
    vision = anatomy.vision
    for op in own:
        _check_layers(op, len(vision.layers))
    kinds = ("vision",) * len(vision.layers)
    sites = [(layer, site) for layer in range(len(kinds)) for site in ("in", *SITES)]
    modules = {
        (layer, site): vision.layers[layer] if site == "in" else vision.site(layer, site)
        for layer, site in sites
        if any(acts_at_site(op, kinds, layer, site) for op in own)
    }
    projector, argument = None, ""
    if any(FEATURES in op.sites for op in own):
        projector, argument = anatomy.projector, anatomy.features_argument
        modules[len(kinds), FEATURES] = projector
    return Tower(Plan(tuple(own), kinds, modules), vision.module, vision.layers, projector, argument, pictures)


def _check(op: Op) -> None:
    """Refuse an op that asks for what would never be called."""
    name = type(op).__name__
    if FEATURES in op.sites and not VISION & op.kinds:
        raise CompositionError(f'{name} edits the features of the vision tower, so "vision" must be among its kinds')
    if not VISION & op.kinds:
        return
    if overrides(op, "keep") or op.compares:
        what = "keys and values to be kept" if overrides(op, "keep") else "head outputs of another prompt"
        raise CompositionError(f'{name} asks for {what}, and a vision tower has none; give it kinds without "vision"')


def _check_layers(op: Op, depth: int) -> None:
    """Refuse layers that the vision tower does not have; an op of two kinds may mean those of the decoder."""
    beyond = sorted(layer for layer in op.layers or () if op.kinds == VISION and layer not in range(depth))
    if beyond:
        name = type(op).__name__
        raise ModelError(f"{name}: the vision tower has no layer {beyond[0]}; its layers are 0 to {depth - 1}")
