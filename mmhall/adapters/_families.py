"""Adapters of the known model families."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall.adapters._wrappers import unwrap
from mmhall.errors import ModelError
from mmhall.registry import load_target

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from mmhall.adapters._base import Adapter

_MERGED, _QWEN, _BLIP = (
    "mmhall.adapters.tiled:MergedAdapter",
    "mmhall.adapters.flat:QwenAdapter",
    "mmhall.adapters.resampled:BlipAdapter",
)
FAMILIES = {
    "llava": "mmhall.adapters.llava:LlavaAdapter",
    "vipllava": "mmhall.adapters.llava:LlavaAdapter",
    "llava_next": "mmhall.adapters.tiled:PackedAdapter",
    "llava_onevision": "mmhall.adapters.tiled:OneVisionAdapter",
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "qwen3_5": _QWEN,
    "glm4v": "mmhall.adapters.flat:Glm4vAdapter",
    "internvl": _MERGED,
    "gemma3": "mmhall.adapters.tiled:Gemma3Adapter",
    "gemma4": "mmhall.adapters.flat:Gemma4Adapter",
    "idefics2": "mmhall.adapters.resampled:ResampledAdapter",
    "idefics3": _MERGED,
    "smolvlm": _MERGED,
    "paligemma": "mmhall.adapters.paligemma:PaliGemmaAdapter",
    "blip-2": _BLIP,
    "instructblip": _BLIP,
    "mllama": "mmhall.adapters.mllama:MllamaAdapter",
    "mistral3": "mmhall.adapters.tiled:Mistral3Adapter",
    "aya_vision": _MERGED,
    "cohere2_vision": _MERGED,
    "llama4": "mmhall.adapters.tiled:Llama4Adapter",
}
_GENERIC = "mmhall.adapters._base:Adapter"


def adapter_for(model: PreTrainedModel, processor: ProcessorMixin | None = None) -> Adapter:
    """Return the adapter of a loaded model's family; for an unknown family the generic adapter, if it works.

    Args:
        model: The model, or a wrapper around it, such as those of peft and torch.compile.
        processor: Its processor, if there is one.

    Raises:
        ModelError: The model lacks something that mmhall needs.
    """
    model = unwrap(model)
    family = model.config.model_type
    if family in FAMILIES:
        known: Adapter = load_target(FAMILIES[family])(model, processor)
        return known
    try:
        adapter: Adapter = load_target(_GENERIC)(model, processor)
    except (AttributeError, NotImplementedError) as error:  # an unknown model may lack any part
        raise ModelError(
            f"{family}: mmhall does not know this family, and the generic adapter cannot use it: {error}"
        ) from error
    try:
        adapter.check_attention_hook()
    except BaseException:
        adapter.close()
        raise
    return adapter
