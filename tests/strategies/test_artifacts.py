"""Fitted artifacts: written and read, whose they are, and what is made of them."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

import mmhall
from mmhall.errors import CompositionError, DataError, FitError, MmhallWarning, ModelError, OptionError, PromptError
from mmhall.fitting import fit
from mmhall.generation._requests import make_request
from mmhall.lvlm import LVLM
from mmhall.options import by_model
from mmhall.strategies import Composed, artifacts, tuned
from mmhall.strategies._learned import Fit
from mmhall.strategies._pairs import Pair, PairSet
from tests.conftest import make_random_llava
from tests.lean import Lean

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "Describe this image."


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


@pytest.fixture(scope="module")
def pairs(pictures, tmp_path_factory):
    """Texts that always differ in the same way, so that there is a direction."""
    made, folder = [], tmp_path_factory.mktemp("pairs")
    for number, picture in enumerate(pictures * 4):
        file = folder / f"{number}.png"
        picture.save(file)
        place = ("park", "room", "street", "garden")[number // 3]
        texts = (f"The image shows a {thing} in a {place}." for thing in ("dog", "cat"))
        made.append(Pair(str(number), file, PROMPT, *texts))
    return PairSet(tuple(made), "dogs and cats")


@pytest.fixture(scope="module")
def once(processor, pairs):
    return fit(LVLM(make_random_llava(processor), processor, "random"), Lean(), pairs, seed=7)


@pytest.fixture
def fitted(once):
    """An artifact that a test may change."""
    return copy.deepcopy(once)


def load(folder, **options):
    return mmhall.load(folder, device="cpu", **options)


def ask(lvlm, pictures, method="greedy"):
    return lvlm.generate(pictures[0], "What is this?", method, max_new_tokens=8)


def test_fit_finds_what_reading_by_hand_finds(llava, pairs, fitted):
    """Each text behind its prompt, with transformers alone: the last row of what enters layer 2."""

    def state(pair, text):
        inputs = llava.adapter.inputs([make_request(pair.picture, pair.prompt)])
        tokens = llava.processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        asked = {**inputs, "input_ids": torch.cat([inputs["input_ids"], tokens], dim=1)}
        asked["attention_mask"] = torch.ones_like(asked["input_ids"])
        return llava.model(**asked, output_hidden_states=True).hidden_states[2][0, -1].detach()

    wanted = torch.stack([state(p, p.faithful) - state(p, p.hallucinated) for p in pairs.pairs]).mean(dim=0)
    torch.testing.assert_close(fitted.tensors["direction"], wanted, rtol=1e-4, atol=1e-5)
    assert fitted.facts["numbers"]["layer 2"]["norm"] == pytest.approx(float(wanted.norm()), rel=1e-4)


def test_it_says_how_it_was_made(llava, pairs, fitted):
    facts, data = fitted.facts, fitted.facts["data"]
    assert (facts["options"], facts["seed"], facts["mmhall"]) == ("lean(layer=2)", 7, mmhall.__version__)
    assert data == {
        "source": "dogs and cats",
        "digest": pairs.digest,
        "pairs": 12,
        "ids": [str(number) for number in range(12)],
        "prompts": [PROMPT],
    }
    assert {"name", "revision", "weights", "dtype", "sample", "layers", "chat_template"} <= set(facts["model"])
    assert facts["remarks"] == ["12 pairs are few: what is found on less than 50 may be chance."]
    record = json.loads(json.dumps(fitted.record()))
    assert record["tensors"] == {"direction": {"shape": [48], "dtype": "float32"}}


@pytest.mark.slow
def test_fitting_again_gives_the_same(llava, pairs, fitted):
    assert fit(llava, Lean(), pairs, seed=7).sha256 == fitted.sha256


def test_what_is_written_is_read(fitted, tmp_path):
    fitted.write(tmp_path / "new" / "lean.safetensors")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["lean.json", "lean.safetensors"]
    for name in ("lean.safetensors", "lean.json"):
        again = artifacts.read(tmp_path / "new" / name)
        assert (again.strategy, again.facts, again.sha256) == (fitted.strategy, fitted.facts, fitted.sha256)
        torch.testing.assert_close(again.tensors, fitted.tensors, rtol=0, atol=0)


def test_it_is_found_beside_the_model_and_used(folder, fitted, pictures):
    fitted.write(artifacts.default_folder(folder) / "lean.safetensors")
    assert artifacts.default_folder(folder) == folder / "mmhall"
    lvlm = load(folder)
    answer, plain = ask(lvlm, pictures, Lean()), ask(lvlm, pictures)
    assert answer.text != plain.text
    assert answer.strategy == f"lean(artifact='{fitted.sha256[:12]}', layer=2)"
    assert (
        answer.origins["artifact"] == f"fitted on 12 pairs of dogs and cats ({fitted.facts['data']['digest']}), seed 7"
    )
    assert ask(lvlm, pictures, Lean(alpha=0.0)).token_ids == plain.token_ids
    assert load(folder, artifacts=False).adapter.artifacts == {}


def test_where_else_it_is_looked_for(folder, fitted, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert artifacts.default_folder("some/model-7b") == tmp_path / "mmhall" / "artifacts" / "some--model-7b"
    assert artifacts.default_folder("embedded") == tmp_path / "mmhall" / "artifacts" / "embedded"
    assert load(folder).adapter.artifacts == {}
    fitted.write(tmp_path / "own" / "mine.safetensors")
    for where in (tmp_path / "own" / "mine.safetensors", str(tmp_path / "own" / "mine.json"), tmp_path / "own"):
        assert load(folder, artifacts=where).adapter.artifacts["lean"].sha256 == fitted.sha256


def test_a_strategy_without_its_artifact_is_refused(llava, pictures):
    with pytest.raises(
        CompositionError, match=r"lean: needs an artifact .*`mmhall fit lean --model MODEL --apply`.*artifacts=FILE"
    ):
        ask(llava, pictures, Lean())
    with pytest.raises(CompositionError, match="needs an artifact"):
        llava.stream(pictures[0], "What?", Lean())


def test_an_answers_strategy_names_the_artifact_and_refuses_another(llava, fitted, pictures):
    llava.adapter.artifacts = {"lean": fitted}
    answer = ask(llava, pictures, Lean())
    again = Lean(artifact=fitted.digest)
    assert str(again.fitted(llava.adapter)) == answer.strategy
    assert again.origins(llava.adapter) == {"layer": "as its artifact was fitted"}
    llava.adapter.artifacts = {"lean": replace(fitted, tensors={"direction": torch.ones(48)})}
    with pytest.raises(OptionError, match=rf"lean: artifact must be left out, or '[0-9a-f]+'.* got '{fitted.digest}'"):
        ask(llava, pictures, again)


@pytest.mark.slow
def test_options_of_the_fit_are_those_of_the_artifact(llava, pairs, pictures):
    """What layer 1 taught is not used at another layer, whether that is a default, tuned, or asked for."""
    llava.adapter.artifacts = {"lean": fit(llava, Lean(layer=1), pairs, seed=7)}
    llava.adapter.tuned = {"lean": {"layer": 2}}
    answer = ask(llava, pictures, Lean(alpha=3.0))
    assert answer.strategy == f"lean(artifact='{llava.adapter.artifacts['lean'].digest}', alpha=3.0, layer=1)"
    assert answer.origins["layer"] == "as its artifact was fitted"
    assert ask(llava, pictures, Lean(alpha=3.0, layer=1)).token_ids == answer.token_ids
    with pytest.raises(OptionError, match=r"lean: layer must be left out, or 1, with which .* fitted; .*, got 2"):
        ask(llava, pictures, Lean(layer=2))
    again = fit(llava, Lean(), pairs, seed=7)  # what was fitted before says nothing of it
    assert again.facts["options"] == "lean(layer=2)"


def test_a_strategy_says_what_may_be_changed_after_the_fit(llava, fitted):
    class Free(Lean):
        adjustable = frozenset({"layer"})

    llava.adapter.artifacts = {"lean": fitted}
    assert Free(layer=1).fitted(llava.adapter).layer == 1
    assert Free().origins(llava.adapter)["layer"] == "not tuned for this model: the general default"


def test_options_of_the_fit_are_not_tuned():
    @dataclass(frozen=True)
    class Several(Lean):
        adjustable = frozenset({"strength"})
        layer: int = by_model(2, low=0, tries=(1, 2))
        strength: float = by_model(1.0, tries=(0.5, 1.0))

    assert tuned.open_options(Several()) == {"strength": (0.5, 1.0)}


@pytest.mark.parametrize("digest", ["", "12", "1a2b3c4d5e6", "1a2b3c4d5e6f7", "1A2B3C4D5E6F"])
def test_an_artifact_is_named_by_all_of_its_digits(digest):
    with pytest.raises(OptionError, match="artifact must be the first 12 digits of an artifact's sha256"):
        Lean(artifact=digest)


def test_it_goes_into_a_composition(llava, fitted, pictures):
    llava.adapter.artifacts = {"lean": fitted}
    both = Composed((Lean(), mmhall.strategy("vhr")))
    answer = ask(llava, pictures, both)
    assert answer.strategy.startswith(f"lean(artifact='{fitted.digest}', layer=2)+vhr(")
    assert answer.origins["lean.artifact"].startswith("fitted on 12 pairs")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layers": 32}, "layers 32 there, 3 here"),
        ({"sample": "0" * 16}, r"sample '0{16}' there, '[0-9a-f]{16}' here"),
        ({"chat_template": "the processor's, sha256 0"}, 'chat_template "the processor\'s, sha256 0" there, '),
        ({"revision": "abc"}, "revision 'abc' there, 'def' here"),
    ],
)
def test_another_models_is_refused_by_name_of_what_differs(llava, fitted, tmp_path, change, told):
    llava.model.config._commit_hash = "def"
    fitted.check(llava.adapter)
    fitted.facts["model"].update(change)
    fitted.write(tmp_path / "lean.json")
    read = artifacts.read(tmp_path / "lean.json")
    with pytest.raises(ModelError, match=rf"lean\.json: was fitted on 'random', .*\({told}.*artifacts=False"):
        read.check(llava.adapter)


@pytest.mark.slow
def test_a_model_with_other_weights_is_not_used_with_it(folder, processor, pairs, pictures):
    other = LVLM(make_random_llava(processor, seed=1), processor, "other")
    fit(other, Lean(), pairs).write(artifacts.default_folder(folder) / "lean.safetensors")
    told = r"was fitted on 'other', which differs from this model \(sample"
    with pytest.raises(ModelError, match=told):
        load(folder, artifacts=artifacts.default_folder(folder))
    lvlm = load(folder)  # where nobody named it, only who needs it is refused
    assert ask(lvlm, pictures).text
    with pytest.raises(ModelError, match=told):
        ask(lvlm, pictures, Lean())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_same_weights_in_another_dtype_are_the_same(folder, fitted, pictures, dtype):
    fitted.write(artifacts.default_folder(folder) / "lean.safetensors")
    assert ask(load(folder, dtype=dtype), pictures, Lean()).text


@pytest.mark.slow
def test_other_options_of_the_processor_are_another_model(folder, pairs):
    lvlm = load(folder, processor={"do_resize": True})
    file = folder / "mmhall" / "lean.json"
    fit(lvlm, Lean(), pairs).write(file)
    assert load(folder, processor={"do_resize": True}, artifacts=file).adapter.artifacts
    with pytest.raises(ModelError, match=r"processor \{'do_resize': True\} there, \{\} here"):
        load(folder, artifacts=file)


@pytest.mark.slow
def test_where_weights_cannot_be_compared_a_warning_names_the_file(folder, llava, fitted, tmp_path):
    """A file without values, as older ones, and a model of which a part lies on disk."""
    half = load(folder, dtype="float16")
    fitted.check(half.adapter)
    fitted.facts["model"]["values"] = None
    fitted.write(tmp_path / "lean.json")
    held = artifacts.read(tmp_path / "lean.json")
    held.check(llava.adapter)
    with pytest.warns(MmhallWarning, match=r"lean\.json: cannot check .* it has no sample of weight values"):
        held.check(half.adapter)
    held.facts["model"]["sample"] = None
    with pytest.warns(MmhallWarning, match=r"lean\.json: cannot check .* weights"):
        held.check(llava.adapter)


def damaged(file, what):
    """Damage an artifact in one way."""
    tensors, facts = artifacts.artifact_files(file)
    held = json.loads(facts.read_text())
    changed = {
        "list": [],
        "format": {**held, "format": "1"},
        "no model": {**held, "model": None},
        "no options": {**held, "options": "lean(layer"},
        "no data": {key: value for key, value in held.items() if key != "data"},
        "shape": {**held, "tensors": {"direction": {"shape": [49], "dtype": "float32"}}},
        "missing": {**held, "tensors": {**held["tensors"], "other": {"shape": [1], "dtype": "float32"}}},
    }
    if what in changed:
        facts.write_text(json.dumps(changed[what]))
    elif what == "cut facts":
        facts.write_text(facts.read_text()[:-20])
    elif what == "cut tensors":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif what == "no tensors":
        tensors.unlink()
    elif what == "no facts":
        facts.unlink()
    elif what == "other tensors":
        tensors.write_bytes(safetensors.torch.save({"direction": torch.zeros(48)}))
    elif what == "pickle":
        torch.save({"direction": torch.zeros(48)}, tensors)
        facts.write_text(json.dumps({**held, "sha256": hashlib.sha256(tensors.read_bytes()).hexdigest()}))


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("list", r"lean\.json: is no artifact"),
        ("format", "its format is '1'"),
        ("no model", "is damaged"),
        ("no options", "is no artifact, or is damaged"),
        ("no data", "KeyError: 'data'"),
        ("shape", r"tells of tensors .*49.* holds .*48"),
        ("missing", r"tells of tensors .*other"),
        ("cut facts", "is damaged"),
        ("cut tensors", r"lean\.safetensors: its sha256 is"),
        ("no tensors", r"lean\.safetensors: does not exist; an artifact is two files"),
        ("no facts", r"lean\.json: does not exist"),
        ("other tensors", r"lean\.safetensors: its sha256 is [0-9a-f]{64}, and lean\.json says '[0-9a-f]{64}'"),
        ("pickle", "is no safetensors file"),
    ],
)
def test_a_damaged_one_is_refused_before_the_model_is_read(folder, fitted, tmp_path, what, told):
    file = tmp_path / "own" / "lean.safetensors"
    fitted.write(file)
    damaged(file, what)
    (folder / "model.safetensors").write_bytes(b"nothing a model could be read from")
    with pytest.raises(DataError, match=told) as caught:
        load(folder, artifacts=file)
    assert "artifacts=False" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_views_of_one_memory_are_written_apart(fitted, tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    replace(fitted, tensors={"whole": whole, "turned": whole.T, "row": whole[1]}).write(tmp_path / "lean.json")
    whole += 1
    held = artifacts.read(tmp_path / "lean.json").tensors
    assert held["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert held["row"].tolist() == [3, 4, 5]


def test_every_dtype_is_kept(fitted, tmp_path):
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.float64):
        replace(fitted, tensors={"direction": torch.tensor([1.0, -2.0]).to(dtype)}).write(tmp_path / "lean.json")
        held = artifacts.read(tmp_path / "lean.json").tensors["direction"]
        assert (held.dtype, held.double().tolist()) == (dtype, [1.0, -2.0])
        with pytest.raises(DataError, match="holds NaN"):
            replace(fitted, tensors={"direction": torch.tensor([float("nan")]).to(dtype)})


def test_nothing_useless_is_made(fitted):
    with pytest.raises(DataError, match="lean: tensor 'direction' holds NaN or infinity"):
        replace(fitted, tensors={"direction": torch.tensor([1.0, float("nan")])})
    with pytest.raises(DataError, match="lean: an artifact without tensors"):
        replace(fitted, tensors={})


@pytest.mark.parametrize("where", [True, "", 3])
def test_what_is_no_file_is_refused(folder, where):
    with pytest.raises(OptionError, match="artifacts must be a file or folder"):
        load(folder, artifacts=where)


def test_a_file_or_folder_without_one_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: does not exist"):
        load(folder, artifacts=tmp_path / "gone.json")
    with pytest.raises(DataError, match="gone: does not exist; run `mmhall fit` again"):
        load(folder, artifacts=tmp_path / "gone")
    (tmp_path / "there").write_text("")
    with pytest.raises(DataError, match="there: an artifact's name ends in"):
        load(folder, artifacts=tmp_path / "there")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no artifact"):
        load(folder, artifacts=tmp_path / "empty")


def test_what_else_lies_in_a_folder_is_left_alone(folder, fitted):
    """A model's own folder holds other JSON; what says that it is an artifact is read, damaged or not."""
    (folder / "note.json").write_text("no JSON")
    fitted.write(folder / "lean.safetensors")
    assert load(folder, artifacts=folder).adapter.artifacts["lean"].sha256 == fitted.sha256
    for what in ("no tensors", "cut facts"):
        damaged(folder / "lean.json", what)
        with pytest.raises(
            DataError, match=r"lean\.(json|safetensors): (is no artifact, or is damaged|does not exist)"
        ):
            load(folder, artifacts=folder)


