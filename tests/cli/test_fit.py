"""mmhall fit with a strategy of another package, and what later commands make of its artifact."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmhall.benchmarks.run.runs import reopen
from mmhall.benchmarks.run.workers import Model
from mmhall.decoders import STRATEGIES
from mmhall.errors import RunError
from mmhall.models._options import LoadOptions
from mmhall.strategies import artifacts
from tests.decoders.fitted import learners
from tests.test_registry import install


@pytest.fixture(autouse=True)
def plugged(tmp_path_factory, monkeypatch):
    """A package on the path that brings the strategy "lean"."""
    folder = tmp_path_factory.mktemp("packages")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(STRATEGIES, "_unusable", {})
    install(folder, "lean", "from tests.lean import Lean as Own\n")
    yield
    sys.modules.pop("plugin_lean", None)


@pytest.fixture
def own_model(model_folder, tmp_path):
    """A copy of the model that may be fitted to."""
    return shutil.copytree(model_folder, tmp_path / "model")


@pytest.fixture
def pairs(tmp_path):
    """Texts that always differ in the same way: a random model, too, tells them apart."""
    for number in range(6):
        Image.new("RGB", (56, 56), (40 * number, 90, 200)).save(tmp_path / f"{number}.png")
    lines = [
        {"picture": f"{n}.png", "faithful": f"There is a dog, and {n}.", "hallucinated": f"There is a cat, and {n}."}
        for n in range(6)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "pairs.jsonl"


def ask(cli, picture_file, model, *more):
    done = cli(
        "generate",
        picture_file,
        "What?",
        "--model",
        model,
        "--strategy",
        "lean",
        "--max-new-tokens",
        "3",
        "--json",
        *more,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_fit_writes_what_generate_then_uses(cli, refused, own_model, pairs, picture_file):
    asked = ("generate", picture_file, "What?", "--model", own_model, "--strategy", "lean")
    assert "lean: needs an artifact fitted on this model" in refused(*asked)
    done = cli("fit", "lean", "--model", own_model, "--data", pairs, "--apply")
    assert done.returncode == 0, done.stderr
    file = own_model / "mmhall" / "lean.json"
    held = json.loads(file.read_text())
    digest = held["data"]["digest"]
    assert f"lean(layer=2) on {own_model}: fitted on 5 pairs of pairs.jsonl ({digest}), seed 1000" in done.stdout
    found = held["numbers"]["layer 2"]
    assert (
        f"layer 2  norm {found['norm']:.4g}, low {found['low']:.4g}, high {found['high']:.4g}, draws 20" in done.stdout
    )
    assert "remark: 5 pairs are few" in done.stdout
    assert "on 1 held-out pair: share whose faithful text is the likelier one; change of the margin" in done.stdout
    assert held["held_out"]["ids"] == ["4.png"]
    assert f"wrote {file.with_suffix('.safetensors')} and {file}, sha256 {held['sha256'][:12]}" in done.stdout
    assert "use it for lean from now on; with artifacts=False and `--artifacts none` they do not" in done.stdout
    answer = ask(cli, picture_file, own_model)
    assert answer["strategy"] == f"lean(artifact='{held['sha256'][:12]}', layer=2)"
    assert answer["origins"]["artifact"] == f"fitted on 5 pairs of pairs.jsonl ({digest}), seed 1000"
    assert "needs an artifact" in refused(*asked, "--artifacts", "none")


@pytest.mark.slow
def test_a_file_elsewhere_is_used_where_it_is_named(cli, refused, own_model, pairs, picture_file):
    done = cli("fit", "lean(layer=1)", "--model", own_model, "--data", pairs, "--out", "new/mine.safetensors")
    assert done.returncode == 0, done.stderr
    assert not (own_model / "mmhall").exists()
    assert f'use it with mmhall.load("{own_model}", artifacts="new/mine.safetensors")' in done.stdout
    answer = ask(cli, picture_file, own_model, "--artifacts", "new/mine.safetensors")
    assert answer["strategy"].startswith("lean(artifact=")
    shown = cli("show", "lean", "--model", own_model, "--artifacts", "new/mine.json")
    assert "fitted on 5 pairs of pairs.jsonl" in shown.stdout
    assert "Refuses   a model that `mmhall fit lean` was not run for" in shown.stdout
    assert 'Write     lean, "lean(alpha=4.0)"' in shown.stdout
    line = refused("generate", picture_file, "--artifacts", "new/mine.json")  # the embedded model
    assert "was fitted on" in line
    assert "layers 3 there, 6 here" in line


@pytest.mark.slow
def test_pictures_with_objects_do_as_well(cli, own_model, monkeypatch):
    """A random model finds no direction in them, and says so; nothing is written."""
    done = cli("fit", "lean", "--model", own_model, "--n", "4")
    assert done.returncode == 2
    assert "there is no direction to steer along: the mean difference has norm" in done.stderr
    assert "drawing scenes" in done.stderr
    assert not Path("lean.safetensors").exists()
    assert cli("scenes", "--n", "4", "--seed", "2", "--out", "drawn").returncode == 0
    monkeypatch.setattr("mmhall.strategies._directions.ShuffledRange.check", lambda self, what: None)
    done = cli("fit", "lean", "--model", own_model, "--data", "drawn/annotations.json", "--n", "3")
    assert done.returncode == 0, done.stderr
    held = artifacts.read("lean.safetensors")
    assert (held.facts["data"]["source"], held.facts["data"]["ids"]) == ("annotations.json", ["1", "2", "3"])


@pytest.mark.slow
def test_captions_of_people_may_be_given(cli, refused, own_model, monkeypatch):
    monkeypatch.setattr("mmhall.strategies._directions.ShuffledRange.check", lambda self, what: None)
    assert cli("scenes", "--n", "3", "--seed", "2", "--out", "drawn").returncode == 0
    data = json.loads(Path("drawn/annotations.json").read_text())
    names = {entry["id"]: entry["name"] for entry in data["categories"]}
    first = {entry["image_id"]: names[entry["category_id"]] for entry in reversed(data["annotations"])}
    told = [{"image_id": image, "caption": f"Look at the {name} there"} for image, name in first.items()]
    Path("captions.json").write_text(json.dumps({"annotations": told}))
    asked = ("fit", "lean", "--model", own_model, "--data", "drawn/annotations.json", "--captions")
    done = cli(*asked, "captions.json")
    assert done.returncode == 0, done.stderr
    held = artifacts.read("lean.safetensors")
    assert held.facts["data"]["source"] == "annotations.json with captions.json"
    assert "gone.json: does not exist; give a COCO captions file" in refused(*asked, "gone.json")


@pytest.mark.slow
@pytest.mark.long
def test_the_embedded_model_is_fitted_to_on_drawn_scenes(cli, picture_file):
    done = cli("fit", "lean(layer=3)", "--out", "lean.json")
    assert done.returncode == 0, done.stderr
    held = artifacts.read("lean.json")
    found = held.facts["numbers"]["layer 3"]
    assert found["norm"] > found["high"] > found["low"] > 0
    assert (held.facts["data"]["pairs"], held.facts["held_out"]["samples"], held.facts["remarks"]) == (120, 30, [])
    asked = ("generate", picture_file, "--artifacts", "lean.json", "--max-new-tokens", "12", "--strategy")
    leaning, neutral, plain = (cli(*asked, one).stdout for one in ("lean(alpha=40)", "lean(alpha=0)", "greedy"))
    assert leaning != plain == neutral


@pytest.mark.slow
def test_a_run_names_the_artifact_and_is_not_gone_on_with_under_another(cli, refused, own_model, pairs):
    assert cli("fit", "lean", "--model", own_model, "--data", pairs, "--apply").returncode == 0
    asked = ("bench", "chair(max_new_tokens=4)", "--model", own_model, "--scenes", "2", "--out", "run")
    asked = (*asked, "--strategy", "lean")
    done = cli(*asked)
    assert done.returncode == 0, done.stderr
    held = artifacts.read(own_model / "mmhall" / "lean.json")
    setup = reopen(Path("run")).store.setup()
    assert setup["fitted"] == {"lean": f"lean(artifact='{held.digest}', layer=2)"}
    assert setup["artifacts"]["lean"]["sha256"] == held.sha256
    assert setup["artifacts"]["lean"]["data"]["source"] == "pairs.jsonl"
    shutil.copytree(own_model / "mmhall", "elsewhere")
    assert cli(*asked, "--artifacts", "elsewhere").stdout == done.stdout  # the same one is the same wherever it lies
    replace(held, tensors={"direction": torch.ones(48)}).write(held.path)
    assert "artifacts.lean.sha256 was" in refused(*asked)
    with pytest.raises(RunError, match=r"the run was started with lean's artifact '[0-9a-f]{64}', a worker has"):
        Model(str(own_model)).load(setup)
    with pytest.raises(RunError, match="a worker has None"):
        Model(str(own_model), None, LoadOptions(artifacts=False)).load(setup)
    assert Model(str(own_model), None, LoadOptions(artifacts="elsewhere")).load(setup)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("greedy",),
            f"a single strategy that learns from data (installed: {', '.join(learners())}, lean), got 'greedy'",
        ),
        (("lean+vcd",), "strategy must be a single strategy that learns"),
        (("lean(artifact='1a2b3c4d5e6f')",), "written without artifact="),
        (("lena",), "unknown strategy 'lena'; did you mean 'lean'"),
        (("lean(layer=-1)",), "lean: layer must be"),
        (("lean", "--n", "0"), "n must be an integer >= 1, got 0"),
        (("lean", "--images", "x"), "images must be given together with --data"),
        (("lean", "--captions", "x"), "captions must be given together with pictures and their objects as --data"),
        (("lean", "--data", "gone.json"), "gone.json: does not exist; give a COCO detection file, a CSV"),
        (("lean", "--out", "lean"), "lean: an artifact's name ends in .safetensors or .json"),
        (("lean", "--out", f"{__file__}/a.json"), "cannot be written"),
        (("lean", "--out", "a.json", "--apply"), "out must be left out with --apply"),
        (("lean", "--model", "/no/such/model"), "no such folder"),
    ],
)
def test_what_cannot_be_fitted_is_refused_at_once(refused, arguments, message):
    assert message in refused("fit", *arguments)


def test_nothing_else_is_written_over(refused, own_model):
    before = (own_model / "model.safetensors").read_bytes()
    asked = ("fit", "lean", "--model", own_model, "--out")
    assert "model.safetensors: is there already and is no artifact of lean" in refused(*asked, own_model / "model.json")
    assert "config.json: is no artifact" in refused(*asked, own_model / "config.json")
    assert (own_model / "model.safetensors").read_bytes() == before
    Path("tuned.json").write_text('{"format": "mmhall tuned options, 1"}')
    assert "tuned.json: is no artifact" in refused("fit", "lean", "--out", "tuned.json")


@pytest.mark.slow
def test_missing_or_damaged_artifacts_are_told_before_the_model_is_read(refused, own_model, picture_file):
    asked = ("generate", picture_file, "--model", own_model, "--strategy", "lean", "--artifacts")
    assert "gone.json: does not exist; an artifact is two files" in refused(*asked, "gone.json")
    Path("here.json").write_text("{}")
    Path("here.safetensors").write_bytes(b"")
    (own_model / "model.safetensors").write_bytes(b"nothing")
    assert "here.json: is no artifact, or is damaged" in refused(*asked, "here.json")
    for command in (("bench", "pope", "--scenes", "2", "--out", "run"), ("show", "vhr"), ("demo", "--port", "0")):
        assert "here.json: is no artifact" in refused(*command, "--model", own_model, "--artifacts", "here.json")
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_strategy_may_learn_from_questions(cli, refused, own_model, picture_file):
    done = cli("fit", "yes-shift(share=0.75)", "--model", own_model, "--n", "10", "--apply")
    assert done.returncode == 0, done.stderr
    held = json.loads((own_model / "mmhall" / "yes-shift.json").read_text())
    assert f"fitted on 8 questions of drawn scenes ({held['data']['digest']}), seed 1000" in done.stdout
    assert "with shift     share of yes 0.75" in done.stdout
    asked = cli("generate", picture_file, "Is it?", "--model", own_model, "--strategy", "yes-shift", "--json")
    assert f"artifact='{held['sha256'][:12]}'" in json.loads(asked.stdout)["strategy"]
    line = refused("fit", "yes-shift", "--model", own_model, "--captions", "captions.json")
    assert "captions must be left out for a strategy that learns from questions" in line
