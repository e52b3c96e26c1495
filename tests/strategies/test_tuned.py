"""Options tuned for a model: where they are looked for, whose they are, and what is made of them."""

from __future__ import annotations

import base64
import json
import math
import shutil

import pytest
import torch

import mmhall
from mmhall.adapters import adapter_for
from mmhall.errors import CompositionError, DataError, MmhallError, MmhallWarning, ModelError, OptionError
from mmhall.lvlm import LVLM
from mmhall.models._facts import differing_facts, facts
from mmhall.models._path import EMBEDDED
from mmhall.strategies import tuned
from tests.conftest import make_random_llava
from tests.zoo import ZOO, built


@pytest.fixture(scope="module")
def saved(processor, tmp_path_factory):
    """A saved model."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_random_llava(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of its own for every test."""
    return shutil.copytree(saved, tmp_path / "model")


def write(path, llava, **strategies):
    """Write a file of tuned options for a model, as `mmhall tune` does."""
    held = tuned.open_or_create(path, llava.adapter, llava.identity())
    held["strategies"] |= {name.replace("_", "+"): {"options": options} for name, options in strategies.items()}
    tuned.write(path, held)
    return path


def load(folder, **options):
    return mmhall.load(folder, device="cpu", **options)


def test_a_file_beside_the_model_fills_what_is_left_open(folder, llava, pictures):
    plain = load(folder).generate(pictures[0], "What is this?", "vhr", max_new_tokens=6)
    write(folder / tuned.FILE, llava, vhr={"alpha": 7.5, "layers": "0:2"})
    lvlm = load(folder)
    answer = lvlm.generate(pictures[0], "What is this?", "vhr", max_new_tokens=6)
    assert (answer.strategy, plain.strategy) == ("vhr(alpha=7.5, layers='0:2')", "vhr(alpha=2.0, layers='56%:')")
    assert set(answer.origins.values()) == {"tuned for this model"}
    assert set(plain.origins.values()) == {"not tuned for this model: the general default"}
    asked = llava.generate(pictures[0], "What is this?", answer.strategy, max_new_tokens=6)
    assert answer.token_ids == asked.token_ids
    assert asked.origins == {}


def test_an_option_given_wins_over_one_tuned(folder, llava, pictures):
    write(folder / tuned.FILE, llava, vhr={"alpha": 7.5})
    answer = load(folder).generate(pictures[0], "What?", "vhr(alpha=3)", max_new_tokens=2)
    assert answer.strategy == "vhr(alpha=3.0, layers='56%:')"
    assert list(answer.origins) == ["layers"]


def test_what_is_tuned_together_goes_before_what_is_tuned_alone(folder, llava):
    write(folder / tuned.FILE, llava, vhr={"alpha": 7.5, "layers": "0:2"}, vcd_vhr={"vhr.alpha": 1.5, "vcd.alpha": 0.5})
    adapter = load(folder).adapter
    for spec in ("vhr+vcd", "vcd+vhr"):
        method = mmhall.strategy(spec)
        vhr, vcd = sorted(method.fitted(adapter).parts, key=lambda part: part.name, reverse=True)
        assert (vhr.alpha, vhr.layers, vcd.alpha) == (1.5, "0:2", 0.5)
        joint = "tuned for this model, as vcd+vhr"
        assert method.origins(adapter) == {
            "vhr.alpha": joint, "vhr.layers": "tuned for this model", "vcd.alpha": joint
        }  # fmt: skip
    assert str(mmhall.strategy("vhr+vcd(alpha=2)").fitted(adapter)) == "vhr(alpha=1.5, layers='0:2')+vcd(alpha=2.0)"
    assert mmhall.strategy("vcd").fitted(adapter).alpha == 1.0


def test_every_way_of_answering_uses_them(folder, llava, pictures):
    write(folder / tuned.FILE, llava, vcd={"alpha": 6.0})
    lvlm, asked = load(folder), (pictures[0], "What is this?")
    wanted = llava.generate(*asked, "vcd(alpha=6)", max_new_tokens=8)
    assert wanted.text != llava.generate(*asked, "vcd", max_new_tokens=8).text
    assert "".join(lvlm.stream(*asked, "vcd", max_new_tokens=8)).strip() == wanted.text
    trace = lvlm.trace(*asked, "vcd", max_new_tokens=8)
    assert (trace.answer.text, trace.answer.strategy) == (wanted.text, "vcd(alpha=6.0)")