def test_two_of_one_strategy_are_refused(folder, fitted, tmp_path):
    for name in ("a", "b"):
        fitted.write(tmp_path / "own" / f"{name}.safetensors")
    with pytest.raises(DataError, match=r"a\.json and .*b\.json: both are artifacts of lean"):
        load(folder, artifacts=tmp_path / "own")


def test_only_an_older_one_of_the_same_strategy_is_written_over(folder, fitted, tmp_path):
    file = tmp_path / "own" / "lean.safetensors"
    artifacts.check_target(file, "lean")
    fitted.write(file)
    artifacts.check_target(file, "lean")
    with pytest.raises(DataError, match=r"lean\.json: is there already and is no artifact of other"):
        artifacts.check_target(file, "other")
    with pytest.raises(DataError, match=r"model\.safetensors: is there already and is no artifact"):
        artifacts.check_target(folder / "model.safetensors", "lean")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(DataError, match=r"model\.safetensors: is there already and is no artifact"):
        fitted.write(folder / "model.safetensors")
    assert (folder / "model.safetensors").read_bytes() == before
    assert not (folder / "model.json").exists()
    shutil.copy(folder / "config.json", tmp_path / "config.json")
    with pytest.raises(DataError, match=r"config\.json: is no artifact"):
        artifacts.check_target(tmp_path / "config.json", "lean")


