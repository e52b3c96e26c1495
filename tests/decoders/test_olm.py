"""The output-layer rule: the worked example, and answers against the rule applied to complete passes."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters import adapter_for
from mmhall.decoders.olm import HesitantYes
from mmhall.errors import CompositionError, OptionError
from mmhall.strategies import Step, YesNoTokens
from tests.decoders.reference import REQUESTS, greedily, said, slow
from tests.generation.reference import QUIET, built

pytestmark = QUIET


def answered(yes, no, mass=0.2, gap=0.5, said=0):
    """The best token where yes (0 and 1, of equal weight) and no (2) have some probability, and the rest has (3)."""
    step = Step(torch.tensor([[yes / 2, yes / 2, no, 1 - yes - no]]).log(), (), torch.empty(1, said))
    return int(HesitantYes(mass, gap, YesNoTokens((0, 1), (2,)))(step).argmax())


def test_the_worked_example():
    assert answered(0.20, 0.55) == 0
    assert answered(0.10, 0.70) == 2
    assert answered(0.05, 0.10) == 3
    assert answered(0.20, 0.55, said=1) == 2  # a later token


def test_both_bounds_are_excluded():
    """Numbers that floats hold exactly."""
    assert answered(0.0, 0.5, mass=0.25, gap=0.5) == 2
    assert answered(0.125, 0.125, mass=0.25) == 3
    assert answered(0.125, 0.125, mass=0.2499) == 0


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_answers_are_those_of_the_rule_prompt_by_prompt(name):
    model = slow(name)
    yes, no = (model.adapter.tokenizer.convert_tokens_to_ids(list(pair)) for pair in ("Yy", "Nn"))
    firsts = []

    def scores(request):
        inputs = model.adapter.inputs([request])

        def score(answer):
            logits = model.read(model.longer(inputs, answer))
            probabilities = logits.softmax(dim=-1)
            p_yes, p_no = float(probabilities[yes].sum()), float(probabilities[no].sum())
            if not answer:
                firsts.append(p_yes + p_no > mass and abs(p_yes - p_no) < 0.5)
            if answer or not firsts[-1]:
                return logits
            best = max(yes, key=lambda index: float(logits[index]))
            return torch.nn.functional.one_hot(torch.tensor(best), len(logits)).float()

        return score

    each = [slow_mass(model, request, yes + no) for request in REQUESTS]
    mass = sum(each) / len(each)  # between the two
    assert said(model.adapter, model.adapter.inputs(REQUESTS), f"olm(mass={mass})") == [
        greedily(scores(request)) for request in REQUESTS
    ]
    assert sorted(firsts) == [False, True]


def slow_mass(model, request, tokens):
    return float(model.read(model.adapter.inputs([request])).softmax(dim=-1)[tokens].sum())


def test_half_precision_without_a_gap_is_greedy():
    model, processor = built("llava")
    adapter = adapter_for(model.bfloat16(), processor)
    inputs = adapter.inputs(REQUESTS)
    assert said(adapter, inputs, "olm(gap=0)") == said(adapter, inputs, "greedy")
    assert said(adapter, inputs, "olm(mass=0)") != said(adapter, inputs, "greedy")


def test_impossible_options_are_refused():
    for option in ("mass", "gap"):
        for value in (-0.1, 1.1, float("nan")):
            with pytest.raises(OptionError, match=f"olm: {option} must be a number in"):
                mmhall.strategy("olm", **{option: value})
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("olm+vcd")
