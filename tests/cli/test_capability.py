"""`mmhall report --capability`: scores of lmms-eval beside the gain, on a run of a tiny random model."""

from __future__ import annotations

import json

import pytest

from mmhall.results.capability import NOT_MEASURED


def results(path, score, strategy=None, model="mmhall"):
    arguments = {"pretrained": "model", **({"strategy": strategy} if strategy else {})}
    told = {"results": {"mmstar": {"average,none": score}}, "config": {"model": model, "model_args": arguments}}
    path.write_text(json.dumps(told))
    return path


@pytest.mark.slow
def test_scores_stand_beside_the_gain_or_are_said_to_be_missing(cli, refused, model_folder, tmp_path):
    """70.2 of greedy and 56.4 of vdd are -13.8, in the line of the gain; vcd has no score."""
    (tmp_path / "model").symlink_to(model_folder)
    asked = [word for spec in ("greedy", "vdd", "vcd(alpha=0.5)") for word in ("--strategy", spec)]
    done = cli("bench", "pope(max_new_tokens=1)", "--scenes", "1", "--model", "model", *asked, "--out", "run", "--full")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{NOT_MEASURED}; `mmhall report RUN --capability FILE`")
    plain, vdd = results(tmp_path / "a.json", 0.702), results(tmp_path / "b.json", 0.564, "vdd")
    done = cli("report", "run", "--capability", plain, "--capability", vdd, "--full", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("capability in percent beside the gain") :].split("\n\n")[0].splitlines()
    assert table[1].split()[-5:] == ["strategy", "pope", "mean", "accuracy", "MMStar"]
    assert [line.split()[-1] for line in (table[2], table[5], table[6])] == ["70.2", "56.4", "-13.8"]
    assert table[3].endswith(NOT_MEASURED)
    assert NOT_MEASURED not in done.stdout.splitlines()[-1]
    page = (tmp_path / "page.html").read_text()
    assert "56.4" in page
    assert "-13.8" in page
    other, foreign = results(tmp_path / "c.json", 0.5, "apc"), results(tmp_path / "d.json", 0.5, model="llava_hf")
    told = json.loads(cli("report", "run", "--capability", f"vcd(alpha=0.5)={foreign}", "--json").stdout)
    assert told["capability"] == {"greedy": NOT_MEASURED, "vdd": NOT_MEASURED, "vcd(alpha=0.5)": {"MMStar": 50.0}}
    for given, line in (
        ([other], "c.json: is of apc, the run has greedy, vcd(alpha=0.5), vdd"),
        ([foreign], "d.json: does not say its strategy; give STRATEGY="),
        ([plain, plain], "a.json: scores MMStar again"),
        ([f"vdd={plain}"], "a.json: is of greedy by its own arguments, not of vdd"),
    ):
        assert line in refused("report", "run", *(word for file in given for word in ("--capability", file)))
    assert "given with a single run" in refused("report", "run", "run", "--capability", plain)
    told = json.loads(plain.read_text())
    told["config"]["model_args"]["pretrained"] = "another"
    plain.write_text(json.dumps(told))
    assert "a.json: is of the model another, the run of model" in refused("report", "run", "--capability", plain)