def test_a_write_that_fails_leaves_the_old_files(fitted, tmp_path, monkeypatch):
    file = tmp_path / "lean.safetensors"
    fitted.write(file)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        replace(fitted, facts={**fitted.facts, "numbers": object()}).write(file)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        fitted.write(tmp_path / "file" / "lean.safetensors")
    with pytest.raises(DataError, match=r"lean: an artifact's name ends in \.safetensors or \.json"):
        fitted.write(tmp_path / "lean")


@pytest.mark.slow
def test_what_shows_no_direction_is_not_written(llava, pairs):
    mixed = [
        replace(pair, faithful=pair.hallucinated, hallucinated=pair.faithful) if number % 2 else pair
        for number, pair in enumerate(pairs.pairs)
    ]
    with pytest.raises(FitError, match="layer 2: there is no direction to steer along"):
        fit(llava, Lean(), PairSet(tuple(mixed), "mixed"))


@pytest.mark.parametrize("number", [torch.tensor(1.0), float("nan"), {"norm": float("inf")}, object()])
def test_numbers_that_cannot_be_written_are_refused_by_name(llava, pairs, number):
    class Telling(Lean):
        def fit(self, adapter, pairs, seed):
            return Fit({"direction": torch.ones(48)}, {"good": (1, 2.0), "layer 2": number})

    with pytest.raises(FitError, match=r"lean: its number 'layer 2' cannot be written as JSON \(.*\); return finite"):
        fit(llava, Telling(), pairs)


