from __future__ import annotations

import copy
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

import mmhall
from mmhall.adapters._base import Adapter, Request
from mmhall.errors import ImageError, MmhallError, ModelError, OptionError, PromptError, UnknownNameError
from mmhall.lvlm import LVLM
from mmhall.models._path import EMBEDDED
from tests.conftest import make_random_llava
from tests.zoo import built


def test_a_stream_checks_its_arguments_before_it_starts(llava, pictures):
    with pytest.raises(MmhallError, match=r"2 (sequences|answers).* cannot be streamed|num_return_sequences"):
        llava.stream(pictures[0], "What?", do_sample=True, num_return_sequences=2)
    with pytest.raises(UnknownNameError, match="did you mean 'vcd'"):
        llava.stream(pictures[0], "What?", "vccd")


def test_an_error_in_a_stream_reaches_its_consumer(llava, pictures):
    llava.model.lm_head.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("on purpose")))
    with pytest.raises(RuntimeError, match="on purpose"):
        list(llava.stream(pictures[0], "What?", "vcd"))


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["greedy", "vdd", "vcd+vhr(layers=':')"])
def test_scores_are_those_that_each_token_was_chosen_from(llava, pictures, spec):
    """Of every answer of a batch, however early it ends, and the same as alone."""
    asked = [(pictures[0], "What?"), (pictures[1], "What is on the left, and what else is there?")]
    plain = llava.generate_batch(asked, spec, max_new_tokens=5)
    llava.model.generation_config.eos_token_id = plain[0].token_ids[2]
    answers = llava.generate_batch(asked, spec, scores=True, max_new_tokens=5)
    assert len(answers[0].token_ids) < len(answers[1].token_ids)
    for answer, request, without in zip(answers, asked, plain, strict=True):
        scores = answer.scores
        assert scores.shape == (len(answer.token_ids), llava.model.lm_head.out_features)
        assert (scores.dtype, scores.device.type) == (torch.float32, "cpu")
        assert tuple(scores.argmax(dim=-1).tolist()) == answer.token_ids
        alone = llava.generate(*request, spec, scores=True, max_new_tokens=5)
        torch.testing.assert_close(scores, alone.scores, rtol=0, atol=1e-3)
        assert without.scores is None


def test_scores_of_greedy_are_the_models_logits(llava, pictures):
    answer = llava.generate(pictures[0], "What?", scores=True, max_new_tokens=4)
    inputs = llava.adapter.inputs([Request("What?", (pictures[0],))])
    told = llava.model.generate(
        **inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    wanted = torch.cat(told.logits)[: len(answer.token_ids)]
    torch.testing.assert_close(answer.scores, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("beam", {}, "generate: scores must be left out with beams or a search"),
        ("opera", {}, "generate: scores must be left out with beams or a search"),
        ("greedy", {"num_beams": 2}, "generate: scores must be left out with beams or a search"),
        ("greedy", {"do_sample": True, "num_return_sequences": 2}, "num_return_sequences must be 1 with scores=True"),
    ],
)
def test_scores_are_refused_where_they_belong_to_no_single_answer(llava, pictures, spec, settings, message):
    with pytest.raises(OptionError, match=message):
        llava.generate(pictures[0], "What?", spec, scores=True, max_new_tokens=3, **settings)


def test_no_requests_give_no_answers(llava):
    assert llava.generate_batch([]) == []


def test_prompts_with_and_without_pictures_do_not_mix(llava, pictures):
    with pytest.raises(PromptError, match="mixes prompts with and without a picture"):
        llava.generate_batch([(pictures[0], "a"), (None, "b")])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_tokens": 3}, UnknownNameError, "unknown generation setting 'max_tokens'; did you mean 'max_new_tokens'"),
        ({"temperature": 0.0, "do_sample": True}, OptionError, "temperature must be a number > 0"),
        ({"temperature": float("nan"), "do_sample": True}, OptionError, "temperature must be a number > 0"),
        ({"temperature": 0.5}, OptionError, "temperature must be left out unless do_sample=True"),
        ({"max_new_tokens": 2.5}, OptionError, "max_new_tokens must be an integer"),
        ({"max_new_tokens": None}, OptionError, "max_new_tokens must be an integer"),
        ({"do_sample": "no"}, OptionError, "do_sample must be True or False"),
        ({"seed": -1}, OptionError, "seed must be an integer from 0"),
        ({"top_p": 1.5, "do_sample": True}, OptionError, r"top_p must be a number in \(0, 1\]"),
        ({"num_beams": 0}, OptionError, "num_beams must be an integer >= 1"),
        ({"num_beams": "3"}, OptionError, "num_beams must be"),
        ({"do_sample": True, "num_beams": 2}, OptionError, "do_sample must be False with a search of 2 beams"),
        ({"max_new_tokens": 500}, PromptError, "500 new ones exceed the model's context of 512"),
    ],
)
def test_bad_settings_are_refused(llava, pictures, settings, error, message):
    with pytest.raises(error, match=message):
        llava.generate(pictures[0], "What?", **settings)


