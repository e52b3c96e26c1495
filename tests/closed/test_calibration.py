"""The arithmetic of post-hoc calibration, by hand and by its invariants."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import mmhall
from mmhall.closed._calibration import smooth
from mmhall.errors import MmhallError, OptionError, PromptError

MODES = ("diagonal", "identity")


def drawn(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def test_diagonal_divides():
    """0.5 / 0.8 = 0.625, 0.3 / 0.1 = 3, 0.2 / 0.1 = 2; their sum is 5.625."""
    wanted = torch.tensor([0.625, 3.0, 2.0], dtype=torch.float64) / 5.625
    torch.testing.assert_close(mmhall.calibrate([0.5, 0.3, 0.2], [0.8, 0.1, 0.1], smoothing=0), wanted)


def test_identity_subtracts():
    got = mmhall.calibrate([0.5, 0.3, 0.2], [0.8, 0.1, 0.1], mode="identity", smoothing=0)
    torch.testing.assert_close(got, torch.tensor([-0.3, 0.2, 0.1], dtype=torch.float64))


def test_a_prior_of_zero_is_raised_by_the_smoothing():
    """1 and 0 become 1.0001 / 1.0002 and 0.0001 / 1.0002: 0.9 / 1.0001 to 0.1 / 0.0001 is 0.89991 to 1000."""
    ratio = torch.tensor([0.9 / 1.0001, 0.1 / 0.0001], dtype=torch.float64)
    torch.testing.assert_close(mmhall.calibrate([0.9, 0.1], [1.0, 0.0]), ratio / ratio.sum())


def test_both_sides_are_normalised_first():
    for mode in MODES:
        wanted = mmhall.calibrate([0.6, 0.4], [0.75, 0.25], mode)
        torch.testing.assert_close(mmhall.calibrate([0.06, 0.04], [3.0, 1.0], mode), wanted)


@pytest.mark.parametrize("mode", MODES)
def test_an_even_prior_keeps_the_order(mode):
    p = drawn(50, 4)
    got = mmhall.calibrate(p, torch.ones(4), mode)
    assert torch.equal(got.argsort(dim=-1), p.argsort(dim=-1))


@pytest.mark.parametrize("scale", [1e-6, 0.1, 7.0])
def test_a_constant_factor_of_the_smoothed_prior_changes_nothing(scale):
    p, prior = drawn(20, 3), smooth(drawn(20, 3), 1e-4)
    wanted = mmhall.calibrate(p, prior, smoothing=0)
    torch.testing.assert_close(mmhall.calibrate(p, prior * scale, smoothing=0), wanted)


def test_answers_that_are_the_smoothed_prior_become_even():
    free = drawn(20, 5)
    torch.testing.assert_close(
        mmhall.calibrate(smooth(free, 1e-4), free), torch.full((20, 5), 0.2, dtype=torch.float64)
    )
    torch.testing.assert_close(
        mmhall.calibrate(smooth(free, 1e-4), free, "identity"), torch.zeros(20, 5, dtype=torch.float64)
    )


def test_diagonal_sums_to_one_and_identity_to_zero():
    p, free = drawn(20, 4), drawn(1, 4)
    torch.testing.assert_close(mmhall.calibrate(p, free).sum(dim=-1), torch.ones(20, dtype=torch.float64))
    zero = torch.zeros(20, dtype=torch.float64)
    torch.testing.assert_close(mmhall.calibrate(p, free, "identity").sum(dim=-1), zero)


def test_of_two_choices_both_modes_find_the_one_above_its_prior():
    """p / q > (1 - p) / (1 - q) and p - q > (1 - p) - (1 - q) both mean p > q; of three choices they differ."""
    p, free = drawn(200, 2), drawn(100, 2).repeat(2, 1)
    above = (p / p.sum(dim=-1, keepdim=True) - smooth(free, 1e-4)).argmax(dim=-1)
    for mode in MODES:
        assert torch.equal(mmhall.calibrate(p, free, mode).argmax(dim=-1), above)
    three = [mmhall.calibrate([0.5, 0.4, 0.1], [0.4, 0.55, 0.05], mode).argmax().item() for mode in MODES]
    assert three == [2, 0]


def test_a_prior_that_says_nothing_changes_nothing():
    assert mmhall.calibrate([0.6, 0.4], [0.0, 0.0]).tolist() == pytest.approx([0.6, 0.4])


def test_a_single_calibration_serves_many_answers():
    p, free = drawn(6, 3), drawn(3)
    for row, got in zip(p, mmhall.calibrate(p, free), strict=True):
        torch.testing.assert_close(got, mmhall.calibrate(row, free))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.6, 0.4], [0.5, 0.5], "affine"), "calibrate: mode must be 'diagonal' or 'identity', got 'affine'"),
        (([0.6, 0.4], [0.5, 0.5], "diagonal", -1), "calibrate: smoothing must be a number >= 0, got -1"),
        (([0.6, 0.4], [0.5, 0.5], "diagonal", None), "calibrate: smoothing must be a number >= 0, got None"),
        (([0.6, 0.4], [0.5, 0.3, 0.2]), "calibrate: free must be as many probabilities as p has, 2, got"),
        (([0.6, -0.4], [0.5, 0.5]), "calibrate: p must be finite numbers >= 0, one for each choice"),
        (([0.6, float("nan")], [0.5, 0.5]), "calibrate: p must be finite numbers >= 0"),
        ((["a", "b"], [0.5, 0.5]), "calibrate: p must be numbers, got"),
        ((0.5, 0.5), "calibrate: p must be finite numbers >= 0, one for each choice, got 0.5"),
        (([0.0, 0.0], [0.5, 0.5]), "calibrate: p must be probabilities of which one is above 0"),
        (([0.6, 0.4], [1.0, 0.0], "diagonal", 0), "calibrate: free must be above 0 everywhere, without smoothing"),
    ],
)
def test_what_is_no_probability_is_refused(arguments, message):
    with pytest.raises(OptionError) as caught:
        mmhall.calibrate(*arguments)
    assert str(caught.value).startswith(message)


QUESTIONS = ("Is there a dog?", "Is there a cat?", "Is there a cup in the image?")


def test_a_fitted_prior_is_the_mean_of_those_of_its_questions(llava, pictures):
    requests = list(zip(pictures, QUESTIONS, strict=True))
    told = [llava.choose(*request, calibrate="none+unk").free for request in requests]
    fitted = mmhall.Calibration.fit(llava, requests, kinds="none+unk", batch_size=2)
    assert fitted.free == pytest.approx([sum(column) / 3 for column in zip(*told, strict=True)], abs=1e-6)
    assert (fitted.choices, fitted.kinds, fitted.method, fitted.count) == (("yes", "no"), "none+unk", "labels", 3)


def test_a_fitted_prior_can_be_kept_as_json(llava, pictures):
    fitted = mmhall.Calibration.fit(llava, [(pictures[0], QUESTIONS[0])])
    kept = mmhall.Calibration(**json.loads(json.dumps(dataclasses.asdict(fitted))))
    assert kept == fitted
    found, wanted = (llava.choose(pictures[1], QUESTIONS[1], calibrate=c).calibrated for c in (kept, fitted))
    assert found == wanted


@pytest.mark.parametrize("mode", MODES)
def test_a_fitted_prior_is_taken_out_of_every_question(llava, pictures, mode):
    requests = list(zip(pictures, QUESTIONS, strict=True))
    fitted = mmhall.Calibration.fit(llava, requests)
    for found in llava.choose_batch(requests, calibrate=fitted, mode=mode):
        assert found.free == pytest.approx(fitted.free)
        assert found.calibrated == pytest.approx(mmhall.calibrate(found.probabilities, fitted.free, mode).tolist())
        assert found.calibration == f"{mode} none, fitted on 3"


def test_a_calibration_of_something_else_is_refused(llava, pictures):
    fitted = mmhall.Calibration.fit(llava, [(pictures[0], QUESTIONS[0])])
    with pytest.raises(OptionError, match="choose: calibrate must be fitted on the choices"):
        llava.choose(pictures[0], QUESTIONS[0], ("no", "yes"), calibrate=fitted)
    with pytest.raises(OptionError, match="choose: scoring must be that of the calibration, 'labels', got 'strings'"):
        llava.choose(pictures[0], QUESTIONS[0], calibrate=fitted, scoring="strings")


@pytest.mark.parametrize(
    ("requests", "options", "error"),
    [
        ([], {}, PromptError),
        ([(None, "Is there a dog?")], {}, PromptError),
        ([(None, "Is there a dog?")], {"batch_size": 0}, OptionError),
        ([(None, "Is there a dog?")], {"kinds": None}, OptionError),
        ([(None, "Is there a dog?")], {"kinds": "white"}, OptionError),
    ],
)
def test_a_calibration_needs_questions_with_pictures_and_usable_options(llava, requests, options, error):
    with pytest.raises(error) as caught:
        mmhall.Calibration.fit(llava, requests, **options)
    assert isinstance(caught.value, MmhallError)


def test_a_temperature_raises_probabilities_before_they_are_divided():
    """0.5 squares: 0.36 to 0.16 over 0.5625 to 0.0625 is 0.64 to 2.56, 1 to 4."""
    found = mmhall.calibrate([0.6, 0.4], [0.75, 0.25], smoothing=0, temperature=0.5)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.8], dtype=torch.float64))
    for temperature in (0, -1.0, float("inf"), float("nan"), True, "0.2"):
        with pytest.raises(OptionError, match="calibrate: temperature must be a number > 0"):
            mmhall.calibrate([0.6, 0.4], [0.75, 0.25], temperature=temperature)


def test_a_fitted_calibration_holds_at_its_temperature(llava, pictures):
    asked = [(pictures[0], "Is there a dog?")]
    fitted = mmhall.Calibration.fit(llava, asked, temperature=0.5)
    assert fitted.temperature == 0.5
    usual = mmhall.Calibration.fit(llava, asked)
    assert fitted.free == pytest.approx([one**2 / sum(x**2 for x in usual.free) for one in usual.free])
    assert llava.choose(*asked[0], calibrate=fitted, temperature=0.5).temperature == 0.5
    with pytest.raises(OptionError, match=r"temperature must be that of the calibration, 0\.5, got None"):
        llava.choose(*asked[0], calibrate=fitted)
