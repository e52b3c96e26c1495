"""Generation settings that are complete: `generate` fills what is left open from the model's own; here it cannot."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from mmhall.errors import OptionError

_LENGTHS = {"max_length", "min_length"}  # generate warns where these are given beside max_new_tokens
_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
_EXACT_CACHES = (None, "dynamic", "static", "hybrid", "sliding_window", "hybrid_chunked")  # all give the same answer
_DECIDED: dict[str, Any] = {
    # The cache that mmhall's decoding needs, whatever a checkpoint was saved with; it changes no answer.
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
    # Speculative decoding without a draft's say changes no answer either.
    "is_assistant": False,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "speculation_type": None,
    "use_mtp": None,
}
# What would change answers, and mmhall does not do: the value that asks for nothing, and what to do instead.
_REFUSED: dict[str, tuple[Any, str]] = {
    "guidance_scale": (1, "None; for guidance use a strategy, such as vdd"),
    "assistant_ensemble_weight": (0, "None: mmhall drafts no tokens"),
    "token_healing": (False, "False: mmhall reads prompts as they are"),
    "penalty_alpha": (0, "None: mmhall has no contrastive search"),
    "dola_layers": (None, "None: transformers itself has no DoLa any more"),
    "num_beam_groups": (1, "1: mmhall searches with plain beams"),
    "constraints": (None, "None: mmhall searches with plain beams"),
    "force_words_ids": (None, "None: mmhall searches with plain beams"),
}


class ResolvedSettings(GenerationConfig):
    """Generation settings in force: what is open here stays open, whatever the model's own say."""

    def __init__(self, **values: Any) -> None:
        """Complete the values with transformers' global defaults, and decide what is up to mmhall.

        Sampling values are dropped where nothing is drawn.

        Raises:
            OptionError: A value asks for what mmhall does not do.
        """
        _check(values)
        defaults = {k: v for k, v in self._get_default_generation_params().items() if k not in _LENGTHS}
        given = {**defaults, **{k: v for k, v in values.items() if v is not None}, **_DECIDED}
        dropped = () if given["do_sample"] else _SAMPLING
        super().__init__(**{k: v for k, v in given.items() if k not in dropped})

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: Any) -> dict[str, Any]:
        """Change values; those that `generate` would fill in are ignored."""
        if defaults_only:
            return {}
        unused: dict[str, Any] = super().update(allow_custom_entries=allow_custom_entries, **values)
        return unused


def checkpoint_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Return the generation settings that a checkpoint brings with it.

    Args:
        model: The one that decodes: `Adapter.generator`.

    Returns:
        By name; `stop_strings` is a list, empty where there are none.
    """
    config = model.generation_config
    own: dict[str, Any] = {} if config is None else config.to_diff_dict()
    stops = own.get("stop_strings") or []
    return {**own, "stop_strings": [stops] if isinstance(stops, str) else list(stops)}


def minimal_settings(model: PreTrainedModel, new: int) -> ResolvedSettings:
    """Return settings that choose nothing: so many tokens may follow, and the ids that fill and end a text.

    Args:
        model: As in `checkpoint_settings`.
        new: >= 1.
    """
    own = checkpoint_settings(model)
    return ResolvedSettings(max_new_tokens=new, **{key: own.get(key) for key in ("pad_token_id", "eos_token_id")})


def _check(values: dict[str, Any]) -> None:
    """Refuse what mmhall would have to ignore although somebody relies on it.

    Raises:
        OptionError: There is such a value; the message names it.
    """
    owner, cache = "generation settings", values.get("cache_implementation")
    if cache not in _EXACT_CACHES:  # quantised ones change answers, offloaded ones are there to save memory
        raise OptionError(
            owner, "cache_implementation", cache, 'None, "dynamic" or "static": mmhall decodes with a cache of its own'
        )
    for name, (nothing, expected) in _REFUSED.items():
        value = values.get(name)
        if value is not None and value != nothing:
            raise OptionError(owner, name, value, expected)