def test_numbers_are_as_the_file_gives_them_back(llava, pairs, tmp_path):
    class Telling(Lean):
        def fit(self, adapter, pairs, seed):
            return Fit({"direction": torch.ones(48)}, {"layers": {2: (1, 2.0)}})

    made = fit(llava, Telling(), PairSet(pairs.pairs[:1], "one"))
    assert made.facts["remarks"] == ["1 pair is few: what is found on less than 50 may be chance."]
    made.write(tmp_path / "lean.json")
    assert artifacts.read(tmp_path / "lean.json").facts == made.facts


@pytest.mark.slow
def test_uneven_texts_are_remarked(llava, pairs):
    first = replace(pairs.pairs[0], hallucinated="The image shows a very old cat")
    remarks = fit(llava, Lean(), PairSet((first, *pairs.pairs[1:]), "mixed", ("of the data",))).facts["remarks"]
    assert [line.split(":")[0] for line in remarks[:3]] == [
        "of the data",
        "the two texts of 1 of 12 pairs have different numbers of words",
        "the two texts of 1 of 12 pairs end in different tokens",
    ]


@pytest.mark.slow
def test_what_cannot_be_fitted_is_refused(llava, pairs):
    for method in ("greedy", "vhr+vcd"):
        with pytest.raises(OptionError, match=r"must be a single strategy that learns .*\(installed: yes-shift"):
            fit(llava, method, pairs)
    with pytest.raises(OptionError, match=r"written without artifact="):
        fit(llava, Lean(artifact="12" * 6), pairs)
    long = replace(pairs.pairs[0], faithful="dog " * 600)
    with pytest.raises(PromptError, match="exceed the model's context"):
        fit(llava, Lean(), PairSet((long,), "long"))


