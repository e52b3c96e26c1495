"""What people take away, given to what it is for: code is run, commands are typed, tables are read."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
from dataclasses import replace

import pytest

import mmhall
from mmhall.benchmarks.scenes import make_scene
from mmhall.demo.compare import Column
from mmhall.demo.setups import Setup, setup
from mmhall.demo.share import LONGEST, Picture, as_json, command_line, csv_text, from_json, python_code
from mmhall.errors import DataError, PromptError

pytestmark = pytest.mark.slow

SCENE = Picture("scene 2026/4", "unused.png", (2026, 4))
HOSTILE = """'; touch bad; echo "$(touch bad)" `touch bad` \\ \u202e\x03\x1b[201~\r\n\t!! {x} %s '''+\"\"\" é"""


def asked(**told):
    return setup({"prompt": "What is in this image?", "strategies": ["greedy", "vdd(alpha=0.5)"], **told})[0]


@pytest.mark.parametrize(
    "made",
    [
        asked(),
        asked(prompt=HOSTILE, temperature=0.7, seed=5, max_new_tokens=7, present=["cup", "dining table"]),
        asked(prompt="何が見える？", present=[], absent=["cup"]),
    ],
    ids=["plain", "hostile", "another script"],
)
def test_a_set_up_comes_back_from_its_json(made):
    text = as_json(made, "embedded", "scene 2026/4")
    text.encode()
    assert "\u202e" not in text
    assert "\x1b" not in text
    loaded = from_json(text, "embedded")
    assert (loaded.setup, loaded.picture, loaded.note) == (made, "scene 2026/4", "")


def test_json_says_what_it_was_made_with():
    told = json.loads(as_json(asked(), "embedded", "photo.png (sha256 0123456789ab)"))
    assert (told["mmhall"], told["model"]) == (mmhall.__version__, "embedded")
    assert told["picture"] == "photo.png (sha256 0123456789ab)"
    assert told["setup"]["strategies"] == ["greedy", "vdd(alpha=0.5)"]


def test_another_model_or_version_is_noted():
    text = as_json(asked(), "llava\u202e-7b", "x")
    assert from_json(text, "embedded").note == (
        "made with model llava\\u202e-7b (here: embedded): its answers may differ"
    )
    older = json.dumps(json.loads(text) | {"mmhall": "0.0.1"})
    assert "mmhall 0.0.1 (here: " in from_json(older, "embedded").note
    assert "model llava" in from_json(older, "embedded").note


def test_nothing_but_the_set_up_is_needed():
    loaded = from_json('{"setup": {"prompt": "What?", "strategies": ["greedy"]}}', "embedded")
    assert (loaded.setup, loaded.picture, loaded.note) == (Setup("What?", ("greedy",)), "", "")


def pasted(**fields):
    return json.dumps({"setup": {"prompt": "What?", "strategies": ["greedy"], **fields}})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "there is no set-up"),
        (" \n", "there is no set-up"),
        (12, "there is no set-up"),
        ("What is in this image?", "is not JSON: Expecting value"),
        ('{"setup": ', "is not JSON"),
        ("x" * (LONGEST + 1), "20,001 characters; a set-up has at most 20,000"),
        ("[]", "is no set-up; expected"),
        ("null", "is no set-up; expected"),
        ('{"prompt": "What?"}', "is no set-up; expected"),
        ('{"setup": [1, 2]}', "the set-up must be"),
        ('{"setup": {}}', "strategies must be"),
        ('{"setup": {}, "fields": 1}', "no 'fields'"),
        ('{"setup": {}, "model": 7}', '"model" of a set-up must be a text, got 7'),
        (pasted(shape="round"), "got 'shape'"),
        (pasted(temperature=float("nan")), "NaN is no number"),
        (pasted(temperature=float("inf")), "Infinity is no number"),
        (pasted().replace('"What?"', '"What?", "temperature": 1e999'), "temperature must be"),
        (pasted().replace('"What?"', f'"What?", "seed": {"9" * 5000}'), "is not JSON"),
        (pasted(temperature=3), "temperature must be"),
        (pasted(seed=-1), "seed must be"),
        (pasted(seed="1"), "seed must be"),
        (pasted(max_new_tokens=10_000), "max_new_tokens must be"),
        (pasted(max_new_tokens=True), "max_new_tokens must be"),
        (pasted(prompt="x" * 3000), "the prompt has 3,000 characters"),
        (pasted(prompt=["x"]), "the prompt is empty"),
        (pasted(strategies=["nonsense"]), "unknown strategy"),
        (pasted(strategies=["greedy"] * 5), "a list of 1 to 4 strategies"),
        (pasted(strategies=[["greedy"]]), "texts of at most"),
        (pasted(present={"cup": 1}), "objects must be"),
        (pasted(present=[["cup"]]), "objects must be"),
        ("[" * 9000, "nested too deeply"),
        ('{"setup": ' + "[" * 900 + "]" * 900 + "}", "the set-up must be"),
        ('{"setup": ' + '{"a":' * 3000 + "1" + "}" * 3000 + "}", ""),
    ],
)
def test_whatever_is_pasted_is_read_or_refused_in_one_short_line(text, told):
    with pytest.raises(DataError) as refusal:
        from_json(text, "embedded")
    assert told in str(refusal.value)
    assert len(str(refusal.value)) <= 500


