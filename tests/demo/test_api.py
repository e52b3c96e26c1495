"""The functions of the server, as a program uses them."""

from __future__ import annotations

import re
from pathlib import Path
from time import sleep

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import mmhall
from mmhall.demo.probe import as_data, probe
from mmhall.display.records import Truth, answer_record
from mmhall.generation._streaming import Stream
from mmhall.words import locate_words

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs" / "demo.md"
PROMPT = "Please describe this image in detail."
SPECS = ["greedy", "vdd(alpha=0.5)", "beam(num_beams=2)"]
SCENE = {"scene": 4}


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
    truth = Truth([seen.name for seen in scene.objects][:1])
    settings = {"max_new_tokens": 24, "present": list(truth.present)}
    job = client.submit(handle_file(picture), PROMPT, SPECS, settings, api_name="/compare")
    told = list(job)
    states = [[column["state"] for column in one["columns"]] for one in told]
    assert states[0] == ["waiting"] * len(SPECS)
    assert {state for some in states for state in some} == {"waiting", "reading", "writing", "cut"}
    assert job.result() == told[-1]
    for column, spec in zip(told[-1]["columns"], SPECS, strict=True):
        answer = embedded.generate(scene.image, PROMPT, spec, uncertainty=True, max_new_tokens=24)
        expected = answer_record(answer, locate_words(embedded.adapter.tokenizer, answer.token_ids), PROMPT, truth)
        assert column["strategy"] == spec
        assert column["seconds"] > 0
        for field in ("text", "state", "tokens", "objects", "known", "verdict", "passes_per_token", "error"):
            assert column[field] == expected[field], field
        for word, other in zip(column["words"], expected["words"], strict=True):
            assert {name: word[name] for name in word if not isinstance(word[name], float)} == {
                name: other[name] for name in other if not isinstance(other[name], float)
            }
            assert word["gain"] == pytest.approx(other["gain"], abs=1e-3)


def test_of_a_scene_the_objects_are_known_unless_others_are_told(client, scene):
    present = {seen.name for seen in scene.objects}
    settings = {"max_new_tokens": 24}
    (column,) = client.predict(SCENE, PROMPT, ["greedy"], settings, api_name="/compare")["columns"]
    assert column["known"] == len(present)
    assert set(column["objects"]["made_up"]) == set(column["objects"]["named"]) - present
    judged = client.predict([column["id"]], ["boat"], ["bird"], api_name="/judge")["columns"][0]
    assert judged["words"][0] == column["words"][0]
    assert (judged["objects"]["made_up"], judged["known"], judged["id"]) == (["bird"], 1, column["id"])


def test_draws_follow_the_seed(client, embedded, scene):
    drawn = {"max_new_tokens": 16, "temperature": 1.5, "seed": 4}
    told = client.predict(SCENE, PROMPT, ["greedy"], drawn, api_name="/compare")["columns"][0]
    alone = embedded.generate(scene.image, PROMPT, do_sample=True, max_new_tokens=16, temperature=1.5, seed=4)
    assert told["text"] == alone.text
    gaze = client.predict(told["id"], api_name="/gaze")
    said = ["".join(one["text"] for one in some if one["chosen"]) for some in gaze["candidates"]]
    assert said == list(alone.tokens)


def test_where_an_answer_looked_is_what_its_trace_says(client, embedded, scene):
    from mmhall.analysis import spread
    from mmhall.display.gaze import gaze_record, packed, word_maps

    settings = {"max_new_tokens": 12}
    (column,) = client.predict(SCENE, PROMPT, ["vhr"], settings, api_name="/compare")["columns"]
    answer = embedded.generate(scene.image, PROMPT, "vhr", **settings)
    followed = embedded.follow(scene.image, PROMPT, answer)
    told = client.predict(column["id"], api_name="/gaze")
    expected = gaze_record(followed.trace, followed.candidates, column["id"])
    assert told["maps"] == expected["maps"]
    assert told["scale"] == pytest.approx(expected["scale"])
    assert [one["name"] for one in told["findings"]] == ["head gains"]
    some = client.predict(column["id"], [2], [0, 1], api_name="/gaze_heads")
    assert some["maps"] == packed(word_maps(followed.trace, [2], [0, 1]))["maps"]
    shift = client.predict(SCENE, PROMPT, api_name="/saliency")
    assert shift["map"] == packed(followed.trace.spread(embedded.trace(scene.image, PROMPT).saliency()))["maps"]
    word = next(number for number, one in enumerate(column["words"]) if one["object"])
    lens = client.predict(column["id"], word, 2, api_name="/lens")
    token = answer.token_ids[column["words"][word]["tokens"][0]]
    read = embedded.lens(scene.image, PROMPT, 2, [token])
    assert lens["scale"] == pytest.approx(float(spread(read.grid, 0, read.probabilities[0]).max()), abs=1e-6)
    assert [cell[0][0] for cell in lens["words"]] == [some[0][0] for some in read.words]


def test_a_probe_is_what_the_function_gives(client, embedded, scene, picture):
    names, present = ("cup", "dog", "dining table"), ("dining table",)
    told = client.predict(handle_file(picture), list(names), ["greedy", "vdd"], list(present), None, api_name="/probe")
    *_, table = probe(embedded, scene.image, names, [mmhall.strategy("greedy"), mmhall.strategy("vdd")], present)
    expected = as_data(table, embedded.adapter.tokenizer)
    for one in (told, expected):
        for strategy in one["strategies"]:
            for answer in strategy["answers"]:
                answer["yes_probability"] = pytest.approx(answer["yes_probability"], abs=1e-6)
    assert told == expected


