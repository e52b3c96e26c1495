"""A wrapped model answers as the model inside, its pictures included; a wrapper with weights of its own is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mmhall
from mmhall.errors import ModelError
from mmhall.lvlm import LVLM
from tests.conftest import make_random_llava

ASKED = "What is in the image?"


class Textual(nn.Module):
    """Names no pictures in its forward, as peft's wrapper for causal language models."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, **kwargs):
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    def generate(self, **kwargs):
        return self.inner.generate(**kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


WRAPPERS = {"textual": Textual, "parallel": nn.DataParallel, "compiled": torch.compile}


@pytest.mark.parametrize(
    ("wrapper", "strategy"),
    [("textual", "vcd"), ("parallel", "greedy"), pytest.param("compiled", "vcd", marks=pytest.mark.slow)],
)
def test_a_wrapped_model_answers_as_the_model_inside(wrapper, strategy, processor, pictures):
    wrap, model = WRAPPERS[wrapper], make_random_llava(processor)
    bare, wrapped = LVLM(model, processor), LVLM(wrap(model), processor)
    assert wrapped.model is model
    said = [[one.generate(p, ASKED, strategy, max_new_tokens=6).token_ids for p in pictures] for one in (bare, wrapped)]
    assert said[0] == said[1]
    assert len(set(said[1])) > 1
    assert wrapped.choose(pictures[0], ASKED).probabilities == bare.choose(pictures[0], ASKED).probabilities


@pytest.mark.slow
def test_custom_generate_works_through_a_wrapper(processor, pictures):
    model = make_random_llava(processor)
    lvlm = LVLM(model, processor)
    answer = lvlm.generate(pictures[0], ASKED, "vcd", max_new_tokens=5)
    inputs = dict(processor(text=["USER: <image>\nWhat is in the image? ASSISTANT:"], images=[[pictures[0]]],
                            return_tensors="pt"))  # fmt: skip
    rows = [
        one.generate(**inputs, max_new_tokens=5, custom_generate=mmhall.custom_generate("vcd"))
        for one in (model, Textual(model), torch.compile(model))
    ]
    assert rows[0].tolist() == rows[1].tolist() == rows[2].tolist()
    assert answer.token_ids


def test_a_wrapper_with_weights_of_its_own_is_refused_by_name(processor):
    wrapper = Textual(make_random_llava(processor))
    wrapper.prompt = nn.Parameter(torch.zeros(3))
    with pytest.raises(
        ModelError, match=r"the Textual around the model has weights .*such as prompt.*merge_and_unload"
    ):
        LVLM(wrapper, processor)


@pytest.mark.parametrize("given", [nn.Linear(2, 2), "model", None], ids=str)
def test_what_holds_no_model_is_refused(given, processor):
    with pytest.raises(ModelError, match="expected a transformers model, got a"):
        LVLM(given, processor)


@pytest.mark.filterwarnings("ignore")  # peft's own
class TestPeft:
    @pytest.fixture
    def wrapped(self, processor):
        peft = pytest.importorskip("peft")
        model = make_random_llava(processor)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        return peft.get_peft_model(model, config)

    def test_a_fresh_adapter_changes_nothing_and_a_trained_one_counts(self, wrapped, processor, pictures):
        bare = LVLM(make_random_llava(processor), processor).score(pictures[0], ASKED, "a dog")
        lvlm = LVLM(wrapped, processor)
        assert lvlm.score(pictures[0], ASKED, "a dog").logprobs == bare.logprobs
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "lora_B" in name:
                    weight.normal_(generator=torch.Generator().manual_seed(0))
        assert lvlm.score(pictures[0], ASKED, "a dog").logprobs != bare.logprobs

    def test_a_saved_adapter_is_loaded_with_its_base(self, wrapped, processor, pictures, tmp_path):
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "lora_B" in name:
                    weight.normal_(generator=torch.Generator().manual_seed(0))
        base, folder = tmp_path / "base", tmp_path / "adapter"
        make_random_llava(processor).save_pretrained(base)
        processor.save_pretrained(base)
        wrapped.peft_config["default"].base_model_name_or_path = str(base)
        wrapped.save_pretrained(folder)
        want = LVLM(wrapped, processor).score(pictures[0], ASKED, "a dog").logprobs
        assert mmhall.load(folder, device="cpu").score(pictures[0], ASKED, "a dog").logprobs == want

    def test_an_adapter_that_lacks_weights_is_refused_and_may_be_merged(self, processor, tmp_path):
        """Transformers finds no weights of DoRA's magnitudes by the names that peft saves them under."""
        peft = pytest.importorskip("peft")
        base, folder = tmp_path / "base", tmp_path / "adapter"
        make_random_llava(processor).save_pretrained(base)
        processor.save_pretrained(base)
        config = peft.LoraConfig(r=4, target_modules=["q_proj"], use_dora=True)
        wrapped = peft.get_peft_model(make_random_llava(processor), config)
        wrapped.peft_config["default"].base_model_name_or_path = str(base)
        wrapped.save_pretrained(folder)
        with pytest.raises(ModelError, match=r"weights are missing .* or merge it with merge_and_unload\(\)"):
            mmhall.load(folder, device="cpu")

    def test_learnt_prompts_are_refused(self, processor):
        peft = pytest.importorskip("peft")
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, num_layers=3, token_dim=48,
                                         num_attention_heads=4)  # fmt: skip
        with pytest.raises(ModelError, match="around the model has weights"):
            LVLM(peft.get_peft_model(make_random_llava(processor), config), processor)


def test_a_saved_adapter_without_peft_says_to_merge_it(tmp_path, monkeypatch):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing"}')
    monkeypatch.setattr("mmhall.models._path.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"holds an adapter of peft, which is not installed; .*merge_and_unload"):
        mmhall.load(tmp_path)
