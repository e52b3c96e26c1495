"""What people take away, given to what it is for: code is run, commands are typed, tables are read."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
from dataclasses import replace

import pytest

from mmhall.benchmarks.scenes import make_scene
from mmhall.comparison import Comparison
from mmhall.demo import table
from mmhall.demo.setups import read_setup
from mmhall.demo.share import Picture, command_line, exports, notebook, python_code
from mmhall.display.records import UNKNOWN, Truth, text_record
from mmhall.errors import OptionError, PromptError
from tests.notebooks import run_notebook

pytestmark = pytest.mark.slow

SCENE = Picture("unused.png", (2026, 4))
HOSTILE = """'; touch bad; echo "$(touch bad)" `touch bad` \\ \u202e\x03\x1b[201~\r\n\t!! {x} %s '''+\"\"\" é"""
SAMPLED = {"temperature": 0.9, "seed": 3, "max_new_tokens": 9}


def asked(**told):
    return read_setup({"prompt": "What is in this image?", "strategies": ["greedy", "vdd(alpha=0.5)"], **told})[0]


LONG = pytest.mark.long


def texts(embedded, made, image):
    """What the Python API says."""
    return [embedded.generate(image, made.prompt, spec, **made.settings).text for spec in made.strategies]


@pytest.mark.parametrize(
    "told",
    [
        pytest.param({}, marks=LONG),
        {"prompt": HOSTILE, "strategies": ["greedy"], "present": ["cup", "it's"]},
        pytest.param(SAMPLED, marks=LONG),
    ],
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
    for text in texts(embedded, made, make_scene(2026, 4).image):
        assert f"\n{text}\n" in said.getvalue()
    assert names["comparison"].traces[0].prompt == made.prompt
    assert not list(tmp_path.iterdir())


def test_the_python_code_opens_a_file_of_any_name(embedded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'it\'s "my" photo {x}.png'
    image = make_scene(2026, 1).image
    image.save(name)
    said = io.StringIO()
    made = asked(strategies=["greedy"])
    with contextlib.redirect_stdout(said):
        exec(python_code(made, "embedded", Picture(name)), {})
    assert texts(embedded, made, image)[0] in said.getvalue()


@pytest.mark.parametrize(
    "told", [pytest.param({"present": ["bird", "book"]}, marks=LONG), {"prompt": HOSTILE}], ids=["plain", "hostile"]
)
def test_the_notebook_shows_the_comparison(embedded, told):
    made = asked(**told)
    shown = run_notebook(notebook(made, "embedded", SCENE))[-1]
    assert isinstance(shown, Comparison)
    assert [answer.text for answer in shown.answers] == texts(embedded, made, make_scene(2026, 4).image)
    assert [bool(record["known"]) for record in shown.records] == [bool(made.present)] * 2
    assert "<script" in shown._repr_html_()


def test_the_notebook_is_one_that_jupyter_reads():
    told = json.loads(notebook(asked(), "embedded", Picture('my "photo".png')))
    assert (told["nbformat"], told["nbformat_minor"]) == (4, 5)
    for cell in told["cells"]:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"id", "cell_type", "metadata", "source"} | code
    assert 'as "my \\"photo\\".png"' in told["cells"][0]["source"]


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
        pytest.param({}, marks=LONG),
        {"prompt": HOSTILE},
        {"prompt": "--help", "strategies": ["greedy"]},
        pytest.param(SAMPLED, marks=LONG),
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
    for said, command in zip(texts(embedded, made, make_scene(2026, 4).image), commands, strict=True):
        done = cli(*command)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == said


def test_commands_name_the_model_and_the_file(tmp_path):
    picture = Picture("-it's mine.png")
    (command,) = typed(command_line(asked(strategies=["greedy"]), "models/my llava", picture), tmp_path)
    assert command[:3] == ["generate", "./-it's mine.png", "What is in this image?"]
    assert command[command.index("--model") + 1] == "models/my llava"


def test_code_and_commands_load_the_model_as_the_page_did(tmp_path):
    made, picture = asked(strategies=["greedy"]), Picture("mine.png")
    loading = {"device_map": {"": "cpu"}, "processor": {"max_pixels": 50176}, "trust_remote_code": True}
    (command,) = typed(command_line(made, "m", picture, loading), tmp_path)
    at = command.index("--device-map")
    assert command[at : at + 5] == [
        "--device-map", '{"": "cpu"}', "--processor", "max_pixels=50176", "--trust-remote-code",
    ]  # fmt: skip
    loaded = "mmhall.load('m', device_map={'': 'cpu'}, processor={'max_pixels': 50176}, trust_remote_code=True)"
    assert loaded in python_code(made, "m", picture, loading)


@pytest.mark.parametrize("prompt", ["a\0b", "a\ud800b"])
def test_what_no_command_line_can_carry_is_refused_and_said_in_its_place(prompt, embedded):
    made = replace(asked(), prompt=prompt)
    with pytest.raises(PromptError, match="cannot be given on a command line"):
        command_line(made, "embedded", SCENE)
    assert exports(embedded, made, SCENE, [])["shell"].startswith("# ")


def test_exports_write_out_the_options_in_force(embedded):
    """The depth of vhr's layers is fitted to the model, and may be tuned on this machine only."""
    made = exports(embedded, asked(strategies=["greedy", "vhr"]), SCENE, [])
    fitted = embedded.generate(make_scene(2026, 4).image, "What?", "vhr", max_new_tokens=1).strategy
    assert fitted != "vhr"
    assert set(made) == {"python", "shell", "notebook", "csv", "markdown", "latex"}
    assert repr(fitted) in made["python"]
    assert fitted in typed(made["shell"], ".")[-1]


def told(text, truth=UNKNOWN, **facts):
    return table.rows([text_record(text, "What?", truth, **{"strategy": "greedy", **facts})], "embedded")


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"])
def test_no_cell_of_the_csv_becomes_a_formula(start):
    (row,) = csv.DictReader(io.StringIO(table.as_csv(told(start, strategy=start, error=start)), newline=""))
    assert row["text"] == row["strategy"] == row["error"] == f"'{start}"


def test_any_text_round_trips_through_the_csv():
    text = 'He said "a, b";\n\n= nothing and é'
    (row,) = csv.DictReader(io.StringIO(table.as_csv(told(text)), newline=""))
    assert row["text"] == text
    assert row["made up"] == row["missing"] == row["right"] == ""


def test_the_table_of_a_text_or_paper_stays_a_table():
    made = told("A cup | <b>\nand a *boat*", Truth(["dog"]), strategy="vcd(alpha=50%_x)", passes_per_token=1.906)
    *_, line = table.as_markdown(made).splitlines()
    assert line == r"| vcd(alpha=50%\_x) | cup, boat | cup, boat |  | 0 | 1.91 | A cup \| \<b\> and a \*boat\* |"
    assert r"vcd(alpha=50\%\_x) & cup, boat & cup, boat &  & 0 & 1.91 \\" in table.as_latex(made).splitlines()


@pytest.mark.parametrize("records", [None, 3, ["x"], [{}], [{"strategy": "greedy", "objects": []}], "greedy"])
def test_what_is_no_record_makes_no_table(records):
    with pytest.raises(OptionError, match="columns must be records as /compare returns them"):
        table.rows(records, "embedded")
