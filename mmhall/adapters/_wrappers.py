"""Find the model inside a wrapper: peft, torch.compile, DataParallel, or a module of the user's own."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mmhall.errors import ModelError

_REMEDY = "merge the adapter (merge_and_unload() in peft), or hand over the transformers model itself"


def unwrapped(model: Any) -> PreTrainedModel:
    """Return the transformers model inside a wrapper; a model that is not wrapped is returned as it is.

    A wrapper's forward may name no pictures, so that transformers would drop them. What a wrapper put into the model's
    layers (LoRA) stays there and counts. A wrapper that computes something of its own is refused.

    Raises:
        ModelError: It holds no transformers model, or its answers are not those of the model inside.
    """
    if isinstance(model, PreTrainedModel):
        return model
    kind = type(model).__name__
    inner = _outermost(model) if isinstance(model, nn.Module) else None
    if inner is None:
        raise ModelError(f"expected a transformers model, got a {kind} with none inside; {_REMEDY}")
    held = {id(tensor) for tensor in (*inner.parameters(), *inner.buffers())}
    own = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if id(tensor) not in held]
    if own or _depends_on_the_prompt(model):
        beside = f"weights beside the model's, such as {own[0]}" if own else "adapters that start at a certain prompt"
        raise ModelError(f"the {kind} around the model has {beside}, which mmhall would leave out; {_REMEDY}")
    return inner


def _outermost(wrapper: nn.Module) -> PreTrainedModel | None:
    """Find the first transformers model on the way in."""
    return next((part for part in wrapper.modules() if isinstance(part, PreTrainedModel)), None)


def _depends_on_the_prompt(wrapper: nn.Module) -> bool:
    """Whether peft's wrapper switches adapters on by what a prompt says (aLoRA)."""
    configs = getattr(wrapper, "peft_config", None)
    held = configs.values() if isinstance(configs, dict) else ()
    return any(getattr(config, "alora_invocation_tokens", None) for config in held)