def test_a_missing_picture_is_an_error(llava):
    with pytest.raises(ImageError):
        llava.generate("gone.png", "What?")


def test_sampling_leaves_the_global_generator_alone(llava, pictures):
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    llava.generate(pictures[0], "What?", do_sample=True, seed=9, max_new_tokens=3)
    torch.testing.assert_close(torch.rand(1), wanted)


def test_sampling_follows_its_seed_and_temperature(llava, pictures):
    def said(**settings):
        return llava.generate(pictures[0], "What?", do_sample=True, max_new_tokens=12, **settings).token_ids

    assert said(seed=1) == said(seed=1)
    assert len({said(seed=seed) for seed in range(4)}) > 1
    greedy = llava.generate(pictures[0], "What?", max_new_tokens=12).token_ids
    assert said(seed=1, temperature=1e-4) == greedy


def test_the_record_holds_every_value_in_force(llava, pictures):
    """No top-k unless asked for: transformers would quietly keep 50."""
    neutral = {
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "length_penalty": 1.0,
        "num_return_sequences": 1, "stop_strings": [],
    }  # fmt: skip
    sampled = llava.generate(pictures[0], "What?", do_sample=True, top_p=0.5, seed=4, max_new_tokens=2)
    assert sampled.settings == neutral | {
        "max_new_tokens": 2, "do_sample": True, "num_beams": 1, "top_p": 0.5, "seed": 4,
    }  # fmt: skip
    assert llava.generate(pictures[0], "What?", max_new_tokens=2).settings["do_sample"] is False


def test_the_models_own_settings_hold_unless_given(llava, pictures):
    llava.model.generation_config.repetition_penalty = 1.3
    assert llava.generate(pictures[0], "What?", max_new_tokens=2).settings["repetition_penalty"] == 1.3
    given = llava.generate(pictures[0], "What?", max_new_tokens=2, repetition_penalty=1.1)
    assert given.settings["repetition_penalty"] == 1.1


@pytest.mark.parametrize("penalty", [1.1, 1.5])
def test_a_repetition_penalty_means_the_same_with_and_without_branches(llava, pictures, penalty):
    plain = llava.generate(pictures[0], "What?", max_new_tokens=12, repetition_penalty=penalty)
    same = llava.generate(pictures[0], "What?", "vcd(alpha=0)", max_new_tokens=12, repetition_penalty=penalty)
    assert same.token_ids == plain.token_ids


