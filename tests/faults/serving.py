"""Rows 35 to 45: what strangers supply, what visitors of the page may do, and what leaves the house."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image

import mmhall
from mmhall import files
from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.run import config_file
from mmhall.benchmarks.scenes import make_scene
from mmhall.cli.loading import _FLAGS
from mmhall.decoders import STRATEGIES
from mmhall.demo import limits
from mmhall.demo.serve import Address, serving
from mmhall.errors import DataError, MmhallError, MmhallWarning, ModelError, OptionError, PluginError
from mmhall.models._options import LoadOptions
from mmhall.models._path import EMBEDDED, find_model_path
from mmhall.results.export import escape_formula
from mmhall.results.imports import read_answers
from mmhall.strategies import strategy
from mmhall.strategies.tuned import default_file, read as read_tuned
from tests.demo import test_limits, test_safety
from tests.demo.visitor import Visitor, as_file
from tests.faults.support import command, embedded, refuses, told_by
from tests.test_registry import GOOD, install

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "What is in this image?"


OPEN = ExitStack()
"""The page that all rows share; closed after the last one."""


def served():
    """Open the page on the embedded model; a context that yields its address."""
    loaded = Future()
    loaded.set_result(embedded())
    return serving(loaded, Address(port=0), runs=Path("no runs"))


@cache
def shared():
    return OPEN.enter_context(served())


@contextmanager
def page():
    """A visitor of the shared page, and its address."""
    with Visitor(shared()) as somebody:
        yield shared(), somebody


def pickled(folder):
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").touch()
    refuses(ModelError, "loads no pickled weights", find_model_path, folder)
    torch.save({"format": "mmhall tuned options, 1"}, folder / "steering.pt")
    refuses(DataError, "is no file of tuned options", read_tuned, folder / "steering.pt")


def own_code(folder):
    shutil.copytree(EMBEDDED, folder / "model", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    config = json.loads((folder / "model" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    (folder / "model" / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass Config: ...\n")
    refuses(ModelError, "trust_remote_code", mmhall.load, folder / "model")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    for asked in (("generate", folder / "a.png"), ("bench", "chair", "--out", folder / "run"), ("show", "vhr")):
        assert "trust_remote_code" in told_by(*asked, "--model", folder / "model")
    assert not (folder / "ran").exists()
    assert LoadOptions().trust_remote_code is _FLAGS["trust_remote_code"][1] is False
    with page() as (_, somebody):
        assert "remote_code" not in json.dumps(somebody.config)


def plugins(folder):
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        patched.setattr(STRATEGIES, "_unusable", {})
        patched.setattr("mmhall.registry.PATIENCE", 2.0)
        sources = {"sound": GOOD, "raises": "raise OSError('on purpose')", "hangs": "import time\ntime.sleep(3600)"}
        for name, source in sources.items():
            install(folder, name, source)
        with pytest.warns(MmhallWarning) as said:
            names = STRATEGIES.names()
        assert [name for name in sources if name in names] == ["sound"]
        hangs, raises = (str(one.message) for one in said)
        assert "'hangs' is left out: plugin_hangs:Own: cannot be loaded: its import has not ended" in hangs
        assert "'raises' is left out: plugin_raises:Own: cannot be loaded: OSError: on purpose" in raises
        assert type(strategy("sound")).__module__ == "plugin_sound"
        refuses(PluginError, "has not ended", strategy, "hangs")


def visitors(folder):
    """Files and addresses that nobody uploaded, an upload over the limit, and more jobs than the queue holds."""
    secret = folder / "secret.png"
    Image.new("RGB", (64, 64), "red").save(secret)
    with pytest.MonkeyPatch.context() as patched, ExitStack() as doors:
        patched.setattr(limits, "QUEUE", 4)
        url = doors.enter_context(served())
        somebody = doors.enter_context(Visitor(url))
        for target in (secret, "/etc/passwd", f"/../../..{secret}", "http://169.254.169.254/", f"file://{secret}"):
            status, body = test_safety.get(url, f"/gradio_api/file={target}")
            assert status in (403, 404), target
            assert secret.read_bytes() not in body
        test_safety.test_uploads_over_the_limit_are_refused(somebody, secret)
        image = as_file(somebody.upload(make_scene(2026, 4).image))
        crowd = [doors.enter_context(Visitor(url)) for _ in range(limits.QUEUE + 8)]
        number = crowd[0].number("compare")
        asked = [image, PROMPT, ["greedy"], {"max_new_tokens": 2}]
        with held(embedded()), ThreadPoolExecutor(len(crowd)) as threads:
            joined = list(threads.map(lambda one: one.join(number, asked), crowd))
        codes = {answer.status_code for answer in joined}
        assert codes == {200, 503}
        assert all("Queue is full" in answer.text for answer in joined if answer.status_code == 503)
        waiting = [(one, told) for one, told in zip(crowd, joined, strict=True) if told.status_code == 200]
        assert len(waiting) >= limits.QUEUE
        texts = {one.wait(told.json()["event_id"])[0].value["columns"][0]["text"] for one, told in waiting}
        assert len(texts) == 1


@contextmanager
def held(lvlm):
    """Let every answer wait until the context ends."""
    event = threading.Event()
    gate = lvlm.model.get_output_embeddings().register_forward_pre_hook(lambda *_: event.wait() and None)
    try:
        yield
    finally:
        event.set()
        gate.remove()


def two_sessions(folder):
    scene, specs = make_scene(2026, 4).image, ("greedy", "vdd")
    with page() as (url, somebody), Visitor(url) as other, ThreadPoolExecutor(2) as threads:
        number = somebody.number("compare")

        def ask(one, spec):
            return one.ask(number, [as_file(one.upload(scene)), PROMPT, [spec], {"max_new_tokens": 12}]).value

        told = list(threads.map(ask, (somebody, other), specs))
    for one, spec in zip(told, specs, strict=True):
        (column,) = one["columns"]
        assert (column["strategy"], column["text"]) == (
            spec,
            embedded().generate(scene, PROMPT, spec, max_new_tokens=12).text,
        )


def callers(folder):
    with page() as (_, somebody):
        image = as_file(somebody.upload(make_scene(2026, 4).image))
        number = somebody.number("compare")
        for settings in ({"max_new_tokens": 10**9}, {"max_new_tokens": "x"}, {"temperature": -1}, {"more": 0}, 5):
            assert test_limits.plainly_refused(somebody.ask(number, [image, PROMPT, ["greedy"], settings]))
        for specs in (["vcd(alpha=-1)"], "greedy", [5], ["greedy"] * 5, {"greedy": 1}):
            assert test_limits.plainly_refused(somebody.ask(number, [image, PROMPT, specs, None]))
        for prompt in (None, "", "x" * (limits.PROMPT + 1)):
            assert test_limits.plainly_refused(somebody.ask(number, [image, prompt, ["greedy"], None]))
        for data in ([image] * 9, None, {}):
            assert somebody.ask(number, data).data is None
        assert somebody.ask(number, [image, PROMPT, ["greedy"], {"max_new_tokens": 2}]).data


def spreadsheet(folder):
    for cell in ("=HYPERLINK(1)", "+1", "-cmd", "@SUM", "\tx"):
        assert escape_formula(cell) == f"'{cell}"


def file_names(folder):
    """The one name that is made of a user's text is that of a model's tuned options; uploads keep to their room."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CONFIG_HOME", str(folder))
        for name in ("../../x", "CON", "x" * 300, "a/../../b", "...", "\0", "a\nb", "~/x", "C:\\x", "ü" * 200):
            made = default_file(name)
            assert made.parent == folder / "mmhall" / "tuned"
            made.parent.mkdir(parents=True, exist_ok=True)
            made.touch()
            assert made.name.isascii()
            assert made.name.split(".")[0].upper() not in ("CON", "NUL", "")
    secret = folder / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    with page() as (_, somebody):
        test_safety.test_an_upload_stays_in_the_room_of_the_page(somebody, secret)


