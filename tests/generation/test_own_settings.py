"""What a checkpoint's own settings ask for is honoured, or refused by its name: never a crash, never another answer."""

from __future__ import annotations

import json

import pytest
from transformers import GenerationConfig

import mmhall
from mmhall.errors import OptionError
from mmhall.lvlm import LVLM
from tests.decoders.test_contract import ACTIVE, ids, requests
from tests.generation.reference import QUIET
from tests.zoo import built

pytestmark = [QUIET, pytest.mark.usefixtures("clip")]

QUESTION = "What is in this picture?"
LENGTH = 8
STATIC, HYBRID, NONE = {"cache_implementation": "static"}, {"cache_implementation": "hybrid"}, {"use_cache": False}


@pytest.fixture
def owning(llava):
    """Give the model settings of its own."""

    def own(**settings):
        before = llava.model.generation_config.to_diff_dict()
        llava.model.generation_config = GenerationConfig(**{**before, **settings})

    return own


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("greedy", STATIC),
        ("greedy", HYBRID),
        ("greedy", NONE),
        ("vdd", NONE),
        *(
            pytest.param(name, asked, marks=pytest.mark.slow)
            for name, asked in {
                "beam": NONE,
                "vcd": STATIC,
                "opera": STATIC,
                "gift": NONE,
                "sid": STATIC,
                "dola": HYBRID,
                "cgd": NONE,
                "vhr": STATIC,
            }.items()
        ),
    ],
    ids=str,
)
def test_another_cache_or_none_changes_no_answer(llava, owning, pictures, name, asked):
    """One strategy for each way to decode: branches, lock step, a prompt that is reread, tokens tried, and dropped."""
    spec, asking = ACTIVE.get(name, name), requests(pictures)[:2]
    plain = llava.generate_batch(asking, spec, max_new_tokens=LENGTH)
    owning(**asked)
    assert ids(llava.generate_batch(asking, spec, max_new_tokens=LENGTH)) == ids(plain)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "qwen3_5", "mllama", "blip_2"])
def test_so_it_is_in_families_with_caches_of_other_kinds(family, pictures):
    lvlm = LVLM(*built(family))
    before = lvlm.adapter.generator.generation_config
    for spec in ("greedy", "vdd"):
        plain = lvlm.generate(pictures[0], QUESTION, spec, max_new_tokens=6)
        for asked in (STATIC, NONE):
            lvlm.adapter.generator.generation_config = GenerationConfig(**{**before.to_diff_dict(), **asked})
            try:
                assert lvlm.generate(pictures[0], QUESTION, spec, max_new_tokens=6).token_ids == plain.token_ids
            finally:
                lvlm.adapter.generator.generation_config = before


@pytest.mark.slow
def test_a_checkpoint_saved_without_a_cache_answers(llava, pictures, tmp_path):
    """Training with gradient checkpointing leaves "use_cache": false in config.json, and no generation config."""
    asked = {"strategy": "vdd", "max_new_tokens": LENGTH}
    plain = llava.generate(pictures[0], QUESTION, **asked)
    chosen = llava.choose(pictures[0], QUESTION, calibrate="none")
    llava.model.save_pretrained(tmp_path)
    llava.processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["use_cache"] = config["text_config"]["use_cache"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").unlink()
    loaded = mmhall.load(tmp_path, device="cpu")
    assert loaded.generate(pictures[0], QUESTION, **asked).token_ids == plain.token_ids
    assert loaded.trace(pictures[0], QUESTION, **asked).answer.token_ids == plain.token_ids
    assert loaded.choose(pictures[0], QUESTION, calibrate="none").calibrated == chosen.calibrated
    sure = [each.generate(pictures[0], QUESTION, uncertainty=True, **asked).uncertainty for each in (loaded, llava)]
    assert sure[0] == sure[1]


@pytest.mark.slow
@pytest.mark.parametrize("way", [{}, {"num_beams": 2}, {"do_sample": True, "seed": 1}], ids=str)
def test_stop_strings_of_the_model_end_an_answer(llava, owning, pictures, way):
    asked = {"max_new_tokens": 30, **way}
    whole = llava.generate(pictures[0], QUESTION, **asked)
    stop = whole.tokens[len(whole.tokens) // 2].strip()
    assert stop
    cut = llava.generate(pictures[0], QUESTION, stop_strings=[stop], **asked)
    assert cut.stopped_by == "stop"
    for own in ([stop], stop):
        owning(stop_strings=own)
        same = llava.generate(pictures[0], QUESTION, **asked)
        assert (same.text, same.token_ids, same.stopped_by) == (cut.text, cut.token_ids, "stop")
        assert same.settings["stop_strings"] == [stop]
    assert "".join(llava.stream(pictures[0], QUESTION, **asked)).strip() == cut.text
    assert llava.trace(pictures[0], QUESTION, **asked).answer.token_ids == cut.token_ids
    other = llava.generate(pictures[0], QUESTION, stop_strings=["\N{SNOWMAN}"], **asked)
    assert other.token_ids == whole.token_ids


@pytest.mark.parametrize("asked", [{"cache_implementation": "quantized"}, {"guidance_scale": 2.0}], ids=str)
def test_what_mmhall_does_not_do_is_refused_by_name(llava, owning, pictures, asked):
    owning(**asked)
    (name,) = asked
    with pytest.raises(OptionError, match=f"generation settings: {name} must be"):
        llava.generate(pictures[0], QUESTION)


def test_settings_about_speed_and_output_change_no_answer(llava, owning, pictures):
    plain = llava.generate(pictures[0], QUESTION, max_new_tokens=12)
    owning(output_scores=True, return_dict_in_generate=True, prompt_lookup_num_tokens=2, output_attentions=True)
    same = llava.generate(pictures[0], QUESTION, max_new_tokens=12)
    assert (same.token_ids, same.settings) == (plain.token_ids, plain.settings)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["beam", "opera", "greedy"])
def test_a_trace_reads_a_found_answer_to_its_end(llava, owning, pictures, spec):
    """Stop strings, penalties and limits of the model do not hold for reading what a search has found under others."""
    asked = {"max_new_tokens": 20, "stop_strings": ["\N{SNOWMAN}"]}
    whole = llava.generate(pictures[0], QUESTION, spec, **asked)
    owning(stop_strings=[whole.tokens[3].strip() or "e"], forced_eos_token_id=1)
    found = llava.generate(pictures[0], QUESTION, spec, **asked)
    trace = llava.trace(pictures[0], QUESTION, spec, **asked)
    assert trace.answer.token_ids == found.token_ids
    assert len(trace.image_attention) == len(found.token_ids) > 4