@pytest.mark.slow
def test_threads_that_sample_do_not_disturb_each_other(llava, pictures):
    def said(seed):
        answer = llava.generate(pictures[0], "What?", "vdd", do_sample=True, seed=seed, max_new_tokens=8)
        return answer.token_ids

    wanted, got = [said(seed) for seed in range(4)], [()] * 4

    def work(seed):
        got[seed] = said(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == wanted


def test_a_batch_of_another_model_is_refused(llava, embedded, pictures):
    batch = embedded.adapter.inputs([Request("What?", (pictures[0],))])
    path = re.escape(embedded.model.config.name_or_path)
    for made in (batch, embedded.adapter.without_image(batch), embedded.adapter.picked(batch, [0])):
        with pytest.raises(ModelError, match=rf"made for llava \({path}\), and llava is asked; make them with"):
            llava.generate_batch(made, max_new_tokens=1)
        with pytest.raises(ModelError, match="is asked; make them with"):
            llava.generate_many(made, max_new_tokens=1)
    own = llava.adapter.inputs(batch.requests)
    assert len(llava.generate_batch(own, max_new_tokens=1)) == 1


def test_image_positions_are_marked_and_nothing_else(llava, pictures):
    inputs = llava.adapter.inputs(
        [Request("Is there a dog?", (pictures[0],)), Request("Describe this image.", (pictures[1],))]
    )
    mask = llava.adapter.image_mask(inputs["input_ids"])
    assert mask.sum(1).tolist() == [64, 64]
    assert (inputs["input_ids"][mask] == llava.adapter.image_token_id).all()


def test_an_unknown_family_is_driven_if_it_attends_as_all_do(llava, pictures, monkeypatch):
    def said(lvlm):
        return [lvlm.generate(pictures[0], "What?", name, max_new_tokens=8).token_ids for name in ("greedy", "vdd")]

    known = said(llava)
    monkeypatch.setattr(type(llava.model.config), "model_type", "other")
    other = LVLM(llava.model, llava.processor)
    assert type(other.adapter) is Adapter
    assert said(other) == known


def test_a_model_that_knows_no_pictures_is_refused(processor):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(ModelError, match="llama: its config has no image_token_id"):
        LVLM(LlamaForCausalLM(LlamaConfig(vocab_size=len(processor.tokenizer), **small)), processor)


def test_fingerprints_tell_weights_apart(llava):
    before = llava.identity()
    assert llava.identity() == before
    with torch.no_grad():
        llava.model.lm_head.weight[0, 0] += 1
    after = llava.identity()
    assert {key for key in before if before[key] != after[key]} == {"weights"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "no such folder"),
        ("nobody/nothing", "cannot load model"),
        ("x" * 300, "cannot be read: file name too long; give the folder"),
        (Path("x" * 300), "cannot be read: file name too long; give the folder"),
        ("x" * 252, "cannot load model"),  # the name of its tuned options is too long
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_loaded_is_one_line(name, message):
    with pytest.raises(ModelError, match=message) as caught:
        mmhall.load(name)
    assert "\n" not in str(caught.value)


def test_a_torn_weights_file_is_one_line(llava, tmp_path):
    llava.model.save_pretrained(tmp_path)
    llava.processor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot load model"):
        mmhall.load(tmp_path)


def test_an_unknown_load_option_is_one_line(llava, tmp_path):
    llava.model.save_pretrained(tmp_path)
    llava.processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot load model"):
        mmhall.load(tmp_path, nonsense=1)


def test_the_users_processor_stays_as_it_was(processor):
    """Without a template of its own, LLaVA-1.5's is used but not written onto it."""
    bare = copy.deepcopy(processor)
    bare.chat_template = None
    lvlm = LVLM(make_random_llava(bare), bare)
    assert lvlm.adapter.render(Request("Hello.")) == "USER: Hello. ASSISTANT:"
    assert bare.chat_template is None


def test_a_template_that_writes_the_first_token_itself_gets_no_second_one(processor):
    twice = copy.deepcopy(processor)
    twice.chat_template = "<s>USER: {{ messages[0]['content'][0]['text'] }} ASSISTANT:"
    lvlm = LVLM(make_random_llava(twice), twice)
    assert lvlm.adapter.inputs([Request("Hello.")])["input_ids"][0].tolist().count(0) == 1


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["dog", " ", "on"])
def test_a_stop_string_ends_an_answer_however_the_tokenizer_splits(embedded, llava, pictures, stop):
    """The embedded tokenizer has words only, and no way to spell a letter."""
    for lvlm in (embedded, llava):
        whole = lvlm.generate(pictures[0], "Please describe this image in detail.", max_new_tokens=30)
        cut = lvlm.generate(
            pictures[0], "Please describe this image in detail.", max_new_tokens=30, stop_strings=[stop]
        )
        if stop in whole.text:
            assert cut.text == whole.text[: whole.text.index(stop)].strip()
            assert cut.stopped_by == "stop"
            assert len(cut.token_ids) < len(whole.token_ids)
        else:
            assert cut.text == whole.text
        streamed = lvlm.stream(
            pictures[0], "Please describe this image in detail.", max_new_tokens=30, stop_strings=[stop]
        )
        assert "".join(streamed).strip() == cut.text


@pytest.mark.parametrize("batch", [["ab"], [("a", "b", "c")], [None], "ab", [(None, "What?"), (None,)]])
def test_malformed_batches_are_refused(llava, batch):
    with pytest.raises(PromptError, match="made of pairs"):
        llava.generate_batch(batch)


def test_a_batch_may_be_any_iterable(llava, pictures):
    assert llava.generate_batch(iter(())) == []
    (answer,) = llava.generate_batch(((picture, "What?") for picture in pictures[:1]), max_new_tokens=3)
    assert answer.token_ids == llava.generate(pictures[0], "What?", max_new_tokens=3).token_ids


@pytest.mark.parametrize("prompt", [None, 3, b"What?", "a\udcff"])
def test_prompts_that_are_no_text_are_refused(llava, pictures, prompt):
    with pytest.raises(PromptError, match=r"must be text|no valid Unicode"):
        llava.generate(pictures[0], prompt)


@pytest.mark.parametrize("strategy", [None, 3, mmhall.Strategy])
def test_strategies_that_are_none_are_refused(llava, pictures, strategy):
    with pytest.raises(OptionError, match="strategy must be a name"):
        llava.generate(pictures[0], "What?", strategy)


