"""Multiple choice in all rotations: by hand, on a model with a pushed letter, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mmhall.answers import Choice, Usage
from mmhall.closed import PositionBias, RotatedChoice, choose_option, take_out_places, write_options
from mmhall.errors import OptionError, PromptError

QUESTION, OPTIONS = "What is in the image?", ("a dog", "a cat", "a cup")


def table(options, places):
    """Probabilities of places in each rotation, for values of options and of places."""
    number = len(options)
    rows = [[options[(place + r) % number] * places[place] for place in range(number)] for r in range(number)]
    return torch.tensor([[value / sum(row) for value in row] for row in rows], dtype=torch.float64)


def test_a_product_of_options_and_places_is_taken_apart_exactly():
    """Options 0.3, 0.5, 0.2, places 0.6, 0.3, 0.1: as written the first wins, 0.18 to 0.15 to 0.02."""
    probabilities = table((0.3, 0.5, 0.2), (0.6, 0.3, 0.1))
    torch.testing.assert_close(probabilities[0], torch.tensor([18, 15, 2]).double() / 35)
    option, place = take_out_places(probabilities)
    torch.testing.assert_close(option, torch.tensor([0.3, 0.5, 0.2]).double())
    torch.testing.assert_close(place, torch.tensor([0.6, 0.3, 0.1]).double())


class Says:
    """Stands for a model: the probability of each letter by the option behind it and by its place."""

    def __init__(self, options, places):
        self.options, self.places, self.prompts = options, places, []

    def choose_batch(self, requests, choices, calibrate=None, **options):
        self.prompts += [prompt for _, prompt in requests]
        found = []
        for _, prompt in requests:
            behind = [line.partition(". ")[2] for line in prompt.splitlines() if line[1:3] == ". "]
            values = [self.options[one] * self.places[place] for place, one in enumerate(behind)]
            p = tuple(value / sum(values) for value in values)
            best = choices[p.index(max(p))]
            found.append(Choice(best, choices, p, p, None, p, "labels", calibrate, Usage(1.0, 5, 0, None)))
        return found


def test_the_choice_of_a_biased_model_is_debiased():
    """Places 0.6, 0.3, 0.1 differ from 1/3 by 0.2667, 0.0333, 0.2333: the bias is 0.2667."""
    model = Says(dict(zip(OPTIONS, (0.3, 0.5, 0.2), strict=True)), (0.6, 0.3, 0.1))
    found = choose_option(model, None, QUESTION, OPTIONS)
    assert model.prompts[1].splitlines() == [
        QUESTION, "A. a cat", "B. a cup", "C. a dog",
        "Answer with the option's letter from the given choices directly.",
    ]  # fmt: skip
    assert found.options[found.probabilities.index(max(found.probabilities))] == "a dog"
    assert found.choice == "a cat"
    assert found.debiased == pytest.approx((0.3, 0.5, 0.2))
    assert found.places == pytest.approx((0.6, 0.3, 0.1))
    assert found.bias == pytest.approx(0.6 - 1 / 3)
    # a cat 0.30 to a cup 0.06 to a dog 0.03, then a cup 0.12 to a dog 0.09 to a cat 0.05
    assert found.rotations == ("a dog", "a cat", "a cup")
    assert not found.consistent
    assert (found.usage.seconds, found.usage.prompt_tokens) == (3.0, 15)


def test_the_bias_of_several_questions_is_that_of_the_mean():
    """Places (0.8, 0.2) and (0.5, 0.5): sqrt(0.4) to sqrt(0.1) is 2 to 1, the bias 2/3 - 1/2."""
    values = {"a dog": 0.4, "a cat": 0.6}
    choices = [
        choose_option(Says(values, places), None, QUESTION, tuple(values)) for places in ((0.8, 0.2), (0.5, 0.5))
    ]
    bias = PositionBias.of(choices)
    assert bias.places == pytest.approx((2 / 3, 1 / 3))
    assert bias.bias == pytest.approx(1 / 6)
    assert (bias.consistent, bias.changed, bias.count) == (0.5, 0.5, 2)
    with pytest.raises(OptionError, match="with the same number of options each"):
        PositionBias.of([])


def test_no_bias_changes_nothing():
    found = choose_option(Says(dict(zip(OPTIONS, (0.2, 0.5, 0.3), strict=True)), (1, 1, 1)), None, QUESTION, OPTIONS)
    assert found.debiased == pytest.approx(found.probabilities)
    assert found.bias == pytest.approx(0, abs=1e-12)
    assert found.consistent


def test_the_scoring_of_all_rotations_is_told():
    class Mixed(Says):
        def choose_batch(self, *args, **options):
            found = super().choose_batch(*args, **options)
            return [*found[:2], replace(found[2], method="strings", calibration=None)]

    model = Mixed(dict.fromkeys(OPTIONS, 1), (1, 1, 1))
    found = choose_option(model, None, QUESTION, OPTIONS, calibrate="unk")
    assert (found.method, found.calibration) == ("labels / strings", "unk / none")
    found = choose_option(model, None, QUESTION, OPTIONS)
    assert (found.method, found.calibration) == ("labels / strings", None)


def test_each_rotation_is_asked_as_written(llava, pictures):
    """On a real model, with a letter that is pushed: its place takes the push, the options keep their order."""
    usual = choose_option(llava, pictures[0], QUESTION, OPTIONS)
    assert isinstance(usual, RotatedChoice)
    for r, order in enumerate((OPTIONS, ("a cat", "a cup", "a dog"), ("a cup", "a dog", "a cat"))):
        alone = llava.choose(pictures[0], write_options(QUESTION, order, "ABC"), ("A", "B", "C"))
        assert usual.rotations[r] == order["ABC".index(alone.choice)]
        if r == 0:
            assert usual.probabilities == pytest.approx(alone.probabilities, abs=1e-5)

    def push(module, args, output):
        for spelled in llava.adapter.spellings["b"]:
            output[..., spelled] += 2.0
        return output

    hook = llava.model.get_output_embeddings().register_forward_hook(push)
    biased = choose_option(llava, pictures[0], QUESTION, OPTIONS)
    hook.remove()
    assert biased.debiased == pytest.approx(usual.debiased, abs=1e-4)
    ratio = biased.places[1] / biased.places[0] / (usual.places[1] / usual.places[0])
    assert ratio == pytest.approx(math.exp(2.0), rel=1e-3)


def test_where_the_options_stand_can_be_said():
    text = write_options("Look: {options} Which?", ["a cup", "a dog"], ("1", "2"), "Say a number.")
    assert text == "Look: 1. a cup\n2. a dog Which?\nSay a number."


@pytest.mark.parametrize(
    ("question", "options", "more", "error", "message"),
    [
        (QUESTION, ("a dog",), {}, OptionError, "options must be at least two texts, none empty, none twice"),
        (QUESTION, ("a dog", " a dog"), {}, OptionError, "none twice"),
        (QUESTION, ("a dog", ""), {}, OptionError, "none empty"),
        (QUESTION, "a dog", {}, OptionError, "options must be at least two texts"),
        (
            QUESTION,
            ("a", "b", "c"),
            {"letters": "AB"},
            OptionError,
            "options must be at most as many as letters, 2, got 3",
        ),
        (QUESTION, OPTIONS, {"scoring": "compat"}, OptionError, "scoring must be .* with rotations"),
        (QUESTION, OPTIONS, {"mode": "identity"}, OptionError, "mode must be .* with rotations"),
        (QUESTION, OPTIONS, {"strategy": "vcd"}, OptionError, "strategy must be None with rotations: .* got 'vcd'"),
        (3, OPTIONS, {}, PromptError, "the question of a rotation must be text"),
    ],
)
def test_what_cannot_be_rotated_is_refused(question, options, more, error, message):
    with pytest.raises(error, match=message):
        choose_option(Says({}, ()), None, question, options, **more)
