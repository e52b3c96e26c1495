"""mmhall explain."""

from __future__ import annotations

import json

from mmhall.models._options import LoadOptions


def test_explain_tells_what_a_strategy_does_and_costs(cli, model_folder):
    done = cli("explain", "vhr+vcd", "--model", model_folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Strategy  vhr(")
    assert "Branches " in done.stdout
    assert "each further token: 1 pass of 2 rows" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_explain_takes_a_request_and_beams_and_writes_json(cli, model_folder, picture_file):
    asked = ("explain", "vdd", picture_file, "Is there a dog?", "--model", model_folder)
    told = json.loads(cli(*asked, "--num-beams", "3", "--json").stdout)
    assert told["cost"] == {"prompt_passes": 2, "token_passes": 1, "token_rows": 6, "exact": True}
    assert told["image_tokens"] == 64


def test_explain_refuses_in_one_line(refused, model_folder):
    assert "unknown strategy 'vdc'" in refused("explain", "vdc")
    assert "no_such.png" in refused("explain", "vcd", "no_such.png", "What?", "--model", model_folder)


def test_explain_loads_a_model_as_other_commands_do(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    told = cli("explain", "--help").stdout
    for flag in LoadOptions().arguments():
        assert f"--{flag.replace('_', '-')}" in told