@pytest.mark.slow
def test_where_it_is_looked_for(folder, llava, tmp_path, monkeypatch):
    assert tuned.default_file(folder) == folder / "mmhall.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(folder)  # where no folder has such a name
    assert tuned.default_file("some/model-7b") == tmp_path / "mmhall" / "tuned" / "some--model-7b.json"
    assert tuned.default_file("../x").parent == tmp_path / "mmhall" / "tuned"
    assert tuned.default_file("embedded") == tmp_path / "mmhall" / "tuned" / "embedded.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tuned.default_file("a").is_relative_to(tmp_path / ".config")
    assert load(folder).adapter.tuned == {}
    elsewhere = write(tmp_path / "mine.json", llava, vcd={"alpha": 0.5})
    assert load(folder, tuned=elsewhere).adapter.tuned == {"vcd": {"alpha": 0.5}}
    write(folder / tuned.FILE, llava, vcd={"alpha": 0.25})
    assert load(folder).adapter.tuned == {"vcd": {"alpha": 0.25}}
    assert load(folder, tuned=str(elsewhere)).adapter.tuned == {"vcd": {"alpha": 0.5}}
    assert load(folder, tuned=False).adapter.tuned == {}


@pytest.mark.slow
def test_the_embedded_model_ships_untuned(embedded, tmp_path, monkeypatch):
    assert not list(EMBEDDED.glob(tuned.FILE))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    write(tuned.default_file("embedded"), embedded, vcd={"alpha": 0.5})
    assert mmhall.load("embedded", device="cpu").adapter.tuned == {"vcd": {"alpha": 0.5}}


@pytest.mark.parametrize("where", [True, "", 3])
def test_what_is_no_file_is_refused(folder, where):
    with pytest.raises(OptionError, match="tuned must be a file"):
        load(folder, tuned=where)


@pytest.mark.parametrize(
    ("name", "reason"), [("gone.json", "does not exist"), ("x" * 300, "cannot be read: file name")]
)
def test_a_file_that_is_not_there_is_refused(folder, tmp_path, name, reason):
    with pytest.raises(DataError, match=rf"{name}: {reason}"):
        load(folder, tuned=tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["lm_head.weight", "model.language_model.layers.1.mlp.down_proj.weight"])
def test_values_found_for_other_weights_are_refused(folder, llava, change):
    with torch.no_grad():
        llava.model.get_parameter(change).mul_(1.01)  # as an adapter merged into one matrix would
    write(folder / tuned.FILE, llava, vcd={"alpha": 0.5})
    with pytest.raises(
        ModelError, match=r"mmhall\.json: was tuned for 'random' with other weights .*sample.*tuned=False"
    ):
        load(folder)
    assert load(folder, tuned=False).adapter.tuned == {}


@pytest.mark.slow
@pytest.mark.parametrize("change", ["lm_head.weight", "model.language_model.layers.1.mlp.down_proj.weight"])
def test_other_weights_show_in_float16_too(folder, llava, change):
    with torch.no_grad():
        llava.model.get_parameter(change).mul_(1.02)
    write(folder / tuned.FILE, llava, vcd={"alpha": 0.5})
    with pytest.raises(ModelError, match=r"with other weights .*sample"):
        load(folder, dtype="float16")


def test_a_file_without_values_of_weights_is_used_with_a_warning(folder, llava):
    """As the older ones: they are compared but for float16."""
    path = write(folder / tuned.FILE, llava, vcd={"alpha": 0.5})
    held = tuned.read(path)
    del held["model"]["values"]
    tuned.write(path, held)
    assert load(folder, dtype="bfloat16").adapter.tuned == {"vcd": {"alpha": 0.5}}
    with pytest.warns(MmhallWarning, match=r"mmhall\.json: cannot check that it was made for this model's weights"):
        assert load(folder, dtype="float16").adapter.tuned == {"vcd": {"alpha": 0.5}}


def test_what_float16_cannot_hold_is_not_compared():
    """Beyond its range, below its smallest number, and one bfloat16 step beside: the same; two steps: others."""

    def told(dtype, *values):
        held = torch.tensor(values).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
        sizes = {"model_type": "a", "layers": 1, "hidden_size": 1, "heads": 1}
        return {**sizes, "dtype": dtype, "sample": str(values), "values": base64.b64encode(held).decode()}

    half = told("float16", math.inf, 0.0, 1.0, -1.0)
    assert differing_facts(half, told("float32", 1e6, 1e-9, 1.0 + 2**-7, -1.0)) == []
    assert differing_facts(half, told("float32", 1e6, 1e-9, 1.0 + 2**-6, -1.0)) == ["sample"]
    assert differing_facts(half, told("bfloat16", 1e6, 1e-9, 1.0, 1.0)) == ["sample"]
    assert differing_facts(half, told("bfloat16", 1e6, 1e-6, 1.0, -1.0)) == ["sample"]
    assert differing_facts(half, told("bfloat16", 1e6, 1e-9, 1.0)) == ["sample"]