def test_only_what_the_owner_offers_may_open_something():
    spec = "cgd(clip='some/folder')"
    text = pasted(strategies=["greedy", spec])
    assert from_json(text, "embedded", owner_specs=[spec]).setup.strategies == ("greedy", spec)
    with pytest.raises(DataError, match="left to the owner of this page"):
        from_json(text, "embedded")


@pytest.mark.parametrize(
    "told",
    [{}, {"prompt": HOSTILE, "strategies": ["greedy"]}, {"temperature": 0.9, "seed": 3, "max_new_tokens": 9}],
    ids=["plain", "hostile", "sampled"],
)
def test_the_python_code_gives_the_answers(embedded, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = asked(**told)
    code, said = python_code(made, "embedded", SCENE), io.StringIO()
    assert code.replace("\n", "").isprintable()
    names = {"__name__": "__main__"}
    with contextlib.redirect_stdout(said):
        exec(compile(code, "repeat.py", "exec"), names)
    assert names["prompt"] == made.prompt
    for spec in made.strategies:
        answer = embedded.generate(make_scene(2026, 4).image, made.prompt, spec, **made.settings)
        assert f"s)\n{answer.text}\n\n" in said.getvalue()
        assert f"{answer.strategy} (" in said.getvalue()
    assert not list(tmp_path.iterdir())


def test_the_python_code_opens_a_file_of_any_name(embedded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'it\'s "my" photo {x}.png'
    image = make_scene(2026, 1).image
    image.save(name)
    said = io.StringIO()
    made = asked(strategies=["greedy"])
    with contextlib.redirect_stdout(said):
        exec(python_code(made, "embedded", Picture("mine", name)), {})
    assert embedded.generate(image, made.prompt, **made.settings).text in said.getvalue()


def typed(text, folder):
    """Let bash read commands; return the arguments of each `mmhall` among them."""
    stub = "mmhall() { printf '%s\\0' \"$@\"; printf '\\n\\0'; }\n"
    done = subprocess.run(["bash", "-euc", stub + text], cwd=folder, capture_output=True, check=True)
    assert not done.stderr
    commands = done.stdout.decode().split("\0\n\0")
    assert commands.pop() == ""
    return [command.split("\0") for command in commands]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"prompt": HOSTILE},
        {"prompt": "--help", "strategies": ["greedy"]},
        {"temperature": 0.9, "seed": 3, "max_new_tokens": 9},
    ],
    ids=["plain", "hostile", "dashed", "sampled"],
)
def test_the_commands_give_the_answers(cli, embedded, tmp_path, told):
    made = asked(**told)
    text = command_line(made, "embedded", SCENE)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text.splitlines()) == 1 + len(made.strategies)
    drawing, *commands = typed(text, tmp_path)
    assert not list(tmp_path.iterdir())
    assert cli(*drawing).returncode == 0
    for spec, command in zip(made.strategies, commands, strict=True):
        done = cli(*command)
        assert done.returncode == 0, done.stderr
        answer = embedded.generate(make_scene(2026, 4).image, made.prompt, spec, **made.settings)
        assert done.stdout.strip() == answer.text


