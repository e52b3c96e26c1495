"""The command that chooses among given answers: its table, its calibration, all rotations, and what it refuses."""

from __future__ import annotations

import json

import pytest


@pytest.mark.slow
def test_choose_prints_the_winner_and_a_table(cli, model_folder, picture_file):
    asked = ("choose", picture_file, "Is there a dog?", "--model", model_folder)
    told = json.loads(cli(*asked, "--calibrate", "none+unk", "--mode", "identity", "--json").stdout)
    winner, _, header, *rows, _, how = cli(*asked, "--calibrate", "none+unk", "--mode", "identity").stdout.splitlines()
    assert winner == told["choice"]
    assert header.split() == ["CHOICE", "PLAIN", "PRIOR", "CALIBRATED"]
    figures = zip(told["choices"], told["probabilities"], told["free"], told["calibrated"], strict=True)
    assert [row.split() for row in rows] == [[choice, *(f"{f:.4f}" for f in each)] for choice, *each in figures]
    assert how == "scored as labels; calibration: identity none+unk"


@pytest.mark.slow
def test_choose_takes_a_temperature_and_tells_it(cli, model_folder, picture_file):
    asked = ("choose", picture_file, "Is there a dog?", "--model", model_folder, "--temperature", "0.5")
    assert json.loads(cli(*asked, "--json").stdout)["temperature"] == 0.5
    assert cli(*asked).stdout.splitlines()[-1] == "scored as labels at temperature 0.5; calibration: none"


@pytest.mark.slow
def test_choose_takes_any_choices_and_needs_no_calibration(cli, model_folder, picture_file):
    asked = ("choose", picture_file, "What is this?", "--model", model_folder)
    lines = cli(*asked, "--choice", "a dog", "--choice", "a cat").stdout.splitlines()
    assert lines[0] in ("a dog", "a cat")
    assert lines[2].split() == ["CHOICE", "PLAIN"]
    assert [line[:5] for line in lines[3:5]] == ["a dog", "a cat"]
    assert lines[6] == "scored as strings; calibration: none"


@pytest.mark.slow
def test_choose_rotates_choices_and_takes_words_of_the_domain(cli, model_folder, picture_file):
    asked = ("choose", picture_file, "What is this?", "--model", model_folder, "--choice", "a dog", "--choice", "a cat")
    calibrated = (*asked, "--rotate", "--calibrate", "words(words=('cup', 'car'), count=2)")
    told = json.loads(cli(*calibrated, "--json").stdout)
    winner, _, header, *rows, _, bias, how = cli(*calibrated).stdout.splitlines()
    assert winner == told["choice"]
    assert header.split() == ["CHOICE", "AS", "GIVEN", "DEBIASED", "PLACE"]
    figures = zip(told["options"], told["probabilities"], told["debiased"], told["places"], strict=True)
    assert [row.split() for row in rows] == [[*one.split(), *(f"{f:.4f}" for f in each)] for one, *each in figures]
    assert bias.startswith(f"position bias {told['bias']:.4f}, of at most 0.5000; ")
    assert how == "letters scored as labels; calibration: diagonal words(words=('cup', 'car'), count=2)"


def test_choose_refuses_before_a_model_is_loaded(refused, picture_file):
    asked = ("choose", picture_file, "What?", "--model", "nowhere")
    assert "choices must be at least two texts" in refused(*asked, "--choice", "yes")
    assert "calibrate must be one or several of none, unk" in refused(*asked, "--calibrate", "white")
    assert "mode must be 'diagonal' or 'identity'" in refused(*asked, "--mode", "affine")
    assert "count must be an integer from 1" in refused(*asked, "--calibrate", "words(count=0)")
    assert 'mode must be "diagonal" with rotations' in refused(*asked, "--rotate", "--mode", "identity")
