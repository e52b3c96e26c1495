"""What differs between model families, one file a family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall.errors import ModelError
from mmhall.registry import load_target

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from mmhall.adapters.base import Adapter

FAMILIES = {"llava": "mmhall.adapters.llava:LlavaAdapter"}


def adapter_for(model: PreTrainedModel, processor: ProcessorMixin) -> Adapter:
    """Return the adapter of a loaded model's family.

    Raises:
        ModelError: The family is not supported.
    """
    family = model.config.model_type
    if family not in FAMILIES:
        raise ModelError(f"model type {family!r} is not supported yet; supported: {', '.join(sorted(FAMILIES))}")
    adapter: Adapter = load_target(FAMILIES[family])(model, processor)
    return adapter
