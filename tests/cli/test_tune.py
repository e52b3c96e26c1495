"""mmhall tune, and what later commands make of its file."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from mmhall.benchmarks.tune.objective import Sheet
from mmhall.strategies.tuned import FILE
from tests.forks import interrupted

pytestmark = pytest.mark.slow

QUICK = ("--n", "4", "--max-new-tokens", "3", "--batch-size", "64")


@pytest.fixture
def own_model(model_folder, tmp_path):
    """A copy of the model that may be tuned."""
    return shutil.copytree(model_folder, tmp_path / "model")


def written(folder):
    return json.loads((folder / FILE).read_text())


@pytest.fixture
def tuned_model(own_model):
    """A model with a file that gives vcd a strength of its own."""

    def write(alpha):
        held = json.loads(json.dumps(HELD))
        held["strategies"]["vcd"]["options"]["alpha"] = alpha
        held["model"] |= facts
        (own_model / FILE).write_text(json.dumps(held))

    import mmhall
    from mmhall.models._facts import facts as facts_of

    facts = facts_of(mmhall.load(own_model, device="cpu").adapter)
    write(0.5)
    return own_model, write


HELD = {
    "format": "mmhall tuned options, 1",
    "model": {"name": "model"},
    "strategies": {"vcd": {"options": {"alpha": 0.5}}},
}


def test_tune_writes_what_generate_then_uses(cli, own_model, picture_file):
    done = cli("tune", "vcd", "--model", own_model, *QUICK, "--apply")
    assert done.returncode == 0, done.stderr
    held = written(own_model)
    alpha = held["strategies"]["vcd"]["options"]["alpha"]
    assert "\n* " in done.stdout
    assert "vcd(alpha=1.0) (defaults)" in done.stdout
    for tried in (0.25, 0.5, 2.0):
        assert f"vcd(alpha={tried})" in done.stdout
    for line in (
        "search: 2 pictures",
        "other half: 2 pictures",
        "chosen minus greedy",
        "not decided: it takes 100 held-out pictures, and there are 2",
        "mmhall.load(",
    ):
        assert line in done.stdout
    assert f"wrote {own_model / FILE}" in done.stdout
    assert "tuning vcd: " in done.stderr
    entry = held["strategies"]["vcd"]
    assert {"verdict", "date", "mmhall", "objective", "search", "held_out"} <= set(entry)
    assert entry["pictures"]["seed"] == 1000
    assert (entry["pictures"]["n"], entry["pictures"]["source"]) == (4, "drawn scenes")
    assert {"name", "weights", "sample", "model_type", "layers"} <= set(held["model"])
    asked = ("generate", picture_file, "What?", "--model", own_model, "--strategy", "vcd", "--json")
    answer = json.loads(cli(*asked).stdout)
    assert (answer["strategy"], answer["origins"]) == (f"vcd(alpha={alpha})", {"alpha": "tuned for this model"})
    untuned = json.loads(cli(*asked, "--tuned", "none").stdout)
    assert "general default" in untuned["origins"]["alpha"]


def test_a_second_strategy_is_added_and_the_first_stays(cli, tuned_model):
    model, _ = tuned_model
    first = written(model)["strategies"]["vcd"]
    done = cli("tune", "vhr(layers='0:2')+vcd(alpha=0.5)", "--model", model, *QUICK, "--apply")
    assert done.returncode == 0, done.stderr
    strategies = written(model)["strategies"]
    assert strategies["vcd"] == first
    assert set(strategies["vcd+vhr"]["options"]) == {"vhr.alpha", "vhr.layers", "vcd.alpha"}


def test_pictures_may_be_ones_own_and_the_file_elsewhere(cli, own_model, tmp_path):
    assert cli("scenes", "--n", "5", "--seed", "2", "--out", "drawn").returncode == 0
    out = tmp_path / "new" / "mine.json"
    done = cli("tune", "vdd", "--model", own_model, "--data", "drawn/annotations.json", *QUICK, "--out", out)
    assert done.returncode == 0, done.stderr
    assert not (own_model / FILE).exists()
    assert f"--model {own_model} --tuned {out}" in done.stdout
    told = json.loads(out.read_text())["strategies"]["vdd"]["pictures"]
    assert (told["source"], told["n"]) == ("annotations.json", 4)
    shown = cli("show", "vdd", "--model", own_model, "--tuned", out)
    assert "tuned for this model" in shown.stdout


def test_a_run_is_not_gone_on_with_under_other_tuned_options(cli, refused, tuned_model):
    model, write = tuned_model
    asked = ("bench", "chair(max_new_tokens=4)", "--model", model, "--scenes", "2", "--out", "run", "--strategy", "vcd")
    done = cli(*asked)
    assert done.returncode == 0, done.stderr
    assert "vcd ran as vcd(alpha=0.5)." in done.stdout
    assert cli(*asked).stdout == done.stdout
    write(0.75)
    line = refused(*asked)
    assert 'another set-up (fitted.vcd was "vcd(alpha=0.5)", now "vcd(alpha=0.75)")' in line
    assert "fitted.vcd was" in refused(*asked, "--tuned", "none")
    assert cli("report", "run").stdout == done.stdout


def test_a_file_of_another_model_stops_every_command(refused, tuned_model, picture_file):
    model, _ = tuned_model
    line = refused("generate", picture_file, "What?", "--tuned", model / FILE)
    assert "was tuned for 'model' with other weights than this model's (layers 3 there, 6 here" in line
    assert "run `mmhall tune` again" in line
    assert "other weights" in refused("tune", "vcd", *QUICK, "--out", model / FILE)


@pytest.mark.slow
def test_ctrl_c_leaves_no_file(own_model, tmp_path):
    asked = ("tune", "vcd", "--model", str(own_model), "--n", "4")
    code, error = interrupted(asked, tmp_path, "tuning vcd: ", signal.SIGINT)
    assert code == 2
    assert error.splitlines()[-1] == "mmhall: stopped"
    assert not (own_model / FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("greedy",), "strategy must be one with an option left open for the model, such as vhr, got 'greedy'"),
        (("vcd(alpha=1)",), "strategy must be one with an option left open"),
        (("vdc",), "unknown strategy 'vdc'; did you mean"),
        (("vcd", "--n", "0"), "n must be an integer >= 1, got 0"),
        (("vcd", "--max-new-tokens", "0"), "max_new_tokens must be an integer >= 1"),
        (("vcd", "--images", "x"), "images must be given together with --data"),
        (("vcd", "--out", "."), "cannot be written"),
        (("vcd", "--out", f"{__file__}/a.json"), "cannot be written"),
        (("vcd", "--model", "/no/such/model"), "no such folder"),
    ],
)
def test_what_cannot_be_tuned_is_refused_at_once(refused, arguments, message):
    assert message in refused("tune", *arguments)


def test_too_few_pictures(refused, model_folder):
    assert "3 pictures are too few" in refused("tune", "vcd", "--n", "3", "--model", model_folder, "--out", "x.json")


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_search_goes_on_where_it_was(cli, own_model, tmp_path, monkeypatch):
    """What is found is used only where it is asked for."""
    asked = ("tune", "vcd", "--model", own_model, *QUICK)
    ask, seen = Sheet.answer, []

    def killed(self, lvlm, method, *arguments):
        seen.append(str(method))
        if len(seen) == 4:
            raise KeyboardInterrupt
        return ask(self, lvlm, method, *arguments)

    monkeypatch.setattr(Sheet, "answer", killed)
    assert cli(*asked).returncode != 0
    first = list(seen)
    again = cli(*asked)
    assert again.returncode == 0, again.stderr
    assert not (own_model / FILE).exists()
    assert f'wrote tuned.json\nuse it with mmhall.load("{own_model}", tuned="tuned.json")' in again.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "tuned.json"]
    assert seen[4] == first[3]  # the one it was at; those before are not asked again
    monkeypatch.setattr(Sheet, "answer", ask)
    whole = cli(*asked, "--out", "whole.json")
    assert again.stdout.split("\nwrote")[0] == whole.stdout.split("\nwrote")[0]
    assert not Path("tuned.json.part").exists()
