"""The command line, typed as a person types it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mmhall.adapters import FAMILIES
from mmhall.benchmarks import BENCHMARKS
from mmhall.benchmarks.run.runs import Run
from mmhall.decoders import STRATEGIES
from mmhall.lvlm import LVLM
from mmhall.registry import load_target
from tests.forks import interrupted

CHAIR = "chair(max_new_tokens=8)"
BENCH = (
    "bench",
    "pope(max_new_tokens=2)",
    CHAIR,
    "--strategy",
    "greedy",
    "--strategy",
    "vdd",
    "--scenes",
    "4",
    "--seed",
    "2",
)


def test_help_names_every_command(cli):
    done = cli("--help")
    assert done.returncode == 0
    for command in (
        "generate",
        "choose",
        "bench",
        "report",
        "compare",
        "judge",
        "export",
        "score",
        "scenes",
        "list",
        "show",
        "tune",
    ):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("what", "names"), [("strategies", " ".join(STRATEGIES.names())), ("benchmarks", " ".join(BENCHMARKS.names()))]
)
def test_list(cli, what, names):
    lines = cli("list", what).stdout.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == names.split()
    assert all(len(line.split()) > 3 for line in lines)


def test_list_models_tells_every_family_its_places_and_limits(cli):
    """The table comes from the adapters: what it says of a family is what its adapter says."""
    header, *lines = cli("list", "models").stdout.split("\n\n")[0].splitlines()
    assert header.split("  ")[0] == "FAMILY"
    assert [line.split()[0] for line in lines] == list(FAMILIES)
    for line in lines:
        adapter = load_target(FAMILIES[line.split()[0]])
        assert adapter.grid in line
        assert adapter.limits in line
        assert ("cross layers" in line) == ("cross" in adapter.image_kinds)


@pytest.mark.slow
def test_generate_draws_a_heat_map_beside_its_answer(cli, model_folder, picture_file, tmp_path):
    asked = ("generate", picture_file, "What is this?", "--model", model_folder, "--max-new-tokens", "8")
    drawn = tmp_path / "heat.png"
    assert cli(*asked, "--heatmap", drawn).stdout == cli(*asked).stdout
    with Image.open(drawn) as sheet:
        assert sheet.width > 100
        assert len(sheet.convert("L").getcolors() or range(999)) > 20


@pytest.mark.slow
def test_generate_answers_and_tells_all_as_json(cli, model_folder, picture_file):
    told = cli(
        "generate",
        picture_file,
        "What is this?",
        "--model",
        model_folder,
        "--max-new-tokens",
        "5",
        "--json",
        "--strategy",
        "vcd(alpha=0.5)",
    )
    answer = json.loads(told.stdout)
    assert answer["strategy"] == "vcd(alpha=0.5)"
    assert answer["settings"]["max_new_tokens"] == 5
    plain = cli(
        "generate",
        picture_file,
        "What is this?",
        "--model",
        model_folder,
        "--max-new-tokens",
        "5",
        "--strategy",
        "vcd(alpha=0.5)",
    )
    assert plain.stdout.strip() == answer["text"]


@pytest.mark.slow
def test_scenes_can_be_read_by_the_benchmarks(cli, model_folder, tmp_path):
    assert cli("scenes", "--n", "4", "--seed", "2", "--out", "drawn").returncode == 0
    asked = ("bench", "pope(max_new_tokens=2)", "--model", model_folder, "--data", "drawn/annotations.json")
    done = cli(*asked, "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert {m["group"] for m in json.loads(done.stdout)["metrics"]} == {"random", "popular", "adversarial", "mean"}


@pytest.fixture(scope="module")
def undisturbed():
    """What commands tell of the run that was not stopped, once it was done."""
    return {}


@pytest.mark.slow
def test_bench_then_report_say_the_same_and_the_page_stands_alone(
    cli, model_folder, tmp_path, monkeypatch, undisturbed
):
    first = cli(*BENCH, "--model", model_folder, "--batch-size", "4", "--out", "run", "--full")
    assert first.returncode == 0, first.stderr
    assert "pope adversarial: 24 items, 4 pictures, rule strict" in first.stdout
    assert "chair captions: 4 items" in first.stdout
    evaluated, evaluate = [], Run.evaluate
    monkeypatch.setattr(Run, "evaluate", lambda run: evaluated.append(run) or evaluate(run))
    again = cli("report", "run", "--full", "--html", "page.html")
    assert again.stdout == first.stdout
    assert len(evaluated) == 1  # for the table and the page
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    third = cli(*BENCH, "--model", model_folder, "--batch-size", "4", "--out", "run", "--json")
    undisturbed |= json.loads(third.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_ends_like_an_undisturbed_one(
    cli, model_folder, tmp_path, signal_number, undisturbed
):
    arguments = (*BENCH, "--model", str(model_folder), "--batch-size", "4", "--json")
    whole = undisturbed or json.loads(cli(*arguments, "--out", "whole").stdout)
    code, error = interrupted((*arguments, "--out", "cut"), tmp_path, "pope: ", signal_number)
    assert "Traceback" not in error
    if signal_number == signal.SIGINT:
        assert code == 2
        assert "the same command goes on from there" in error
    rest = json.loads(cli(*arguments, "--out", "cut").stdout)
    assert rest["metrics"] == whole["metrics"]
    assert rest["items"] == whole["items"]


@pytest.mark.slow
def test_ctrl_c_while_drawing_is_one_line(tmp_path):
    """As a person types it, in a process of its own.

    It heeds Ctrl-C also where these tests run in the background, which makes their children ignore it.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "mmhall", "scenes", "--n", "400", "--out", "x"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr.readline().startswith("drawing scenes: ")
        process.send_signal(signal.SIGINT)
        out, error = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert error.splitlines()[-1] == "mmhall: stopped"
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_run_folder_can_be_moved(cli, model_folder, tmp_path):
    done = cli("bench", CHAIR, "--model", model_folder, "--scenes", "2", "--out", "run")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert cli("report", "elsewhere").stdout == done.stdout


