"""APC: the cut-off of a worked example, sampling against draws from complete passes, and greedy that stays greedy."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters import adapter_for
from mmhall.decoders.apc import Plausible
from mmhall.errors import CompositionError, OptionError
from mmhall.strategies import Step
from tests.decoders.reference import REQUESTS, drawn, said, slow
from tests.generation.reference import QUIET, built, ours

pytestmark = QUIET


def kept(probabilities, beta):
    """The probabilities of tokens after the cut-off."""
    step = Step(torch.tensor([probabilities]).log(), (), torch.empty(1, 0))
    return Plausible(beta)(step).softmax(dim=-1)[0]


def test_the_worked_example():
    wanted = {
        0.2: [0.5263, 0.3158, 0.1579, 0.0],
        0.4: [0.625, 0.375, 0.0, 0.0],
        1.0: [1.0, 0.0, 0.0, 0.0],
    }
    for beta, probabilities in wanted.items():
        got = kept([0.5, 0.3, 0.15, 0.05], beta)
        torch.testing.assert_close(got, torch.tensor(probabilities), rtol=0, atol=1e-4)
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).softmax(dim=-1).tolist()
    torch.testing.assert_close(kept(logits, 0.2), torch.tensor([0.7311, 0.2689, 0, 0]), rtol=0, atol=1e-4)


def test_of_equal_tokens_beta_one_keeps_the_first():
    assert kept([0.2, 0.4, 0.4], 1.0).tolist() == [0.0, 1.0, 0.0]
    torch.testing.assert_close(kept([0.2, 0.4, 0.4], 0.99), torch.tensor([0.0, 0.5, 0.5]))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_draws_are_those_of_the_formula_prompt_by_prompt(name):
    model = slow(name)

    def scores(request):
        inputs = model.adapter.inputs([request])

        def score(answer):
            logprobs = model.read(model.longer(inputs, answer)).log_softmax(dim=-1)
            return torch.where(logprobs < logprobs.max() + math.log(0.8), -math.inf, logprobs)

        return score

    wanted = [drawn(scores(request), seed=5) for request in REQUESTS]
    inputs = model.adapter.inputs(REQUESTS)
    assert said(model.adapter, inputs, "apc(beta=0.8)", 5, do_sample=True) == wanted
    assert said(model.adapter, inputs, "greedy", 5, do_sample=True) != wanted


def test_greedy_stays_greedy_and_beta_one_draws_it():
    model, processor = built("llava")
    for dtype in (torch.float32, torch.bfloat16):
        adapter = adapter_for(model.to(dtype), processor)
        inputs = adapter.inputs(REQUESTS)
        plain = said(adapter, inputs, "greedy")
        for beta in (0, 0.1, 0.9, 1):
            assert said(adapter, inputs, f"apc(beta={beta})") == plain
        assert said(adapter, inputs, "apc(beta=1)", 3, do_sample=True, temperature=5.0) == plain


def test_without_a_cut_off_draws_are_plain():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS)
    plain = said(adapter, inputs, "greedy", 3, do_sample=True)
    assert said(adapter, inputs, "apc(beta=0)", 3, do_sample=True) == plain


def test_impossible_betas_and_a_contrast_beside_it_are_refused():
    for beta in (-0.1, 1.1, float("nan"), "0.1"):
        with pytest.raises(OptionError, match="apc: beta must be a number in"):
            mmhall.strategy("apc", beta=beta)
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("vcd+apc")
