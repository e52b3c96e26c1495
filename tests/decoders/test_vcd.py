"""VCD against its formula, computed by hand on two inputs that are read anew at every step."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.errors import OptionError
from mmhall.strategies import Branch, Session
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, anew, ours, said, searched, separately

pytestmark = QUIET

SPEC = "vcd(alpha=2.5, beta=0.02, noise_step=900, seed=5, draw='seed')"
REPEATED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")


def contrasted(step):
    """Score token by token: 3.5 z - 2.5 z', out below 2 % of the top probability."""
    clean, (noised,) = step.main, step.branches
    probabilities = clean.softmax(dim=-1)
    scores = 3.5 * clean - 2.5 * noised
    return torch.where(probabilities >= 0.02 * probabilities.amax(dim=-1, keepdim=True), scores, -math.inf)


def by_hand(name, adapter, inputs):
    """A noised copy after 901 factors of the schedule, from a generator started at 5."""
    left = 1.0
    for i in range(901):
        u = -6 + 12 * i / 999
        left *= 1 - ((5e-3 - 1e-5) / (1 + math.exp(-u)) + 1e-5)
    pixels, random = inputs["pixel_values"], torch.Generator().manual_seed(5)
    if name in REPEATED:
        once = torch.randn(len(pixels), 3, 1, 8 * 8, generator=random)
        noise = torch.cat([once, once], dim=2).view_as(pixels)
    else:
        noise = torch.randn(pixels.shape, generator=random)
    noised = math.sqrt(left) * pixels + math.sqrt(1 - left) * noise
    return Session(branches=[Branch({**inputs, "pixel_values": noised})], combine=contrasted)


def drawing(seed):
    random = torch.Generator().manual_seed(seed)
    return lambda scores: torch.multinomial(scores.softmax(dim=-1), 1, generator=random)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Five tokens of an answer say as much as ten."""
    monkeypatch.setattr("tests.generation.reference.LENGTH", 5)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("qwen3_5", "gemma4", "llama4")])
def test_greedy_takes_what_the_formula_puts_first(name):
    adapter, changed = ours(name), []
    for request in REQUESTS[:2]:
        inputs = adapter.inputs([request])
        wanted = separately(adapter, inputs, by_hand(name, adapter, inputs))
        assert said(adapter, inputs, SPEC, max_new_tokens=5) == [wanted]
        changed.append([wanted] != said(adapter, inputs, max_new_tokens=5))
    assert any(changed), "the noised picture changes nothing"


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma4"])
def test_sampling_draws_from_the_formula(name):
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:1])
    session = by_hand(name, adapter, inputs)
    answers = {separately(adapter, inputs, session, drawing(seed)) for seed in (3, 4)}
    drawn = {said(adapter, inputs, SPEC, max_new_tokens=5, do_sample=True, seed=seed)[0] for seed in (3, 4)}
    assert drawn == answers
    assert len(answers) == 2


@pytest.mark.parametrize("name", ["llava", "mllama", "qwen3_5"])
def test_beams_search_by_the_formula(name, monkeypatch):
    adapter = ours(name)
    monkeypatch.setattr(adapter.generator.generation_config, "early_stopping", "never")
    inputs = adapter.inputs(REQUESTS[:1])
    naive = searched(adapter, inputs, by_hand(name, adapter, inputs), 2)
    assert said(adapter, inputs, SPEC, max_new_tokens=5, num_beams=2, num_return_sequences=2) == naive[:2]


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_5_vl", "mllama"])
def test_an_answer_does_not_depend_on_the_order_of_a_batch(name):
    adapter = ours(name)
    usual = said(adapter, adapter.inputs(REQUESTS[:3]), SPEC, max_new_tokens=5)
    moved = said(adapter, adapter.inputs([REQUESTS[index] for index in (2, 0, 1)]), SPEC, max_new_tokens=5)
    assert moved == [usual[index] for index in (2, 0, 1)]


def test_the_seed_and_the_step_change_the_scores():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    specs = ("vcd", "vcd(seed=1)", "vcd(noise_step=999)", "vcd(draw='seed')")
    scores = [
        anew(adapter, mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs), inputs, ()) for spec in specs
    ]
    for one, other in ((0, 1), (0, 2), (0, 3), (1, 2)):
        assert not torch.equal(scores[one], scores[other])


def test_without_noise_or_strength_the_plain_scores_are_cut_off_at_beta():
    """Step 0 leaves 0.999978 of the picture; the branches then all but agree, whatever alpha."""
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    plain = anew(adapter, Session(), inputs, ()).softmax(dim=-1)
    kept = plain >= 0.1 * plain.max()
    wanted = (plain * kept) / (plain * kept).sum()
    for spec, rounding in (("vcd(alpha=0)", 1e-6), ("vcd(noise_step=0)", 0.1)):
        scores = anew(adapter, mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs), inputs, ())
        torch.testing.assert_close(scores.softmax(dim=-1), wanted, rtol=0, atol=rounding)
        assert torch.equal(scores > -math.inf, kept)


@pytest.mark.parametrize(
    ("option", "value", "most"),
    [("noise_step", -1, 999), ("noise_step", 1000, 999), ("seed", -1, ""), ("seed", 2**63, "")],
)
def test_noise_step_and_seed_are_checked(option, value, most):
    with pytest.raises(OptionError, match=f"vcd: {option} must be an integer from 0 to {most}.*, got {value}"):
        mmhall.strategy("vcd", **{option: value})