def test_pairs_that_teach_nothing_are_refused(pairs):
    with pytest.raises(DataError, match="mine: holds no pair"):
        PairSet((), "mine")
    for changed in ({"hallucinated": pairs.pairs[0].faithful + " "}, {"faithful": " "}, {"hallucinated": ""}):
        with pytest.raises(DataError, match="mine, picture 0: its texts are the same or empty"):
            PairSet((replace(pairs.pairs[0], **changed),), "mine")


def test_nothing_is_left_behind(llava, pairs, pictures):
    before = ask(llava, pictures)
    with pytest.raises(FitError):
        fit(llava, Lean(), PairSet(pairs.pairs[:1], "one"))
    assert ask(llava, pictures).token_ids == before.token_ids


@pytest.mark.slow
def test_the_strategy_of_the_docs_learns_the_same(llava, pairs, fitted):
    page = (ROOT / "docs" / "fitting.md").read_text(encoding="utf-8")
    (program,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Lean" in block)
    names = {"__name__": __name__}
    exec(program, names)
    again = fit(llava, names["Lean"](layer=2), pairs, seed=7)
    assert (again.sha256, again.facts["numbers"]) == (fitted.sha256, fitted.facts["numbers"])


def test_generate_of_transformers_is_refused(llava, pictures):
    inputs = llava.adapter.inputs([make_request(pictures[0], PROMPT)])
    with pytest.raises(CompositionError, match=r"lean: needs an artifact .* mmhall\.load"):
        llava.model.generate(**inputs, max_new_tokens=2, custom_generate=mmhall.custom_generate(Lean()))