def test_a_processor_without_a_chat_template_says_so(pictures):
    model, processor = built("qwen2_vl")
    bare = copy.copy(processor)
    bare.chat_template = None
    with pytest.raises(ModelError, match="chat template cannot be used"):
        LVLM(model, bare).generate(pictures[0], "What?")


def test_a_tokenizer_is_no_processor():
    model, processor = built("llava")
    with pytest.raises(ModelError, match="does not read both text and pictures"):
        LVLM(model, processor.tokenizer)


class TestLoading:
    def test_missing_weights_are_refused(self, tmp_path):
        folder = tmp_path / "model"
        shutil.copytree(EMBEDDED, folder)
        weights = load_file(folder / "model.safetensors")
        lost = sorted(weights)[5]
        save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match="1 weights are missing or of the wrong shape"):
            mmhall.load(folder)

    def test_a_text_only_model_is_refused(self, tmp_path):
        sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=1)).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="Unrecognized processing class"):
            mmhall.load(tmp_path)

    @pytest.mark.parametrize("name", [None, 123, ""])
    def test_names_that_are_none_are_refused(self, name):
        with pytest.raises(ModelError, match="a model is named by"):
            mmhall.load(name)

    def test_an_attention_nobody_has_is_refused(self):
        with pytest.raises(ModelError, match="cannot load model 'embedded'"):
            mmhall.load("embedded", attn_implementation="nosuch")

    def test_a_device_map_says_what_it_needs(self, monkeypatch):
        monkeypatch.setattr("mmhall.models._placement.find_spec", lambda name: None if name == "accelerate" else name)
        with pytest.raises(ModelError, match=r'needs accelerate.*pip install "mmhall\[accelerate\]"'):
            mmhall.load(device_map="auto")

    def test_a_device_map_places_the_model(self, pictures):
        placed = mmhall.load(device_map={"": "cpu"})
        plain = mmhall.load(device="cpu")
        asked = (pictures[0], "Is there a dog in the image?")
        assert placed.generate(*asked).token_ids == plain.generate(*asked).token_ids

    def test_a_device_may_be_torchs(self):
        assert mmhall.load("embedded", device=torch.device("cpu")).model.dtype == torch.float32

    def test_a_dtype_may_be_named(self):
        assert mmhall.load("embedded", device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([], "one for each of the 2 requests"),
        ([1], "one for each of the 2 requests"),
        ([1, 2, 3], "one for each of the 2 requests"),
        ([1, -1], "each an integer from 0"),
        ([1, 2**63], "each an integer from 0"),
        ([1, 1.5], "each an integer from 0"),
        ([True, False], "each an integer from 0"),
        (["1", "2"], "each an integer from 0"),
        ("12", "each an integer from 0"),
        (7, "one for each of the 2 requests"),
    ],
    ids=str,
)
def test_seeds_are_one_for_each_request(llava, pictures, seeds, message):
    asked = [(picture, "What?") for picture in pictures[:2]]
    with pytest.raises(OptionError, match=f"generate_batch: seeds must be {message}"):
        llava.generate_batch(asked, do_sample=True, max_new_tokens=4, seeds=seeds)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["greedy", "vdd"])
def test_each_request_draws_from_its_own_seed(llava, pictures, spec):
    asked = [(picture, "What?") for picture in pictures[:2]]
    drawn = llava.generate_batch(asked, spec, do_sample=True, max_new_tokens=12, seeds=np.array([5, 0]))
    alone = [
        llava.generate(*request, spec, do_sample=True, max_new_tokens=12, seed=seed)
        for request, seed in zip(asked, (5, 0), strict=True)
    ]
    assert [answer.token_ids for answer in drawn] == [answer.token_ids for answer in alone]
    assert llava.generate_batch([], do_sample=True, seeds=[]) == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "instructblip", "mllama"])
def test_autocast_around_generate_is_transformers_own(name, pictures):
    lvlm, request, dtypes = LVLM(*built(name)), Request("What is it?", (pictures[1],)), set()
    inputs = lvlm.adapter.inputs([request])
    head = lvlm.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda *call: dtypes.add(call[2].dtype))
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            own = lvlm.model.generate(**inputs, max_new_tokens=6, do_sample=False)
            answer = lvlm.generate(pictures[1], request.prompt, max_new_tokens=6)
    finally:
        hook.remove()
    said = tuple(own[0, inputs["input_ids"].shape[1] :].tolist())
    assert said[: len(answer.token_ids)] == answer.token_ids
    assert len(said) - len(answer.token_ids) in (0, 1)  # its end
    assert dtypes == {torch.bfloat16}