def secrets(folder):
    """A home folder with model and pictures in it, and tokens in the environment: none is written anywhere."""
    home, tokens = folder / "home" / "somebody", {"HF_TOKEN": "hf_secret123", "MMHALL_JUDGE_KEY": "sk-secret123"}
    (home / "data").mkdir(parents=True)
    shutil.copytree(EMBEDDED, home / "model", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"HOME": str(home), "USERPROFILE": str(home), **tokens}.items():
            patched.setenv(name, value)
        patched.chdir(folder)
        assert command("scenes", "--n", "2", "--out", home / "data")[0] == 0
        (home / "data" / "000002.png").write_bytes(b"torn")
        data, weights = home / "data" / "annotations.json", home / "model"
        asked = ("bench", "chair", "--data", data, "--out", "run", "--model", weights)
        code, out, err = command(*asked, "--json")
        assert code == 0, err
        assert command(*asked)[0] == 0  # the pictures are found again
        written = {"out": out, "err": err, "report": command("report", "run", "--html", "page.html")[1]}
        assert command("export", "run", "--to", "answers.jsonl")[0] == 0
    assert "~/model" in out
    written |= {str(file): file.read_bytes().decode(errors="replace") for file in Path(folder).rglob("*") if told(file)}
    assert {"page.html", "answers.jsonl", "run.sqlite"} <= {Path(name).name for name in written}
    for name, text in written.items():
        for secret in (str(home), *tokens.values()):
            assert secret not in text, (name, text[text.index(secret) - 100 :][:300])


