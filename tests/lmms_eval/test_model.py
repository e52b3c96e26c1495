"""What the class does with requests that the command line's small task does not send."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from mmhall.errors import ImageError, PromptError

pytestmark = [
    pytest.mark.lmms,
    pytest.mark.filterwarnings("ignore"),  # lmms-eval's own
    pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="needs: pip install lmms_eval==0.7.3"),
]
DESCRIBE = "Please describe this image in detail."


@pytest.fixture
def model(pictures):
    from mmhall.lmms_eval.model import Mmhall

    torch.manual_seed(5)
    flags = {"batch_size": 4, "max_batch_size": None, "device": None}
    model = Mmhall.create_from_arg_string("strategy=vdd,device=cpu,tuned=none", flags)
    model.task_dict = {"drawn": {"test": pictures}}
    return model


def request(prompt, visuals=lambda picture: [picture], document=0, **asked):
    from lmms_eval.api.instance import Instance

    arguments = (prompt, {"max_new_tokens": 12, **asked}, visuals, document, "drawn", "test")
    return Instance("generate_until", arguments, 0, {"task": "drawn", "doc_id": document, "repeats": 1})


def texts(model, requests):
    return [result.text for result in model.generate_until(requests)]


def test_requests_of_every_kind_are_answered_in_their_order(model, embedded, pictures):
    asked = [
        request(DESCRIBE),
        request("Is there a dog in the image?", None),
        request("<image>\nIs there a dog in the image?", document=1),
        request(DESCRIBE, document=2, until=[" a "], num_beams=1),
        request(DESCRIBE, lambda picture: [picture.convert("L"), [picture]], 1, max_new_tokens=5),
        request(DESCRIBE, document=1, num_beams=2),
    ]
    own = [
        embedded.generate(pictures[0], DESCRIBE, "vdd", max_new_tokens=12),
        embedded.generate(None, "Is there a dog in the image?", "vdd", max_new_tokens=12),
        embedded.generate(pictures[1], "Is there a dog in the image?", "vdd", max_new_tokens=12),
        embedded.generate(pictures[2], DESCRIBE, "vdd", max_new_tokens=12, stop_strings=(" a ",)),
        embedded.generate([pictures[1].convert("L"), pictures[1]], DESCRIBE, "vdd", max_new_tokens=5),
        embedded.generate(pictures[1], DESCRIBE, "vdd", max_new_tokens=12, num_beams=2),
    ]
    assert own[3].stopped_by == "stop"
    assert texts(model, asked) == [answer.text for answer in own]


@pytest.fixture
def warnings_of():
    """What the plug-in warns of while a test runs."""
    from loguru import logger

    told = []
    number = logger.add(lambda message: told.append(message.record["message"]), level="WARNING")
    yield told
    logger.remove(number)


def test_pictures_are_shown_where_a_text_marks_them(model, embedded, pictures, warnings_of):
    two = lambda picture: [picture, pictures[2]]  # noqa: E731
    prompt = "First: <image> Second: <image> Which is red?"
    messages = [{"role": "user", "content": [
        {"type": "text", "text": "First: "}, {"type": "image"}, {"type": "text", "text": " Second: "},
        {"type": "image"}, {"type": "text", "text": " Which is red?"},
    ]}]  # fmt: skip
    asked = [request(prompt, two), request("<image>\n<image> Which is red?", two)]
    own = [
        embedded.generate([pictures[0], pictures[2]], messages, "vdd", max_new_tokens=12),
        embedded.generate([pictures[0], pictures[2]], "Which is red?", "vdd", max_new_tokens=12),
    ]
    assert own[0].usage.prompt_tokens > own[1].usage.prompt_tokens
    got = model.generate_until(asked)
    assert [one.text for one in got] == [answer.text for answer in own]
    assert [one.token_counts.input_tokens for one in got] == [answer.usage.prompt_tokens for answer in own]
    assert warnings_of == []


def test_other_numbers_of_marks_show_pictures_first_and_say_so_once(model, embedded, pictures, warnings_of):
    asked = [request("Is <image> or <image> red?", document=number) for number in (1, 2)]
    own = [embedded.generate(pictures[n], "Is  or  red?", "vdd", max_new_tokens=12).text for n in (1, 2)]
    assert texts(model, asked) == own
    (told,) = warnings_of
    assert told == (
        "drawn: places pictures within its text; mmhall shows them before it: document 1: marks 2, pictures 1"
    )


def test_a_template_that_cannot_place_pictures_shows_them_first_and_says_why(model, pictures, warnings_of):
    model._lvlm.processor.chat_template = (
        "{% for m in messages %}{% for p in m.content if p.type == 'image' %}<image>{% endfor %}"
        "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endfor %} ASSISTANT:"
    )
    asked, first = (texts(model, [request(prompt)]) for prompt in ("Is <image> red?", "Is  red?"))
    assert asked == first
    (told,) = warnings_of
    assert "drawn: places pictures within its text; mmhall shows them before it: llava: its chat template" in told
    assert "puts texts and pictures in another order" in told


def test_a_repeated_request_is_sampled_anew_and_can_be_repeated(model, embedded, pictures):
    sampled = [request(DESCRIBE, do_sample=True, temperature=1.5)] * 3
    got = texts(model, sampled)
    settings = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5}
    own = [embedded.generate(pictures[0], DESCRIBE, "vdd", seed=seed, **settings).text for seed in (5, 6, 7)]
    assert got == own == texts(model, sampled)
    assert len(set(got)) > 1


def test_what_cannot_be_answered_is_an_error_that_names_the_document(model):
    with pytest.raises(ImageError, match=r"drawn, document 2: .*not with video"):
        texts(model, [request(DESCRIBE), request(DESCRIBE, lambda picture: ["clip.mp4"], 2)])
    with pytest.raises(PromptError, match=r"drawn, document 1: .*exceed the model's context"):
        texts(model, [request(DESCRIBE, document=1, max_new_tokens=4000)])
    for ask in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(PromptError, match="drawn: "):
            ask([request(DESCRIBE)])


def test_memory_is_freed_when_everything_is_answered(model):
    model.accelerator = None
    model.clean()
    assert not any(isinstance(value, torch.nn.Module) for value in vars(model).values())
    assert not hasattr(model, "_lvlm")
