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
