"""Unwrapping of models from peft, torch.compile, DataParallel, or a user's own module."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mmhall.errors import ModelError

_REMEDY = "merge the adapter (merge_and_unload() in peft), or pass the transformers model itself"


def unwrap(model: Any) -> PreTrainedModel:
    """Return the transformers model inside a wrapper; a model without a wrapper is returned unchanged.

    The forward of a wrapper may lack the arguments for pictures, so that transformers would drop them. Changes that a
    wrapper made inside the model's layers (LoRA) stay in effect. A wrapper with weights of its own is refused.

    Raises:
        ModelError: There is no transformers model inside, or it computes other answers than the wrapper.
    """
    if isinstance(model, PreTrainedModel):
        return model
    kind = type(model).__name__
    inner = _find_inner_model(model) if isinstance(model, nn.Module) else None
    if inner is None:
        raise ModelError(f"expected a transformers model, got a {kind} with none inside; {_REMEDY}")
    inside = {id(tensor) for tensor in (*inner.parameters(), *inner.buffers())}
    extra = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if id(tensor) not in inside]
    if extra or _depends_on_the_prompt(model):
        what = f"weights beside the model's, such as {extra[0]}" if extra else "adapters that start at a certain prompt"
        raise ModelError(f"the {kind} around the model has {what}, which mmhall would leave out; {_REMEDY}")
    return inner


def _find_inner_model(wrapper: nn.Module) -> PreTrainedModel | None:
    """Return the outermost transformers model inside a wrapper."""
    return next((part for part in wrapper.modules() if isinstance(part, PreTrainedModel)), None)


def _depends_on_the_prompt(wrapper: nn.Module) -> bool:
    """Whether a peft wrapper activates adapters by tokens in the prompt (aLoRA)."""
    configs = getattr(wrapper, "peft_config", None)
    values = configs.values() if isinstance(configs, dict) else ()
    return any(getattr(config, "alora_invocation_tokens", None) for config in values)
