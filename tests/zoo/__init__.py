"""Tiny random models of every supported family, each with its real processor, built offline."""

from __future__ import annotations

from functools import cache

from transformers import PreTrainedModel, ProcessorMixin

from tests.zoo import dynamic, llavas, resampled

ZOO = {**llavas.ZOO, **dynamic.ZOO, **resampled.ZOO}


@cache
def built(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Build a family's model and processor once."""
    return ZOO[name]()
