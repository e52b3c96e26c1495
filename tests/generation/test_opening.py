"""A search that opens crops of the picture while it runs, against one that reads everything anew, eagerly."""

from __future__ import annotations

import re

import pytest
import torch

from mmhall.adapters._base import Request
from mmhall.errors import CompositionError, ModelError, OptionError, PromptError
from mmhall.generation._beams import pad_answers
from mmhall.strategies import Session
from tests.decoders.reference import Slow, greedily, settings, slow
from tests.generation.reference import QUIET, picture
from tests.generation.test_memory import Diary, Drift, Remembering
from tests.jobs import decode

pytestmark = QUIET

NEW, EVERY = 5, 2
REQUESTS = (
    Request("Is there a dog?", (picture(40, 40, 4),)),
    Request("Please describe this image in detail. What is on the left?", (picture(64, 32, 8),)),
)
FAMILIES = ("llava", "llava_next", "qwen2_5_vl", "mllama")


def crop(image, row, number=0):
    """The left half of a picture, or what is right and below: crops of different shapes."""
    width, height = image.size
    return image.crop((0, 0, width // 2, height) if row == 0 else (width // 3, height // 3, width, height))


def contrasted(plain, crops):
    """Move towards what both crops agree on, (V,) and (2, V)."""
    return plain.log_softmax(-1) + 0.8 * crops.log_softmax(-1).mean(dim=0)


class Zooming:
    """Decodes greedily; at every third token it looks at two crops of the picture as well.

    Attributes:
        opened: How many image tokens the crops have, by prompt and step.
    """

    def __init__(self, session=lambda adapter, inputs: None) -> None:
        self.session, self.opened = session, {}

    def __call__(self, decoding):
        prompts = range(len(decoding.prepared.input_ids))
        return pad_answers([self.answer(decoding, prompt) for prompt in prompts], decoding.prepared)

    def answer(self, decoding, prompt):
        rows = decoding.rows.taken(torch.tensor([prompt]))
        while True:
            (scores,) = rows.scores()
            if rows.said.shape[1] % EVERY == 0:
                scores = contrasted(scores, self.look(decoding, prompt, rows.said.repeat(2, 1)))
            token = scores.argmax()[None]
            if rows.said.shape[1] == NEW - 1:
                return torch.cat([rows.said[0], token])
            rows.step(token)

    def look(self, decoding, prompt, said):
        """What two crops would say next, (2, V)."""
        adapter = decoding.job.adapter
        crops = adapter.with_pictures(adapter.picked(decoding.job.inputs, [prompt, prompt]), crop)
        self.opened[prompt, said.shape[1]] = adapter.image_mask(crops["input_ids"]).sum(dim=1).tolist()
        rows = decoding.open(crops, said, self.session(adapter, crops))
        assert torch.equal(rows.said, said)
        return rows.scores()


def anew(model, request, scores) -> list[int]:
    """The same search for one prompt; `scores` returns what a cropped request says after an answer, (V,)."""
    inputs, answer = model.adapter.inputs([request]), []
    cropped = [Request(request.prompt, (crop(request.images[0], row),)) for row in (0, 1)]
    while len(answer) < NEW:
        told = model.read(model.longer(inputs, answer)).log_softmax(-1)
        if len(answer) % EVERY == 0:
            told = contrasted(told, torch.stack([scores(one, answer) for one in cropped]))
        answer.append(int(told.argmax()))
    return answer


def plainly(model: Slow, request, answer):
    return model.read(model.longer(model.adapter.inputs([request]), answer))


def said(model, requests, search):
    inputs = model.adapter.inputs(requests)
    return decode(model.adapter, inputs, Session(search=search), settings(model.adapter, max_new_tokens=NEW)).tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_crops_opened_on_the_way_are_read_as_the_reference_reads_them(name):
    model, search = slow(name), Zooming()
    wanted = [anew(model, request, lambda one, answer: plainly(model, one, answer)) for request in REQUESTS]
    assert said(model, REQUESTS, search) == wanted
    assert [said(model, [request], Zooming())[0] for request in REQUESTS] == wanted
    assert wanted != [list(greedily(lambda answer, one=one: plainly(model, one, answer), NEW)) for one in REQUESTS]
    assert len(search.opened) == 2 * 3
    if name in ("llava_next", "qwen2_5_vl"):
        whole = model.adapter.inputs(REQUESTS)
        counts = {int(count) for count in model.adapter.image_mask(whole["input_ids"]).sum(dim=1)}
        assert {count for pair in search.opened.values() for count in pair} - counts, "crops have as many tokens"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_an_op_of_rows_that_are_opened_acts_as_if_it_had_been_there_from_the_start(name):
    model = slow(name)

    def drifted(request, answer):
        inputs = model.adapter.inputs([request])
        edit = Drift.eager(inputs["input_ids"].shape[1])
        return model.read(model.longer(inputs, answer), output=edit)

    search = Zooming(lambda adapter, inputs: Session(ops=[Drift()]))
    assert said(model, REQUESTS, search) == [anew(model, request, drifted) for request in REQUESTS]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_a_combination_of_rows_that_are_opened_remembers_each_token(name):
    model, diaries = slow(name), {}

    def told(request, answer):
        key = request.prompt, request.images[0].size
        diary = diaries.setdefault(key, Diary(model, request, "decayed"))
        return diary(answer)

    search = Zooming(lambda adapter, inputs: Remembering(kind="decayed").prepare(adapter, inputs))
    assert said(model, REQUESTS, search) == [anew(model, request, told) for request in REQUESTS]


@pytest.mark.parametrize("name", ["llava", "mllama"])
@torch.inference_mode()
def test_rows_that_are_opened_go_on_like_any_others(name):
    """Step by step, with tokens tried side by side, and with what the picture shows taken away."""
    model, found = slow(name), []

    def search(decoding):
        adapter, tokens = decoding.job.adapter, torch.tensor([[90, 97], [101, 104]])
        rows = decoding.open(adapter.without_image(decoding.job.inputs), torch.tensor([[95], [96]]))
        rows.split(tokens)
        found.extend(rows.logits[0].clone())
        rows.keep(torch.tensor([1, 0]), torch.tensor([0, 1]))
        rows.step(torch.tensor([92, 93]))
        found.extend(rows.scores())
        return torch.zeros(2, 1, dtype=torch.long)

    said(model, REQUESTS, search)
    bare = [model.adapter.without_image(model.adapter.inputs([request])) for request in REQUESTS]
    answers = [
        [(0, (95, 90)), (0, (95, 97))],
        [(1, (96, 101)), (1, (96, 104))],
        [(1, (96, 101, 92))],
        [(0, (95, 97, 93))],
    ]
    for logits, row in zip(found, answers, strict=True):
        wanted = torch.stack([model.read(model.longer(bare[one], answer)) for one, answer in row])
        got = logits.view(len(row), -1).log_softmax(-1)
        torch.testing.assert_close(got.clamp_min(-50), wanted.log_softmax(-1).clamp_min(-50), rtol=1e-5, atol=1e-4)


class Fails(Drift):
    def edit_output(self, call, output):
        if call.step == 2:
            raise RuntimeError("it broke")
        return super().edit_output(call, output)


def hooks(model):
    parts = list(model.adapter.model.modules())
    return [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_nothing_is_left_behind_when_rows_that_are_opened_fail(name):
    model = slow(name)
    before, standing = said(model, REQUESTS, Zooming()), hooks(model)
    with pytest.raises(RuntimeError, match="it broke"):
        said(model, REQUESTS, Zooming(lambda adapter, inputs: Session(ops=[Fails()])))
    assert hooks(model) == standing
    assert said(model, REQUESTS, Zooming()) == before


def test_what_cannot_be_opened_is_refused():
    model = slow("llava")
    adapter = model.adapter

    def opening(inputs=None, said=None):
        def search(decoding):
            decoding.open(decoding.job.inputs if inputs is None else inputs(decoding.job.inputs), said)

        return search

    with pytest.raises(CompositionError, match="2 inputs are opened with 1 rows of tokens; give a row for each"):
        said(model, REQUESTS, opening(said=torch.tensor([[90]])))
    room = 1024 - adapter.inputs([Request("x", REQUESTS[0].images)])["input_ids"].shape[1]
    long = Request("x" * room, REQUESTS[0].images)
    with pytest.raises(PromptError, match="1023 prompt tokens and 5 new ones exceed the model's context of 1024"):
        said(model, REQUESTS, opening(lambda inputs: adapter.inputs([long])))
    with pytest.raises(ModelError, match=r"cannot be separated; make them with adapter\.inputs"):
        adapter.picked(dict(adapter.inputs(REQUESTS)), [0])


def test_picked_requests_are_read_as_if_asked_alone():
    adapter = slow("qwen2_5_vl").adapter
    picked, wanted = adapter.picked(adapter.inputs(REQUESTS), [0, 0]), adapter.inputs([REQUESTS[0]] * 2)
    assert picked.keys() == wanted.keys()
    assert all(torch.equal(picked[key], wanted[key]) for key in wanted)
    assert picked.requests == [REQUESTS[0]] * 2


@pytest.mark.parametrize("rows", [[], [-1], [len(REQUESTS)], [0, len(REQUESTS)]], ids=str)
def test_requests_that_are_not_there_are_not_picked(rows):
    adapter = slow("llava").adapter
    with pytest.raises(
        OptionError, match=rf"rows must be .* from 0 to {len(REQUESTS) - 1}, got {re.escape(str(rows))}"
    ):
        adapter.picked(adapter.inputs(REQUESTS), rows)