def test_commands_name_the_model_and_the_file(tmp_path):
    picture = Picture("mine", "-it's mine.png")
    (command,) = typed(command_line(asked(strategies=["greedy"]), "models/my llava", picture), tmp_path)
    assert command[:3] == ["generate", "./-it's mine.png", "What is in this image?"]
    assert command[command.index("--model") + 1] == "models/my llava"


def test_code_and_commands_load_the_model_as_the_page_did(tmp_path):
    made, picture = asked(strategies=["greedy"]), Picture("mine", "mine.png")
    loading = {"device_map": {"": "cpu"}, "processor": {"max_pixels": 50176}, "trust_remote_code": True}
    (command,) = typed(command_line(made, "m", picture, loading), tmp_path)
    at = command.index("--device-map")
    assert command[at : at + 5] == [
        "--device-map", '{"": "cpu"}', "--processor", "max_pixels=50176", "--trust-remote-code",
    ]  # fmt: skip
    loaded = "mmhall.load('m', device_map={'': 'cpu'}, processor={'max_pixels': 50176}, trust_remote_code=True)"
    assert loaded in python_code(made, "m", picture, loading)


@pytest.mark.parametrize("prompt", ["a\0b", "a\ud800b"])
def test_what_no_command_line_can_carry_is_refused(prompt):
    with pytest.raises(PromptError, match="cannot be given on a command line"):
        command_line(replace(asked(), prompt=prompt), "embedded", SCENE)


def read(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_table_says_what_the_columns_say(compared):
    _, made, columns, present = compared(4)
    first, second = read(csv_text(made, columns, present, "embedded"))
    assert first["strategy"] == "greedy"
    assert first["text"] == columns[0].text
    assert float(first["seconds"]) == columns[0].seconds
    assert int(first["tokens"]) == columns[0].tokens
    assert float(first["tokens per second"]) == columns[0].rate
    assert float(first["time per token, ratio to the first"]) == 1
    assert first["objects named"] == "bird, book, surfboard, boat"
    assert first["supported"] == "bird, book, surfboard"
    assert first["hallucinated"] == "boat"
    assert (first["state"], first["stopped by"], first["error"]) == ("done", "eos", "")
    assert (first["prompt"], first["model"]) == (made.prompt, "embedded")
    assert second["fitted strategy"] == columns[1].answer.strategy
    assert second["hallucinated"] == ""


def test_without_a_truth_nothing_is_supported_or_hallucinated(compared):
    _, made, columns, _ = compared(4)
    first, _ = read(csv_text(made, columns, None, "embedded"))
    assert first["objects named"] == "bird, book, surfboard, boat"
    assert first["supported"] == first["hallucinated"] == ""


def test_objects_of_the_picture_that_are_not_coco_s_count():
    said = Column("greedy", "done", "A robot and a cat.")
    (row,) = read(csv_text(asked(), [said], ["robot"], "embedded"))
    assert (row["supported"], row["hallucinated"]) == ("robot", "cat")


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_no_cell_becomes_a_formula(start):
    columns = [Column("greedy", "failed", start, error=start)]
    (row,) = read(csv_text(asked(prompt=f"{start} what?"), columns, None, start))
    assert row["text"] == row["error"] == row["model"] == f"'{start}"
    assert row["prompt"] == f"'{start} what?"


def test_any_text_round_trips_through_the_table():
    text = 'He said "a, b";\r\nthen\n= nothing\r and é'
    (row,) = read(csv_text(asked(), [Column("greedy", "stopped", text)], None, "embedded"))
    assert row["text"] == text
    (row,) = read(csv_text(asked(), [Column("greedy", "stopped", "half \ud800")], None, "embedded"))
    assert row["text"] == "half \\ud800"
    assert row["seconds"] == "0.0"
    assert row["tokens per second"] == ""