def test_options_are_those_of_the_strategy_on_this_model(client, embedded):
    told = client.predict("vhr(alpha=3.0)+vcd", api_name="/options")
    assert told["spec"] == "vhr(alpha=3.0)+vcd"
    assert [card["name"] for card in told["cards"]] == ["vhr", "vcd"]
    fields = {(field["strategy"], field["option"]): field for field in told["fields"]}
    fitted = mmhall.strategy("vhr").fitted(embedded.adapter)
    assert fields["vhr", "alpha"]["value"] == 3.0
    assert fields["vhr", "alpha"]["default"] == fitted.alpha
    assert (fields["vhr", "alpha"]["source"], fields["vhr", "alpha"]["kind"]) == ("set here", "number")
    assert fields["vhr", "layers"]["source"] == mmhall.strategy("vhr").origins(embedded.adapter)["layers"]
    with pytest.raises(AppError, match="left to the owner"):
        client.predict("cgd(clip='/etc')", api_name="/options")


def test_presets_come_from_what_is_in_the_picture(client, scene):
    present = [seen.name for seen in scene.objects]
    told = client.predict({"picture": SCENE}, api_name="/presets")
    prompts = [one["prompt"] for one in told["presets"]]
    there, absent = (
        [prompt for prompt in prompts if any(name in prompt for name in present) is wanted] for wanted in (True, False)
    )
    assert len(there) == 1
    assert len(absent) == 2  # the description, and an object that is not there
    assert set(told["ask"]) & set(present)
    for setup in ({}, {"picture": None}, {"picture": {"upload": "x"}, "present": None}):
        assert client.predict(setup, api_name="/presets")["presets"][0]["prompt"] == PROMPT


def test_about_says_what_there_is(client, embedded):
    told = client.predict(api_name="/about")
    assert (told["model"]["state"], told["model"]["parameters"]) == ("ready", embedded.size)
    names = [entry["name"] for group in told["groups"] for entry in group["strategies"]]
    assert len(names) == len(set(names)) > 30
    assert {"greedy", "vdd", "opera"} <= set(names)
    assert not {"cgd", "vti"} & set(names)  # they open a file, or need a fit
    assert all(entry["line"] and entry["passes"] for group in told["groups"] for entry in group["strategies"])
    assert all(scene["image"].startswith("data:image/webp") and scene["alt"] for scene in told["scenes"])


def test_a_refusal_reaches_the_program_as_plain_text(client):
    with pytest.raises(AppError) as caught:
        client.predict(SCENE, PROMPT, ["vdc"], {"<b>": 1}, api_name="/compare")
    assert str(caught.value) == (
        "demo: the set-up must be made of prompt, strategies, max_new_tokens, temperature, seed, present, absent, "
        "got '<b>'"
    )
    with pytest.raises(AppError, match="unknown strategy 'vdc'; did you mean"):
        client.predict(SCENE, PROMPT, ["vdc"], None, api_name="/compare")


def test_every_function_for_programs_is_documented_and_its_example_runs(client, visitor, page_url):
    info = visitor.http.get("gradio_api/info").json()
    assert info["unnamed_endpoints"] == {}
    assert set(info["named_endpoints"]) == {
        "/about", "/presets", "/options", "/compare", "/stop", "/judge", "/gaze", "/gaze_heads", "/saliency", "/lens",
        "/probe", "/exports", "/runs",
    }  # fmt: skip
    page = visitor.http.get("api").text
    for name, described in info["named_endpoints"].items():
        assert len(described["description"]) > 50
        assert f"<h2>{name}</h2>" in page
        example, space = described["code_snippets"]["python"], {}
        assert f'Client("{page_url}")' in example or f'Client("{page_url.rstrip("/")}")' in example
        exec(example.replace("print(result)", "client.close()"), space)
        assert isinstance(space["result"], dict), name
        assert space["result"] or name == "/stop"


def test_a_stopped_comparison_keeps_what_was_said(client, monkeypatch):
    step = Stream.step
    monkeypatch.setattr(Stream, "step", lambda stream: sleep(0.1) or step(stream))  # so that there is time to stop
    job = client.submit(SCENE, PROMPT, ["greedy", "vdd"], {"max_new_tokens": 64}, api_name="/compare")
    for told in job:
        if all(column["tokens"] > 2 for column in told["columns"]):
            client.predict(api_name="/stop")
            break
    columns = job.result()["columns"]
    assert [column["state"] for column in columns] == ["stopped"] * 2
    assert all(column["words"] for column in columns)
    assert client.predict(columns[1]["id"], api_name="/gaze")["maps"]


def test_the_documented_program_runs(page_url, picture, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(picture.parents[1])
    space = {}
    exec(code.replace("http://127.0.0.1:7860/", page_url).replace("http://127.0.0.1:7860", page_url), space)
    space["page"].close()
    said = capsys.readouterr().out
    assert "vdd(alpha=0.5) done " in said
    assert re.search(r"^vdd dog (yes|no) 0\.\d+ (True|False)$", said, re.MULTILINE)