@pytest.mark.slow
def test_other_pictures_or_batches_are_another_set_up(cli, refused, model_folder, tmp_path):
    arguments = ("bench", CHAIR, "--model", model_folder, "--data", "a/annotations.json", "--out", "run")
    assert cli("scenes", "--n", "2", "--out", "a").returncode == 0
    assert cli(*arguments).returncode == 0
    assert "batch_size was 16, now 4" in refused(*arguments, "--batch-size", "4")
    (tmp_path / "b").mkdir()
    for name in ("000001.png", "000002.png"):
        Image.new("RGB", (224, 224)).save(tmp_path / "b" / name)
    assert "another set-up (benchmarks.chair.pictures was" in refused(*arguments, "--images", "b")


class TestBadInput:
    def test_missing_picture(self, refused):
        assert refused("generate", "gone.png") == "mmhall: gone.png: does not exist; give the path of a picture file"

    def test_text_file_named_png(self, refused, tmp_path):
        (tmp_path / "a.png").write_text("hello")
        assert "is not a picture, despite its name" in refused("generate", "a.png")

    def test_truncated_picture(self, refused, tmp_path):
        Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
        (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-500])
        assert "a.png: is damaged or truncated" in refused("generate", "a.png")

    def test_unknown_strategy(self, refused, picture_file):
        line = refused("generate", picture_file, "--strategy", "vd")
        assert (
            line == f"mmhall: unknown strategy 'vd'; did you mean 'vdd'? Known: {', '.join(sorted(STRATEGIES.names()))}"
        )

    def test_unknown_benchmark(self, refused):
        assert "unknown benchmark 'popes'; did you mean 'pope'?" in refused("bench", "popes", "--out", "run")

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("vcd(beta=2)", "vcd: beta must be a number in [0, 1], got 2.0"),
            ("vcd(alpha=-1)", "vcd: alpha must be a number >= 0, got -1.0"),
            ("vcd(alhpa=1)", "unknown option of vcd 'alhpa'; did you mean 'alpha'?"),
            ("vcd(alpha='x')", "vcd: alpha must be a number >= 0, got 'x'"),
            ("vcd(alpha", "strategy: name must be"),
            ("vcd(__import__('os'))", 'vcd: options must be written as "alpha=0.5, beta=0.2"'),
        ],
    )
    def test_option_out_of_range(self, refused, picture_file, spec, message):
        assert message in refused("generate", picture_file, "--strategy", spec)

    def test_sampling_options_without_sampling(self, refused, picture_file, model_folder):
        line = refused("generate", picture_file, "--temperature", "0.2", "--model", model_folder)
        assert "temperature must be left out unless do_sample=True" in line

    def test_options_of_scenes_with_other_data(self, refused):
        line = refused("bench", "pope", "--out", "run", "--data", "a.json", "--scenes", "5")
        assert "scenes, conflict and kind must be left out with --data" in line

    def test_a_number_torch_cannot_take(self, refused, picture_file, model_folder):
        assert "seed must be" in refused("generate", picture_file, "--sample", "--seed", 2**70, "--model", model_folder)

    def test_strategy_named_twice(self, refused):
        line = refused("bench", "pope", "--out", "run", "--strategy", "vcd", "--strategy", "vcd()")
        assert "strategy must be named once, got 'vcd'" in line

    def test_strategies_that_are_the_same_on_this_model(self, refused, model_folder):
        asked = ("bench", CHAIR, "--out", "run", "--scenes", "2", "--model", model_folder)
        line = refused(*asked, "--strategy", "vcd", "--strategy", "vcd(alpha=1.0)")
        assert "named once; another one is vcd(alpha=1.0) on this model, too, got 'vcd'" in line

    def test_setting_out_of_range(self, refused, picture_file, model_folder):
        assert "max_new_tokens must be an integer >= 1, got 0" in refused(
            "generate", picture_file, "--max-new-tokens", "0", "--model", model_folder
        )

    def test_heat_maps_that_cannot_be_written(self, refused, picture_file, tmp_path):
        """Refused before a model is loaded: nothing expensive is lost."""
        asked = ("generate", picture_file, "What?", "--model", "nowhere/at-all", "--heatmap")
        assert "does not say which picture format" in refused(*asked, tmp_path / "heat")
        assert "folder does not exist" in refused(*asked, tmp_path / "gone" / "heat.png")
        (tmp_path / "folder.png").mkdir()
        assert "cannot be written" in refused(*asked, tmp_path / "folder.png")

    def test_speed_is_a_command_of_its_own(self, refused):
        for arguments in (["speed"], ["speed", "pope", "--strategy", "vcd"]):
            assert "speed is a command of its own now; run `mmhall speed`" in refused("bench", *arguments)

    def test_a_benchmark_without_a_run_folder(self, refused):
        assert "out must be a run folder" in refused("bench", "pope")

    def test_an_empty_prompt(self, refused, picture_file, model_folder):
        assert "the prompt is empty" in refused("generate", picture_file, " ", "--model", model_folder)

    def test_a_prompt_longer_than_the_context(self, refused, picture_file, model_folder):
        assert "the model's context 512" in refused("generate", picture_file, "dog " * 600, "--model", model_folder)

    def test_folder_without_a_model(self, refused, picture_file, tmp_path):
        assert "holds no config.json" in refused("generate", picture_file, "--model", tmp_path)

    def test_pickled_weights(self, refused, picture_file, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "llava"}')
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
        assert "no *.safetensors weights" in refused("generate", picture_file, "--model", tmp_path)

    def test_unknown_hub_id_offline(self, refused, picture_file):
        assert "cannot load model 'nobody/nothing'" in refused("generate", picture_file, "--model", "nobody/nothing")

    @pytest.mark.slow
    def test_run_folder_of_another_set_up(self, cli, refused, model_folder):
        arguments = ("bench", CHAIR, "--model", model_folder, "--scenes", "2", "--out", "run")
        assert cli(*arguments).returncode == 0
        line = refused(*arguments, "--strategy", "vcd")
        assert 'belongs to another set-up (strategies was ["greedy"], now ["vcd"]' in line
        assert cli("report", "run").returncode == 0

    def test_report_without_a_run(self, refused):
        assert "holds no run" in refused("report", "nowhere")

    def test_unwritable_folder(self, refused, tmp_path):
        (tmp_path / "file").write_text("")
        assert "file is no folder; choose another --out" in refused("bench", "pope", "--out", "file/run")

    def test_unfit_data(self, refused, tmp_path, model_folder):
        (tmp_path / "a.json").write_text("[]")
        assert "is no COCO detection file" in refused(
            "bench", "pope", "--data", "a.json", "--out", "run", "--model", model_folder
        )