def told(file):
    """Whether a file may be given away: not the home folder itself."""
    return file.is_file() and "home" not in file.parts


def bombs(folder):
    """One file reads YAML, without aliases; what is nested too deep, or larger than what is read, is told in a line."""
    parts = [file for part in ("mmhall", "decoders", "benchmarks", "demo") for file in (ROOT / part).rglob("*.py")]
    reader = re.compile(r"^\s*(import|from)\b.*\byaml", re.MULTILINE)
    assert [file.name for file in parts if reader.search(file.read_text(encoding="utf-8"))] == [
        Path(config_file.__file__).name
    ]
    bomb = folder / "bomb.yaml"
    for text, why in (
        ("a: &a [x, x]\nb: &b [*a, *a]\nbenchmarks: [*b, *b]", "aliases are not allowed"),
        ("benchmarks: " + "[" * 100_000, "."),
        ("benchmarks: " + " " * 1_000_001, "."),
    ):
        bomb.write_text(text)
        refuses(MmhallError, rf"bomb.yaml.*{why}", config_file.load_config, bomb, {})
    deep, huge, answers = folder / "deep.json", folder / "huge.json", folder / "answers.jsonl"
    deep.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    answers.write_text(json.dumps({"question_id": 1, "text": "yes"}) + "\n")
    with huge.open("wb") as file:
        file.truncate(files.LONGEST + 1)  # takes no room
    readers = [read_answers, read_tuned]
    readers += [
        lambda path, name=name: benchmark(name).material(Source(path))
        for name in ("pope", "chair", "mme", "hallusion", "mmhal")
    ]
    for file, why in ((deep, "."), (huge, "more than the limit of 2,000,000,000")):
        for read in readers:
            began = time.monotonic()
            with pytest.raises(MmhallError, match=rf"{file.name}.*{why}") as refusal:
                read(file)
            assert len(str(refusal.value)) < 1000
            assert time.monotonic() - began < 30
    refuses(OptionError, "device_map must be", lambda: LoadOptions(device_map='{"a":' * 100_000))
    (folder / "config.json").write_text(deep.read_text())
    (folder / "model.safetensors").touch()
    assert "config.json: is damaged" in told_by("show", "vhr", "--model", folder)


def open_page(folder):
    assert (Address().host, Address().share) == ("127.0.0.1", False)
    nowhere = ("--port", "0", "--model", folder / "no" / "such" / "model")
    for where in (("--host", "0.0.0.0"), ("--host", "::"), ("--share",)):
        assert "mmhall: the page is open to" in command("demo", *where, *nowhere)[2]
        assert "the page is open to" not in command("demo", *where, "--auth", "me:secret", *nowhere)[2]
    assert "the page is open to" not in command("demo", *nowhere)[2]


ROWS = [
    (35, "pickled weights", pickled),
    (36, "code that comes with a model", own_code),
    (37, "plug-ins that raise or hang", plugins),
    (38, "visitors who ask for what is not theirs, or too much", visitors),
    (39, "two visitors at once", two_sessions),
    (40, "callers who send anything", callers),
    (41, "formulas in cells", spreadsheet),
    (42, "file names made of texts", file_names),
    (43, "secrets and home folders", secrets),
    (44, "YAML and JSON bombs", bombs),
    (45, "a page that is open to others", open_page),
]
