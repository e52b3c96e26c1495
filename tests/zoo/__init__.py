"""Tiny random models of every supported family, each with its real processor, built offline."""

from __future__ import annotations

from functools import lru_cache

from transformers import PreTrainedModel, ProcessorMixin

from tests.zoo import dynamic, llavas, resampled

ZOO = {**llavas.ZOO, **dynamic.ZOO, **resampled.ZOO}


@lru_cache(maxsize=None)
def built(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Build a family's model and processor once."""
    return ZOO[name]()
