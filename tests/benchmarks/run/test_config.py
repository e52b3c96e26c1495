"""What a run asks, in flags, in files and in Python: the same words, checked alike."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import mmhall
from mmhall.benchmarks.run.config import ALL, BUDGET, LOADING, WHERE, Config
from mmhall.benchmarks.run.config_file import load_config, write_config
from mmhall.benchmarks.scenes import dataset
from mmhall.errors import ConfigError, OptionError
from mmhall.options import option_helps
from tests.sources import ROOT

ASKED = {
    "benchmarks": ["pope(rule='official')", "chair"],
    "strategies": ["greedy", "pai", "vdd(alpha=0.5)"],
    "data": {"pope": "a.json", "chair": "~/b.json"},
    "images": "pictures",
    "twins": 2,
    "limit": 5,
    "dtype": "float16",
    "processor": {"max_pixels": 200704},
    "model_arg": {"attn_implementation": "sdpa"},
    "artifacts": str(Path.home() / "fitted"),
    "tuned": False,
    "workers": 3,
}


def test_flags_files_and_python_have_the_same_words_and_defaults():
    own = {ALL if field.name == "every" else field.name for field in fields(Config)} - {"loading"}
    python = inspect.signature(mmhall.bench).parameters
    assert own - ({*WHERE, "model", "tuned"} - {*BUDGET}) == {ALL if name == "every" else name for name in python} - {
        "lvlm",
        "out",
        "progress",
    }
    plain = Config.from_words({"benchmarks": "pope"})
    for name in set(python) - {"lvlm", "out", "progress", "benchmarks", "strategies", "data", "images"}:
        assert python[name].default == getattr(plain, name), name
    assert set(option_helps(Config)) == {field.name for field in fields(Config)} | {"name"}
    assert plain.strategies == (mmhall.strategy("greedy"),)
    assert next(field for field in fields(Config) if field.name == "kind").metadata["rule"].choices == tuple(
        dataset.KINDS
    )


def test_a_file_says_the_same_as_the_configuration_it_was_written_from(tmp_path, monkeypatch):
    config = Config.from_words(ASKED)
    words = config.words()
    write_config(tmp_path, words)
    written = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert written["data"] == {"pope": str(Path("a.json").absolute()), "chair": "~/b.json"}
    assert written["images"] == str(Path("pictures").absolute())
    assert (written["tuned"], written["workers"], "engine" in written) == ("none", 3, False)
    monkeypatch.chdir(tmp_path)  # paths are absolute
    again = load_config(tmp_path / "config.yaml", {})
    assert again.words() == words
    assert written["artifacts"] == "~/fitted"
    assert again.data["chair"] == str(Path.home() / "b.json")
    assert (again.strategies, again.loading, again.tuned) == (config.strategies, config.loading, False)
    assert load_config(tmp_path / "config.yaml", {"dtype": "float32", "workers": 1}).loading.dtype == "float32"


def test_the_order_of_strategies_does_not_matter_but_for_the_baseline():
    first, second = (
        Config.from_words({"benchmarks": "pope", "strategies": ["greedy", *rest]})
        for rest in (["vdd(alpha=0.5)", "apc", "vhr+vdd", "vdd"], ["vdd", "vhr+vdd", "vdd(alpha=0.5)", "apc"])
    )
    assert first == second
    assert list(map(str, first.strategies)) == ["greedy", "apc", "vdd", "vdd(alpha=0.5)", "vhr+vdd"]
    other = Config.from_words({"benchmarks": "pope", "strategies": ["vdd", "greedy"]})
    assert list(map(str, other.strategies)) == ["vdd", "greedy"]
    assert first.adding([mmhall.strategy("vdd"), mmhall.strategy("beam")]).strategies[1] == mmhall.strategy("beam")


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ("x", {"pope": "x", "chair": "x"}),
        (Path("x"), {"pope": "x", "chair": "x"}),
        (["pope=x"], {"pope": "x"}),
        (["pope=x", "chair=a=b"], {"pope": "x", "chair": "a=b"}),
        (["a=b"], {"pope": "a=b", "chair": "a=b"}),
        ({"chair": "x"}, {"chair": "x"}),
        (["hub:a/b@c"], {"pope": "hub:a/b@c", "chair": "hub:a/b@c"}),
    ],
    ids=str,
)
def test_data_is_for_all_benchmarks_or_for_one(given, paths):
    config = Config.from_words({"benchmarks": ["pope", "chair"], "data": given})
    assert config.data == paths
    assert Config.from_words(config.words()).words() == config.words()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategys: [greedy]", r"unknown word 'strategys'; did you mean 'strategies'\? Known: address, all, "),
        ("out: runs/a", "unknown word 'out'"),
        ("scenes: many", "bench: scenes must be an integer >= 1, got 'many'"),
        ("scenes: 0", "scenes must be an integer >= 1, got 0"),
        ("twins: true", "twins must be an integer >= 0, got True"),
        ("batch-size: 2.5", "batch_size must be an integer >= 1"),
        ("max-tokens: 0", "max_tokens must be an integer >= 1"),
        ("memory: much", r'memory must be a number of bytes >= 1, such as "500M" or "6G", got \'much\''),
        ("conflict: 2", r"conflict must be a number in \[0, 1\]"),
        ("kind: odd", 'kind must be "usual" or "hard"'),
        ("all: 1", "all must be True or False"),
        ("seed: x", "seed must be an integer"),
        ("seeds: [0, 0]", "seeds must be different integers"),
        ("seeds: [0, 1]", "pope, which is not sampled"),
        ("model: 3", "model must be embedded, a folder, or a hub id"),
        ("dtype: flot16", "dtype must be one of"),
        ("processor: 3", "processor must be options by name"),
        ("model_arg: {dtype: float16}", "model_arg must be left out: dtype is an option of its own"),
        ("tuned: 3", "tuned must be a file"),
        ("data: {popes: a.json}", "unknown benchmark of data 'popes'; did you mean 'pope'"),
        ("data: 3", "data must be a path"),
        ("images: x", "images must be given together with --data"),
        ("data: x\nscenes: 3", "must be left out with --data"),
        ("strategies: [vd]", "unknown strategy 'vd'; did you mean 'vdd'"),
        ("strategies: [vdd, vdd()]", "strategy must be named once"),
        ("strategies: {vdd: 1}", "strategies must be a name or a list of names"),
        ("strategies: [3]", "must be a name such as"),
        ("benchmarks: 3", "must be a name such as"),
        ("benchmarks: []", "benchmarks must be at least one of `mmhall list benchmarks`"),
        ("strategies: []", "strategies must be at least one of `mmhall list strategies`"),
        ("engine: slurm", 'engine must be "local" or "ray"'),
        ("scenes: 3\nscenes: 4", "line 3: 'scenes' is given twice"),
        ("batch-size: 3\nbatch_size: 4", "given twice, with a hyphen and with an underscore"),
        ("a: &a [x]\nb: *a", "aliases are not allowed"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("seed: 2024-13-45", "cannot be read as YAML: month must be"),
        ("? [1, 2]\n: 3", "found unhashable key"),
        (": :\n-", "line "),
        ("x: " + "[" * 2000, "a configuration file holds words with values"),
    ],
    ids=lambda value: value[:30],
)
def test_what_a_file_must_not_say_is_named(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    head = "" if text.startswith(("benchmarks", "!", "?", ":")) else "benchmarks: pope\n"
    file.write_text(head + text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(file, {})
    assert str(raised.value).startswith(f"{file}: ")


def test_what_is_no_file_of_words_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    for content, message in (
        (None, "does not exist; give a configuration file"),
        (b"", "holds nothing"),
        (b"- pope", "holds a list"),
        (b"\xff\xfe\xfa", "cannot be read as YAML"),
        (b"#" * 1_000_001, "has more than 1,000,000 bytes"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            load_config(file, {})
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path, {})


def test_words_say_all_that_a_run_depends_on():
    """Each word changes what is written, so that none is lost on the way to a file."""
    plain = {"benchmarks": "pope(sample=True)"}
    base = Config.from_words(plain).words()
    others = {"benchmarks": "chair", "strategies": ["vdd"], "model": "m", ALL: True, "data": "x", "twins": 1}
    others |= {"scenes": 1, "conflict": 0.1, "kind": "hard", "limit": 1, "seed": 1, "seeds": "0,1", "batch_size": 1}
    others |= {"workers": 2, "gpus_per_worker": 2, "engine": "ray", "address": "a", "max_errors": 0, "tuned": "t"}
    others |= {"max_tokens": 9, "memory": "1G"}
    others |= {"device": "cpu", "dtype": "auto", "quantize": "4bit", "revision": "r", "processor": {"a": 1}}
    others |= {"trust_remote_code": True, "artifacts": "none", "model_arg": {"a": 1}, "chat_template": "{{ x }}"}
    for word, value in others.items():
        assert Config.from_words({**plain, word: value}).words() != base, word
    own = {ALL if field.name == "every" else field.name for field in fields(Config)} - {"loading"}
    assert {*others, "images", "device_map"} == own | set(LOADING)


def test_an_access_token_is_stored_nowhere():
    """What is stored is shared."""
    config = Config.from_words(
        {"benchmarks": "pope", "model_arg": {"token": "hf_secret", "attn_implementation": "sdpa"}}
    )
    assert config.loading.model_arg["token"] == "hf_secret"
    assert config.words()["model_arg"] == {"attn_implementation": "sdpa"}
    only = Config.from_words({"benchmarks": "pope", "model_arg": {"token": "hf_secret"}})
    assert "model_arg" not in only.words()


def test_the_documented_file_is_one(tmp_path):
    text = (ROOT / "docs" / "guides" / "running-large.md").read_text(encoding="utf-8")
    (tmp_path / "own.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    config = load_config(tmp_path / "own.yaml", {})
    assert (config.twins, config.batch_size, config.data["pope"]) == (5, 8, "pope/coco")
    assert list(map(str, config.strategies)) == ["greedy", "vdd(alpha=0.5)"]


def test_a_benchmark_that_is_none_is_refused():
    with pytest.raises(OptionError, match='a name such as "pope", a benchmark, or its class, got 3'):
        Config.from_words({"benchmarks": [3]})
