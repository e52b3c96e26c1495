"""Chat templates: a list of parts or a string, one that is missing, and pictures that never go missing."""

from __future__ import annotations

import copy

import pytest

from mmhall.adapters._base import Request
from mmhall.errors import ModelError
from mmhall.lvlm import LVLM
from tests.zoo import ZOO, built

ADDS = "{% for m in messages %}{{ 'USER: ' + m['content'] + ' ASSISTANT:' }}{% endfor %}"
PRINTS = "{% for m in messages %}USER: {{ m.content }}{% endfor %} ASSISTANT:"
FORGETS = "{% for m in messages %}USER: {% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %} ASSISTANT:"


def with_template(name, template):
    model, processor = built(name)
    processor = copy.copy(processor)
    processor.chat_template = template
    return LVLM(model, processor)


@pytest.mark.parametrize("template", [ADDS, PRINTS])
def test_a_template_that_takes_a_string_is_given_the_placeholder_in_it(template, wide):
    """The answer is that of the same prompt read by the processor by hand."""
    lvlm = with_template("llava", template)
    inputs = lvlm.processor(text=["USER: <image>\nWhat? ASSISTANT:"], images=[[wide]], return_tensors="pt")
    said = lvlm.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert lvlm.generate(wide, "What?", max_new_tokens=5).token_ids == tuple(said.tolist())


@pytest.mark.parametrize("name", ZOO)
def test_the_placeholder_of_a_string_is_what_the_familys_template_writes(name, wide):
    lvlm = LVLM(*built(name))
    if lvlm.adapter.chat is None:
        pytest.skip("has no chat format")
    stringly = with_template(name, ADDS)
    own, other = (one.adapter.inputs([Request("What?", (wide,))])["input_ids"] for one in (lvlm, stringly))
    marked = lvlm.adapter.placeholders(own), lvlm.adapter.placeholders(other)
    first, last = ((int(at.nonzero()[0, 1]), int(at.nonzero()[-1, 1])) for at in marked)
    assert own[0, first[0] : first[1] + 1].tolist() == other[0, last[0] : last[1] + 1].tolist()
    if lvlm.adapter.placeholder != getattr(lvlm.processor, "image_token", None):  # frames matter as well
        assert own[0, first[0] - 1 : first[1] + 2].tolist() == other[0, last[0] - 1 : last[1] + 2].tolist()


@pytest.mark.parametrize("template", [ADDS, PRINTS])
def test_a_prompt_without_a_picture_is_a_string_there_too(template):
    assert with_template("llava", template).adapter.render(Request("What?")) == "USER: What? ASSISTANT:"


def test_words_that_look_like_a_part_do_not_choose_the_form(wide):
    own, prompt = LVLM(*built("llava")).adapter, "Say {'type': 'text'}."
    assert prompt in own.render(Request(prompt, (wide,)))
    assert "'text':" not in own.render(Request(prompt, (wide,)))


def test_a_template_that_leaves_pictures_out_is_refused(wide):
    with pytest.raises(ModelError, match=r"leaves pictures out; set another with chat_template=.*--chat-template"):
        with_template("llava", FORGETS).generate(wide, "What?", max_new_tokens=2)
    assert with_template("llava", FORGETS).generate(None, "What?", max_new_tokens=2).text is not None


def test_a_processor_without_a_template_says_how_to_give_one(wide):
    with pytest.raises(ModelError, match=r"the processor has none; set one with chat_template=.*--chat-template"):
        with_template("qwen2_5_vl", None).generate(wide, "What?", max_new_tokens=2)


def test_a_template_that_stands_in_is_told(wide):
    settings = with_template("llava", None).generate(wide, "What?", max_new_tokens=2).settings
    assert settings["chat_template"] == "LLaVA-1.5's: the processor has none"
    assert "chat_template" not in LVLM(*built("llava")).generate(wide, "What?", max_new_tokens=2).settings


@pytest.mark.parametrize("name", ZOO)
def test_pictures_that_the_model_does_not_take_are_an_error(name, wide, monkeypatch):
    lvlm = LVLM(*built(name))
    monkeypatch.setattr(lvlm.adapter, "_accepted", {"input_ids", "attention_mask"})
    with pytest.raises(ModelError, match="pictures do not reach the model: its forward takes no pixel_values"):
        lvlm.generate(wide, "What?", max_new_tokens=2)


@pytest.mark.parametrize("name", ZOO)
def test_pictures_that_the_processor_does_not_read_are_an_error(name, wide, monkeypatch):
    lvlm = LVLM(*built(name))
    read = type(lvlm.adapter).read

    def forgetful(self, request, text):
        return {key: value for key, value in read(self, request, text).items() if key != "pixel_values"}

    monkeypatch.setattr(type(lvlm.adapter), "read", forgetful)
    with pytest.raises(ModelError, match="pictures do not reach the model: its processor reads none"):
        lvlm.generate(wide, "What?", max_new_tokens=2)


def test_a_template_is_tried_once_for_messages_of_one_kind_and_again_when_it_changes(wide, monkeypatch):
    lvlm = with_template("llava", copy.copy(built("llava")[1].chat_template))
    calls, render = [], type(lvlm.processor).apply_chat_template
    monkeypatch.setattr(
        type(lvlm.processor), "apply_chat_template", lambda *args, **named: calls.append(1) or render(*args, **named)
    )
    lvlm.adapter.render(Request("What?", (wide,)))
    tried = len(calls)
    lvlm.adapter.render(Request("Who?", (wide,)))
    assert len(calls) == tried + 1
    assert tried > 1
    lvlm.processor.chat_template = FORGETS
    with pytest.raises(ModelError, match="leaves pictures out"):
        lvlm.adapter.render(Request("Who?", (wide,)))
