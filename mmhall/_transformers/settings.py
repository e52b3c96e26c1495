"""Complete generation settings, which `generate` cannot fill from the model's own settings."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from mmhall.errors import OptionError

_LENGTHS = {"max_length", "min_length"}  # generate warns where these are given beside max_new_tokens
_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
_EXACT_CACHES = (None, "dynamic", "static", "hybrid", "sliding_window", "hybrid_chunked")  # do not change answers
_FIXED: dict[str, Any] = {
    # The cache that mmhall needs, independent of the checkpoint; it does not change answers.
    "use_cache": True,
    "cache_implementation": None,
    "cache_config": None,
    "max_cache_len": None,
    "compile_config": None,
    # mmhall returns tokens.
    "return_dict_in_generate": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    # No speculative decoding; it would not change answers either.
    "is_assistant": False,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "speculation_type": None,
    "use_mtp": None,
}
# Settings that would change answers and that mmhall does not support: the neutral value, and the expected value.
_REFUSED: dict[str, tuple[Any, str]] = {
    "guidance_scale": (1, "None; for guidance use a strategy, such as vdd"),
    "assistant_ensemble_weight": (0, "None: mmhall drafts no tokens"),
    "token_healing": (False, "False: mmhall does not change prompts"),
    "penalty_alpha": (0, "None: mmhall has no contrastive search"),
    "dola_layers": (None, "None: transformers itself has no DoLa any more"),
    "num_beam_groups": (1, "1: mmhall has plain beam search only"),
    "constraints": (None, "None: mmhall has plain beam search only"),
    "force_words_ids": (None, "None: mmhall has plain beam search only"),
}


class ResolvedSettings(GenerationConfig):
    """Complete generation settings: unset values stay unset, independent of the model's own settings."""

    def __init__(self, **values: Any) -> None:
        """Complete the values with transformers' global defaults and with the settings that mmhall fixes.

        Sampling values are dropped without sampling.

        Raises:
            OptionError: A value asks for something that mmhall does not support.
        """
        _check_supported(values)
        defaults = {k: v for k, v in self._get_default_generation_params().items() if k not in _LENGTHS}
        settings = {**defaults, **{k: v for k, v in values.items() if v is not None}, **_FIXED}
        dropped = () if settings["do_sample"] else _SAMPLING
        super().__init__(**{k: v for k, v in settings.items() if k not in dropped})

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: Any) -> dict[str, Any]:
        """Change values; calls with `defaults_only`, as `generate` makes them, change nothing."""
        if defaults_only:
            return {}
        unused: dict[str, Any] = super().update(allow_custom_entries=allow_custom_entries, **values)
        return unused


def checkpoint_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Return the generation settings of a checkpoint.

    Args:
        model: The model that decodes: `Adapter.generator`.

    Returns:
        Settings by name; `stop_strings` is a list, empty where there are none.
    """
    config = model.generation_config
    settings: dict[str, Any] = {} if config is None else config.to_diff_dict()
    stops = settings.get("stop_strings") or []
    return {**settings, "stop_strings": [stops] if isinstance(stops, str) else list(stops)}


def minimal_settings(model: PreTrainedModel, new: int) -> ResolvedSettings:
    """Return settings with only a token limit and the model's padding and end-of-sequence ids.

    Args:
        model: The model that decodes: `Adapter.generator`.
        new: Maximum number of new tokens, >= 1.
    """
    settings = checkpoint_settings(model)
    ids = {key: settings.get(key) for key in ("pad_token_id", "eos_token_id")}
    return ResolvedSettings(max_new_tokens=new, **ids)


def _check_supported(values: dict[str, Any]) -> None:
    """Check that all values are supported.

    Raises:
        OptionError: A value would change answers, but mmhall would have to ignore it.
    """
    owner, cache = "generation settings", values.get("cache_implementation")
    if cache not in _EXACT_CACHES:  # quantised caches change answers, offloaded caches are chosen to save memory
        raise OptionError(
            owner, "cache_implementation", cache, 'None, "dynamic" or "static": mmhall decodes with a cache of its own'
        )
    for name, (neutral, expected) in _REFUSED.items():
        value = values.get(name)
        if value is not None and value != neutral:
            raise OptionError(owner, name, value, expected)
