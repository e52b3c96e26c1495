"""The endpoints for programs, as a program uses them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import mmhall
from mmhall.demo.probe import as_data, probe
from mmhall.demo.words import named_objects

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "demo.md"
PROMPT = "Please describe this image in detail."
SPECS = ["greedy", "vdd(alpha=0.5)", "beam(num_beams=2)"]


@pytest.fixture(scope="module")
def client(page_url):
    made = Client(page_url, verbose=False, httpx_kwargs={"timeout": 60})
    yield made
    made.close()


@pytest.fixture(scope="module")
def picture(scene, tmp_path_factory):
    path = tmp_path_factory.mktemp("mine") / "scenes" / "000001.png"
    path.parent.mkdir()
    scene.image.save(path)
    return path


def test_a_comparison_is_what_generate_says(client, embedded, scene, picture):
    present = [seen.name for seen in scene.objects][:1]
    settings = {"max_new_tokens": 24, "present": present}
    job = client.submit(handle_file(picture), PROMPT, SPECS, settings, api_name="/compare")
    records = list(job)
    assert len(records) > 2
    states = [[column["state"] for column in record["columns"]] for record in records]
    assert states[0] == ["waiting"] * len(SPECS)
    assert states[-1] == ["done"] * len(SPECS)
    assert {state for told in states for state in told} == {"waiting", "writing", "done"}
    last = records[-1]["columns"]
    assert job.result() == records[-1]
    assert last[0]["ratio"] == 1
    for column, spec in zip(last, SPECS, strict=True):
        answer = embedded.generate(scene.image, PROMPT, spec, max_new_tokens=24)
        assert (column["strategy"], column["text"]) == (spec, answer.text)
        assert column["tokens"] == answer.usage.new_tokens
        assert column["seconds"] > 0
        assert column["ratio"] > 0
        assert column["objects"] == named_objects(answer.text)
        assert column["hallucinated"] == [name for name in column["objects"] if name not in present]
        assert column["error"] == ""


def test_draws_follow_the_seed(client, embedded, scene, picture):
    drawn = {"max_new_tokens": 16, "temperature": 1.5, "seed": 4}
    told = client.predict(handle_file(picture), PROMPT, ["greedy"], drawn, api_name="/compare")["columns"][0]
    alone = embedded.generate(scene.image, PROMPT, do_sample=True, max_new_tokens=16, temperature=1.5, seed=4)
    assert told["text"] == alone.text
    assert told["hallucinated"] is None


def test_a_probe_is_what_the_function_gives(client, embedded, scene, picture):
    names, present = ("cup", "dog", "dining table"), ("dining table",)
    told = client.predict(handle_file(picture), ", ".join(names), ["greedy", "vdd"], list(present), api_name="/probe")
    *_, table = probe(embedded, scene.image, names, [mmhall.strategy("greedy"), mmhall.strategy("vdd")], present)
    expected = as_data(table)
    for one in (told, expected):
        for strategy in one["strategies"]:
            for answer in strategy["answers"]:
                answer["yes_probability"] = pytest.approx(answer["yes_probability"], abs=1e-6)
    assert told == expected


def test_a_refusal_reaches_the_program(client, picture):
    with pytest.raises(AppError, match=r"unknown strategy (.*)vdc(.*)did you mean"):
        client.predict(handle_file(picture), PROMPT, ["vdc"], None, api_name="/compare")


def test_programs_see_two_endpoints_with_their_parameters(client, visitor):
    told = client.view_api(return_format="dict")
    assert set(told["named_endpoints"]) == {"/compare", "/probe"}
    assert told["unnamed_endpoints"] == {}
    info = visitor.http.get("gradio_api/info").json()["named_endpoints"]
    names = {name: [one["parameter_name"] for one in end["parameters"]] for name, end in info.items()}
    assert names == {
        "/compare": ["image", "prompt", "strategies", "settings"],
        "/probe": ["image", "objects", "strategies", "present"],
    }
    assert "max_new_tokens" in info["/compare"]["description"]
    assert "hallucinated" in info["/compare"]["description"]
    assert "probability of yes" in info["/probe"]["description"]


def test_the_documented_program_runs(page_url, picture, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(picture.parents[1])
    space = {}
    exec(code.replace("http://127.0.0.1:7860/", page_url).replace("http://127.0.0.1:7860", page_url), space)
    space["page"].close()
    said = capsys.readouterr().out
    assert "vdd(alpha=0.5) done " in said
    assert re.search(r"^vdd dog (yes|no) 0\.\d+ (True|False)$", said, re.MULTILINE)
