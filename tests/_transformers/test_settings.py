"""Settings that stay as they were resolved, whatever the checkpoint's own say."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from mmhall._transformers.settings import ResolvedSettings, checkpoint_settings, minimal_settings
from mmhall.errors import OptionError
from mmhall.generation._prepare import prepare
from mmhall.generation._settings import Settings
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours

pytestmark = QUIET

OWN = {
    "stop_strings": ["dog"],
    "use_cache": False,
    "return_dict_in_generate": True,
    "output_scores": True,
    "prompt_lookup_num_tokens": 3,
    "repetition_penalty": 1.5,
}


@pytest.fixture
def adapter(request):
    """A model of one family whose own settings ask for much."""
    adapter = ours(getattr(request, "param", "llava"))
    before = adapter.generator.generation_config
    adapter.generator.generation_config = GenerationConfig(
        **{**before.to_diff_dict(), **OWN, "cache_implementation": "static"}
    )
    yield adapter
    adapter.generator.generation_config = before


def test_a_generation_config_tells_what_it_was_given():
    told = GenerationConfig(repetition_penalty=1.5, top_k=5).to_diff_dict()
    assert (told.get("repetition_penalty"), told.get("top_k")) == (1.5, 5)
    assert "temperature" not in told, "to_diff_dict gives values nobody set; own_settings would keep them"


@pytest.mark.parametrize("adapter", FAMILIES, indirect=True)
def test_generate_fills_nothing_in(adapter):
    """Stop strings would ask for a tokenizer, a static cache and none would break decoding."""
    inputs = adapter.inputs(REQUESTS[:1])
    made = prepare(adapter.model_for(inputs), inputs, minimal_settings(adapter.generator, 4))
    assert (made.config.stop_strings, made.config.repetition_penalty) == (None, 1.0)
    assert (made.config.use_cache, made.config.cache_implementation) == (True, None)
    assert len(made.processors) == 0
    assert made.config.max_length == inputs["input_ids"].shape[1] + 4
    assert made.config.eos_token_id == adapter.generator.generation_config.eos_token_id


def test_what_is_left_open_is_the_models_own(adapter):
    config = Settings(max_new_tokens=4).resolved(adapter.generator)
    assert (config.stop_strings, config.repetition_penalty) == (["dog"], 1.5)
    assert Settings(stop_strings=("cat",)).resolved(adapter.generator).stop_strings == ["cat"]


def test_what_is_up_to_mmhall_is_decided(adapter):
    config = Settings(max_new_tokens=4).resolved(adapter.generator)
    decided = ("use_cache", "cache_implementation", "return_dict_in_generate", "output_scores")
    assert [getattr(config, name) for name in decided] == [True, None, False, False]
    assert config.prompt_lookup_num_tokens is None


def test_a_value_can_be_changed_but_not_filled_in():
    config = ResolvedSettings(max_new_tokens=3)
    config.update(defaults_only=True, allow_custom_entries=True, stop_strings=["x"], strange=1)
    assert (config.stop_strings, hasattr(config, "strange")) == (None, False)
    config.update(stop_strings=["x"])
    assert config.stop_strings == ["x"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache_implementation", "quantized"),
        ("cache_implementation", "offloaded"),
        ("cache_implementation", "offloaded_static"),
        ("guidance_scale", 1.5),
        ("token_healing", True),
        ("penalty_alpha", 0.6),
        ("dola_layers", "low"),
        ("num_beam_groups", 2),
        ("constraints", [1]),
        ("force_words_ids", [[1]]),
    ],
)
def test_what_mmhall_does_not_do_is_refused_by_name(name, value):
    with pytest.raises(OptionError, match=f"generation settings: {name} must be"):
        ResolvedSettings(max_new_tokens=3, **{name: value})


@pytest.mark.parametrize("name", ["guidance_scale", "num_beam_groups", "penalty_alpha"])
def test_a_value_that_asks_for_nothing_is_fine(name):
    ResolvedSettings(max_new_tokens=3, **{name: {"penalty_alpha": 0}.get(name, 1)})


def test_sampling_values_are_dropped_where_nothing_is_drawn(caplog):
    """transformers would warn that they are ignored."""
    values = {"max_new_tokens": 3, "temperature": 0.6, "top_k": 20, "top_p": 0.9}
    greedy, drawn = ResolvedSettings(**values), ResolvedSettings(do_sample=True, **values)
    assert (greedy.temperature, greedy.top_k, greedy.top_p) == (None, None, None)
    assert (drawn.temperature, drawn.top_k, drawn.top_p) == (0.6, 20, 0.9)
    assert not caplog.records


def test_the_model_that_decodes_says_where_texts_end(monkeypatch):
    """BLIP-2's published settings name no end; its language model's do, and only these hold, as in transformers."""
    adapter = ours("blip_2")
    inner = adapter.model.language_model
    assert adapter.generator is inner
    monkeypatch.setattr(adapter.model, "generation_config", GenerationConfig(repetition_penalty=3.0, eos_token_id=9))
    monkeypatch.setattr(inner, "generation_config", GenerationConfig(eos_token_id=7))
    assert checkpoint_settings(adapter.generator) == {"eos_token_id": 7, "stop_strings": [], **_version(inner)}
    inputs = adapter.inputs(REQUESTS[:1])
    made = prepare(adapter.model_for(inputs), inputs, minimal_settings(adapter.generator, 4))
    assert (made.config.eos_token_id, len(made.processors)) == (7, 0)


def _version(model):
    return {k: v for k, v in model.generation_config.to_diff_dict().items() if k == "transformers_version"}
