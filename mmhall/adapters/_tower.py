"""Plan of the vision tower: ops, sites and modules, checked before the model runs."""

from __future__ import annotations

from collections.abc import Sequence

from mmhall.adapters._anatomy import SITES, Anatomy
from mmhall.attention import FEATURES, VISION, Op, PictureRows, Plan, Tower, acts_at_site, overrides
from mmhall.errors import CompositionError, ModelError


def build_tower(anatomy: Anatomy, ops: Sequence[Op], pictures: PictureRows | None) -> Tower | None:
    """Build the plan of a vision tower, or return None if no op acts there.

    Args:
        anatomy: Parts of the model.
        ops: All ops of a request.
        pictures: Rows of the pictures of each prompt; None: unknown.

    Raises:
        ModelError: The model lacks a part that an op needs.
        CompositionError: An op needs something that a vision tower does not have, or two ops edit the same states.
    """
    for op in ops:
        _check_op(op)
    vision_ops = [op for op in ops if VISION & op.kinds]
    if not vision_ops:
        return None
    vision = anatomy.vision
    for op in vision_ops:
        _check_layers(op, len(vision.layers))
    kinds = ("vision",) * len(vision.layers)
    sites = [(layer, site) for layer in range(len(kinds)) for site in ("in", *SITES)]
    modules = {
        (layer, site): vision.layers[layer] if site == "in" else vision.site(layer, site)
        for layer, site in sites
        if any(acts_at_site(op, kinds, layer, site) for op in vision_ops)
    }
    projector, argument = None, ""
    if any(FEATURES in op.sites for op in vision_ops):
        projector, argument = anatomy.projector, anatomy.features_argument
        modules[len(kinds), FEATURES] = projector
    return Tower(Plan(tuple(vision_ops), kinds, modules), vision.module, vision.layers, projector, argument, pictures)


def _check_op(op: Op) -> None:
    """Check that an op does not need a method or site that is never called.

    Raises:
        CompositionError: It does.
    """
    name = type(op).__name__
    if FEATURES in op.sites and not VISION & op.kinds:
        raise CompositionError(f'{name} edits the features of the vision tower, so "vision" must be among its kinds')
    if not VISION & op.kinds:
        return
    if overrides(op, "keep") or op.compares:
        what = "a key-value cache" if overrides(op, "keep") else "a lockstep reference pass"
        raise CompositionError(f'{name} needs {what}, but a vision tower has none; give it kinds without "vision"')


def _check_layers(op: Op, depth: int) -> None:
    """Check that the vision tower has an op's layers; an op of several kinds may mean layers of the decoder.

    Raises:
        ModelError: It does not have them.
    """
    beyond = sorted(layer for layer in op.layers or () if op.kinds == VISION and layer not in range(depth))
    if beyond:
        name = type(op).__name__
        raise ModelError(f"{name}: the vision tower has no layer {beyond[0]}; its layers are 0 to {depth - 1}")