def test_what_would_steer_a_terminal_is_written_out(cli, refused, monkeypatch):
    line = refused("generate", "a\x1b[2J\u202eb.png")
    assert r"a\u001b[2J\u202eb.png: does not exist" in line


def test_an_answer_steers_no_terminal(cli, picture_file, monkeypatch):
    monkeypatch.setattr(LVLM, "stream", lambda *arguments, **options: iter(["red \x1b[31m", "\u202e\0"]))
    assert cli("generate", picture_file).stdout == "red \\u001b[31m\\u202e\\u0000\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("default::mmhall.errors.MmhallWarning")
def test_an_animation_is_said_on_one_line(cli, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    done = cli("generate", "a.gif", "--max-new-tokens", "1")
    assert done.returncode == 0
    assert "mmhall: a.gif: is animated or has several pages; the first is taken\n" in done.stderr


@pytest.mark.slow
def test_failures_are_told_with_their_reasons_and_may_be_too_many(cli, model_folder):
    assert cli("scenes", "--n", "4", "--out", "drawn").returncode == 0
    for name in ("000002.png", "000003.png"):
        Path("drawn", name).write_bytes(b"torn")
    asked = ("bench", CHAIR, "--data", "drawn/annotations.json", "--model", model_folder, "--out", "run")
    done = cli(*asked, "--full")
    assert done.returncode == 0
    remark = next(line for line in done.stdout.splitlines() if "could not be answered" in line)
    assert remark.startswith(
        "chair, greedy: 2 items could not be answered and count for no strategy: 2 x is not a picture"
    )
    assert "(first: item 2)" in remark
    assert cli(*asked, "--max-errors", "2").returncode == 0
    beyond = cli(*asked, "--max-errors", "1", "--json")
    assert beyond.returncode == 1
    assert "mmhall: 2 answers failed, more than --max-errors 1" in beyond.stderr
    (reason,) = json.loads(beyond.stdout)["items"][0]["reasons"]["greedy"]
    assert (reason["count"], reason["first"]) == (2, "2")
    assert cli("report", "run", "--html", "page.html").returncode == 0
    assert "is not a picture, despite its name" in Path("page.html").read_text()


LONG = "x" * 300


TOO_LONG = [
    ("generate", f"{LONG}.png"),
    ("generate", "a.png", "--heatmap", f"{LONG}.png"),
    ("generate", "picture.png", "--heatmap", f"{LONG}/a.png"),
    ("generate", "picture.png", "--strategy", f"cgd(clip='{LONG}')"),
    ("generate", "picture.png", "--chat-template", LONG),
    ("choose", "picture.png", "What?", "--model", LONG),
    ("generate", "picture.png", "--model", LONG),
    ("generate", "picture.png", "--tuned", LONG),
    ("bench", "pope", "--out", LONG),
    ("bench", "pope", "--out", "run", "--data", LONG),
    ("bench", "pope", "--out", "run", "--data", "picture.png", "--images", LONG),
    ("demo", "--model", LONG),
    ("bench", "pope", "--out", "run", "--data", f"{LONG}.csv"),
    ("report", LONG),
    ("scenes", "--out", LONG),
    ("score", "pope", LONG, "--data", LONG),
    ("tune", "vcd", "--out", LONG),
    ("tune", "vcd", "--data", LONG, "--out", "tuned.json"),
    ("demo", "--runs", LONG),
    ("export", LONG, "--to", f"{LONG}.csv"),
]


@pytest.mark.slow
def test_a_name_that_no_file_can_have_is_one_line(refused, picture_file):
    for arguments in TOO_LONG:
        line = refused(*arguments)
        assert "too long" in line.lower() or "cannot be written" in line or "must be a folder that holds" in line


def test_nothing_is_no_path_to_write_to(refused):
    for arguments in (
        ("bench", "pope", "--out", ""),
        ("scenes", "--out", " "),
        ("generate", "a.png", "--heatmap", ""),
        ("tune", "vcd", "--out", ""),
    ):
        assert "a path to write to must be the name of a file or folder" in refused(*arguments)


@pytest.mark.slow
def test_what_is_there_is_not_overwritten_unasked(cli, refused, picture_file):
    assert cli("scenes", "--n", "1", "--out", "drawn").returncode == 0
    assert "annotations.json: is there already; give another folder, or --force" in refused("scenes", "--out", "drawn")
    assert cli("scenes", "--n", "1", "--out", "drawn", "--force").returncode == 0
    line = refused("generate", picture_file, "--heatmap", picture_file)
    assert "picture.png: is there already; give another name, or --force" in line


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_half_picture(refused, model_folder, picture_file, monkeypatch, tmp_path):
    def full(self, path, *arguments, **options):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asked = ("generate", picture_file, "--model", model_folder, "--max-new-tokens", "2", "--heatmap", "heat.png")
    monkeypatch.setattr(Image.Image, "save", full)
    assert "heat.png: cannot be written: No space left on device" in refused(*asked)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_pipes_and_devices_are_told_and_not_opened(refused, tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    assert "is a pipe" in refused("bench", "pope", "--out", "run", "--data", "pipe.json")
    assert "is a device" in refused("bench", "pope", "--out", "run", "--data", "/dev/zero")
    assert "is a pipe" in refused("generate", "pipe.json")


def test_half_a_character_in_a_category_is_one_line(cli, refused):
    assert cli("scenes", "--n", "2", "--out", "drawn").returncode == 0
    path = Path("drawn/annotations.json")
    path.write_text(path.read_text().replace('"name": "', '"name": "\\ud800', 1))
    assert "is no COCO detection file" in refused("bench", "pope", "--out", "run", "--data", path)


def test_an_option_that_no_tensor_holds_is_refused(refused, picture_file):
    line = refused("generate", picture_file, "--strategy", "vhr(alpha=1e300)")
    assert "vhr: alpha must be a number >= 0, of size 3.4e+38 at most, got 1e+300" in line


@pytest.mark.slow
def test_a_model_without_heads_is_one_line(refused, model_folder, picture_file, tmp_path):
    broken = shutil.copytree(model_folder, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 0
    (broken / "config.json").write_text(json.dumps(config))
    assert "cannot load model" in refused("generate", picture_file, "--model", broken)