def test_values_found_for_a_model_of_another_size_are_refused(folder, embedded):
    write(folder / tuned.FILE, embedded, vcd={"alpha": 0.5})
    with pytest.raises(ModelError, match="layers 6 there, 3 here, hidden_size 192 there, 48 here"):
        load(folder)


def test_the_same_weights_in_another_dtype_are_the_same(folder, llava):
    write(folder / tuned.FILE, llava, vcd={"alpha": 0.5})
    for dtype in ("bfloat16", "float16"):
        assert load(folder, dtype=dtype).adapter.tuned == {"vcd": {"alpha": 0.5}}


@pytest.mark.parametrize("family", ZOO)
def test_every_family_tells_its_facts(family):
    adapter = adapter_for(*built(family))
    told = facts(adapter)
    assert json.loads(json.dumps(told)) == told
    assert told["layers"] == len(adapter.layers)
    assert len(told["sample"]) == 16
    adapter.close()


def damaged(held, what):
    if what == "cut":
        return json.dumps(held)[:-20]
    changed = {
        "list": [],
        "format": {**held, "format": "1"},
        "no model": {**held, "model": None},
        "no strategies": {**held, "strategies": ["vcd"]},
        "strategy": {**held, "strategies": {"vdc": {"options": {}}}},
        "option": {**held, "strategies": {"vcd": {"options": {"alhpa": 1.0}}}},
        "value": {**held, "strategies": {"vcd": {"options": {"alpha": -1.0}}}},
        "type": {**held, "strategies": {"vcd": {"options": {"alpha": "much"}}}},
        "no such option": {**held, "strategies": {"vcd": {"options": {"beta": 0.1}}}},
        "part": {**held, "strategies": {"vcd+vhr": {"options": {"alpha": 1.0}}}},
        "clash": {**held, "strategies": {"vcd": {"options": {"__class__": 1.0}}}},
    }
    return json.dumps(changed[what])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut", "is damaged"),
        ("list", "is no file of tuned options"),
        ("format", "its format is '1'"),
        ("no model", "does not say which model"),
        ("no strategies", "is damaged"),
        ("strategy", "unknown strategy 'vdc'; did you mean 'v"),
        ("option", "unknown option of vcd 'alhpa'; did you mean 'alpha'"),
        ("value", "vcd: alpha must be a number >= 0, got -1.0"),
        ("type", "vcd: alpha must be a number >= 0"),
        ("no such option", "vcd: beta must be left out: it does not depend on the model"),
        ("part", "alpha must be written with the part it is of"),
        ("clash", "unknown option of vcd '__class__'"),
    ],
)
def test_a_damaged_file_is_refused_before_the_model_is_read(tmp_path, folder, llava, what, message):
    path = write(folder / tuned.FILE, llava, vcd={"alpha": 0.5})
    path.write_text(damaged(json.loads(path.read_text()), what))
    (folder / "model.safetensors").write_bytes(b"nothing a model could be read from")
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "mmhall.json: " in str(caught.value)
    assert "tuned=False" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(folder):
    (folder / tuned.FILE).write_bytes(b"\x80\x04\x95junk")
    with pytest.raises(DataError, match=r"mmhall\.json: is no file of tuned options"):
        load(folder)


def test_tuples_come_back_from_the_file(folder, llava):
    write(folder / tuned.FILE, llava, var={"sink_dims": [1, 5]})
    assert mmhall.strategy("var").fitted(load(folder).adapter).sink_dims == (1, 5)


def test_a_file_of_another_model_is_not_added_to(tmp_path, llava, processor):
    path = write(tmp_path / "a.json", llava, vcd={"alpha": 0.5})
    write(path, llava, vhr={"alpha": 1.5})
    assert set(tuned.read(path)["strategies"]) == {"vcd", "vhr"}
    other = LVLM(make_random_llava(processor, seed=1), processor, "other")
    before = path.read_bytes()
    with pytest.raises(ModelError, match="other weights"):
        write(path, other, vdd={"alpha": 0.5})
    assert path.read_bytes() == before


def test_a_write_that_fails_leaves_the_old_file(tmp_path, llava):
    path = write(tmp_path / "a.json", llava, vcd={"alpha": 0.5})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        tuned.write(path, {"strategies": object()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        tuned.write(tmp_path / "file" / "a.json", {})


def test_a_refused_strategy_says_so_before_anything_is_decoded(pictures):
    lvlm = LVLM(*built("mllama"))
    with pytest.raises(CompositionError, match="vaf: mllama cannot carry it"):
        lvlm.stream(pictures[0], "What?", "vaf")
    with pytest.raises(MmhallError, match="cannot carry it"):
        lvlm.generate(pictures[0], "What?", "vaf")
