from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import mmhall
from mmhall import registry
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Request
from mmhall.attention import Op
from mmhall.decoders import STRATEGIES
from mmhall.decoders.vcd import VCD
from mmhall.errors import CompositionError, OptionError, PluginError, UnknownNameError
from mmhall.generation._settings import Settings
from mmhall.options import rules
from mmhall.strategies import Branch, Composed, Session, Strategy, strategy
from tests.clip import CLIP
from tests.decoders.fitted import with_blank_artifacts
from tests.detector import DETECTOR
from tests.jobs import decode, run


@dataclass(frozen=True)
class Mine(Strategy):
    name: ClassVar[str] = "mine"

    strength: float = 1.0
    kind: str = "a"

    def prepare(self, adapter, inputs):
        return Session()


def test_options_come_from_the_text_and_from_keywords():
    assert strategy("vcd(alpha=0.5, seed=3)") == VCD(alpha=0.5, seed=3)
    assert strategy("vcd(alpha=0.5)", alpha=2) == VCD(alpha=2.0)
    assert strategy(VCD(alpha=0.5), beta=0.3) == VCD(alpha=0.5, beta=0.3)
    assert strategy(" vcd ") == VCD()


def test_text_shows_only_what_was_changed():
    assert str(VCD()) == "vcd"
    assert str(VCD(alpha=0.5, seed=2)) == "vcd(alpha=0.5, seed=2)"


def test_options_are_plain_data():
    wanted = {"alpha": 1.0, "beta": 0.1, "noise_step": 500, "seed": 0, "draw": "picture", "twin": 0}
    assert VCD(alpha=1).options() == wanted


@pytest.mark.parametrize(
    "text", ["", "vcd(", "vcd)", "vcd(0.5)", "vcd(**x)", "vcd(alpha=open('x'))", "vcd(alpha=)", "a b"]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(OptionError):
        strategy(text)


def test_an_unknown_option_is_suggested():
    with pytest.raises(UnknownNameError, match="unknown option of vcd 'alhpa'; did you mean 'alpha'"):
        strategy("vcd", alhpa=1)


@pytest.mark.parametrize(("option", "value"), [("alpha", "1"), ("alpha", True), ("seed", 1.5), ("beta", None)])
def test_a_value_of_another_type_is_refused(option, value):
    with pytest.raises(OptionError, match=f"vcd: {option} must be"):
        strategy("vcd", **{option: value})


def test_another_package_adds_a_strategy_by_entry_point(monkeypatch):
    point = EntryPoint("mine", f"{__name__}:Mine", "mmhall.strategies")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "mmhall.strategies" else [])
    load = registry.load_target
    monkeypatch.setattr(registry, "load_target", lambda target: Mine if target == point.value else load(target))
    assert mmhall.strategy("mine(strength=2, kind='b')") == Mine(2.0, "b")


@pytest.mark.parametrize("options", [{"beta": None}, {"noise_step": 1.5}, {"seed": "a"}, {"seed": -1}])
def test_a_strategy_checks_its_options_however_it_is_built(options):
    with pytest.raises(OptionError):
        VCD(**options)
    with pytest.raises(OptionError):
        strategy(VCD(), **options)


def test_an_unknown_option_of_a_built_strategy_is_suggested():
    with pytest.raises(UnknownNameError, match="did you mean 'alpha'"):
        strategy(VCD(), alhpa=1)


def test_branches_need_someone_to_read_them():
    with pytest.raises(CompositionError):
        Session(branches=[{}])


def test_a_broken_entry_point_is_one_line(monkeypatch):
    point = EntryPoint("broken", "no_such_package:Thing", "mmhall.strategies")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(PluginError, match="no_such_package:Thing: cannot be loaded"):
        strategy("broken")


def deep_llava(layers):
    """A LLaVA of some depth, one narrow head a layer."""
    text = {"vocab_size": 40, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = LlavaConfig(
        text_config=LlamaConfig(**text, num_hidden_layers=layers),
        vision_config=CLIPVisionConfig(**vision, image_size=8, patch_size=4),
        image_token_id=39,
    )
    return adapter_for(LlavaForConditionalGeneration(config).eval())


PUBLISHED = "published for llava with 32 layers"
GENERAL = "not tuned for this model: the general default"
TUNED = "tuned for this model"


def test_open_options_are_filled_with_what_the_paper_published_for_the_model():
    adapter = deep_llava(32)
    fitted = strategy("gift(beta=2)").fitted(adapter)
    plain = {"words": "informative", "span": "question", "twin": 0}
    assert fitted.options() == {"alpha": 5.0, "beta": 2.0, "saliency": "11", "layers": "12:23", **plain}
    assert strategy("gift").origins(adapter) == {
        "alpha": PUBLISHED,
        "saliency": PUBLISHED,
        "layers": PUBLISHED,
    }
    assert strategy("vhr").fitted(adapter).layers == "1, 18:32"


def test_a_model_of_another_depth_gets_the_general_default():
    adapter = deep_llava(31)
    assert strategy("gift").fitted(adapter).layers == "37%:71%"
    assert set(strategy("gift").origins(adapter).values()) == {GENERAL}
    assert strategy("vhr").fitted(adapter).options()["layers"] == "56%:"


def test_what_was_tuned_for_the_model_wins_and_what_was_given_wins_over_that():
    adapter = deep_llava(32)
    adapter.tuned = {"gift": {"alpha": 1.5, "saliency": "9"}, "pai": {"gamma": 1.0}}
    assert strategy("gift").fitted(adapter).options() == {
        "alpha": 1.5,
        "beta": 1.0,
        "saliency": "9",
        "layers": "12:23",
        "words": "informative",
        "span": "question",
        "twin": 0,
    }
    assert strategy("gift").origins(adapter) == {
        "alpha": TUNED,
        "saliency": TUNED,
        "layers": PUBLISHED,
    }
    given = strategy("gift(alpha=3, layers='2:4')")
    fitted = given.fitted(adapter)
    assert (fitted.alpha, fitted.saliency, fitted.layers) == (3.0, "9", "2:4")
    assert set(given.origins(adapter)) == {"saliency"}
    assert strategy("pai").fitted(adapter).gamma == 1.0
    assert strategy("pai(gamma=2)").fitted(adapter).gamma == 2.0


def test_a_tuned_value_that_is_out_of_range_is_refused():
    adapter = deep_llava(3)
    adapter.tuned = {"vaf": {"alpha": -3.0}}
    with pytest.raises(OptionError, match=r"vaf: alpha must be a number >= 0, got -3\.0"):
        strategy("vaf").fitted(adapter)


@pytest.fixture(scope="module")
def deep():
    return with_blank_artifacts(deep_llava(32))


NEEDED = {"cgd": {"clip": str(CLIP)}, "halc": {"clip": str(CLIP), "detector": str(DETECTOR)}}


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_a_fitted_strategy_is_complete_and_reads_itself_back(name, clip, deep):
    adapter, made = deep, strategy(name, **NEEDED.get(name, {}))
    fitted = made.fitted(adapter)
    assert {option for option, value in fitted.options().items() if value is None} <= {"artifact"}
    assert fitted.fitted(adapter) == fitted
    assert strategy(str(fitted)) == fitted
    filled = {option for option in rules(type(made)) if getattr(made, option) is None != getattr(fitted, option)}
    assert set(made.origins(adapter)) == filled
    assert fitted.origins(adapter) == {}


@pytest.mark.parametrize(
    "spec",
    [
        "vhr+vcd",
        "gift+vdd(free='none+unk')",
        "pai(gamma=1.0)+vhr+vcd(alpha=0.5)",
        "var(sink_dims=(1, 2))+vhr(layers='1, 18:32')+vdd",
        "vaf",
    ],
)
def test_compositions_read_themselves_back(spec):
    made = strategy(spec)
    assert str(made) == spec
    assert strategy(str(made)) == made
    assert strategy(f" {spec.replace('+', ' + ', 1) if '(' not in spec else spec} ") == made
    assert isinstance(made, Composed) == (spec != "vaf")


def test_a_composition_tells_its_parts():
    made = strategy("vhr(alpha=3)+pai(gamma=1)+vcd")
    assert made.name == "vhr+pai+vcd"
    assert made.claims == {"the gains of heads", "the rows of attention", "the contrast of two distributions"}
    assert made.options() == {part.name: part.options() for part in made.parts}
    adapter = deep_llava(32)
    assert made.origins(adapter)["vhr.layers"] == PUBLISHED
    assert made.origins(adapter)["pai.layers"] == made.origins(adapter)["vcd.alpha"] == GENERAL
    assert "vhr.alpha" not in made.origins(adapter)
    fitted = made.fitted(adapter)
    assert [part.name for part in fitted.parts] == ["vhr", "pai", "vcd"]
    assert all(None not in part.options().values() for part in fitted.parts)
    assert {field.name for field in fields(made)} == {"parts"}


def test_options_of_a_composition_stand_in_its_text():
    with pytest.raises(OptionError, match="written into the parts of 'vhr\\+vcd'"):
        strategy("vhr+vcd", alpha=1)
    with pytest.raises(OptionError, match="written into the parts"):
        strategy(strategy("vhr+vcd"), alpha=1)
    made = strategy("vhr+vcd")
    assert strategy(made) is made


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("vhr+vhr", r"vhr\+vhr: both want the gains of heads, and a run can have that once; use one of them"),
        ("vcd+vdd", r"vcd\+vdd: both want the contrast of two distributions"),
        ("vcd+vhr+vcd(alpha=2)", r"vcd\+vcd: both want the contrast"),
        ("gift+var", r"gift\+var: both want the rows of attention"),
        ("vhr+vaf+vdd+gift", r"vaf\+gift: both want the rows of attention"),
    ],
)
def test_parts_that_want_the_same_are_refused_when_built(spec, reason):
    with pytest.raises(CompositionError, match=f"^{reason}"):
        strategy(spec)
    with pytest.raises(CompositionError, match=f"^{reason}"):
        Composed(tuple(map(strategy, spec.split("+"))))


@dataclass(frozen=True)
class Blind(Strategy):
    """Contrasts as a plugin may, without a claim."""

    name: ClassVar[str] = "blind"

    def prepare(self, adapter, inputs):
        return Session([], [Branch(adapter.without_image(inputs))], lambda step: step.main - step.branches[0])


@dataclass(frozen=True)
class Beside(Strategy):
    name: ClassVar[str] = "beside"

    def prepare(self, adapter, inputs):
        op = Op()
        op.compares = True
        return Session([op], [Branch(adapter.without_image(inputs), lockstep=True)])


@pytest.mark.parametrize(
    ("parts", "wish"), [((Blind(), "vcd"), "combine"), (("vdd", Blind()), "combine"), (("vhr", Beside()), "lock step")]
)
def test_two_parts_that_claim_nothing_are_refused_where_only_one_would_be_heard(llava, pictures, parts, wish):
    made = Composed(tuple(map(strategy, parts)))
    with pytest.raises(CompositionError, match=rf"^{made.parts[0].name}\+{made.parts[1].name}: .*{wish}"):
        llava.generate(pictures[0], "What?", made, max_new_tokens=2)


STRONG = {"vhr": "vhr(alpha=4)", "gift": "gift(alpha=6)", "pai": "pai(gamma=1, alpha=2)"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "decoding"),
    [
        (("vhr", "vcd"), {}),
        (("gift", "vdd"), {"num_beams": 3}),
        (("pai", "vhr", "vcd"), {"do_sample": True, "seed": 5}),
        (("pai", "vhr", "vcd"), {}),
    ],
    ids=str,
)
def test_a_composition_is_its_parts_sessions_put_together(llava, pictures, names, decoding):
    adapter = llava.adapter
    inputs = adapter.inputs(
        [Request(p, (i,)) for p, i in zip(("Is there a dog?", "What is it?"), pictures, strict=False)]
    )
    config = Settings(max_new_tokens=8, **decoding).resolved(adapter.generator)
    seed = decoding.get("seed", 0)
    specs = [STRONG.get(name, name) for name in names]
    sessions = {
        name: strategy(spec).fitted(adapter).prepare(adapter, inputs) for name, spec in zip(names, specs, strict=True)
    }
    contrast = sessions[names[-1]]
    by_hand = Session(
        ops=[op for session in sessions.values() for op in session.ops],
        branches=[*(sessions["vhr"].branches if "vhr" in sessions else ()), *contrast.branches],
        combine=contrast.combine,
        reread=names[0] == "gift" and sessions["gift"].reread,
    )
    with torch.inference_mode():
        wanted = decode(adapter, inputs, by_hand, config, [seed] * 2).tolist()
    for order in (specs, specs[::-1]):
        assert run(adapter, inputs, strategy("+".join(order)), config, seed).tolist() == wanted
    if decoding.get("do_sample"):
        return  # a draw may well fall on the same token
    less = ["greedy", *specs, *("+".join(specs[:at] + specs[at + 1 :]) for at in range(len(specs)))]
    assert all(run(adapter, inputs, strategy(spec), config, seed).tolist() != wanted for spec in less)


def test_a_refusal_tells_the_way_out_where_there_is_one():
    with pytest.raises(CompositionError, match=r"vcd\+pai: both want the contrast .*; use one of them, or pai\("):
        strategy("vcd+pai")
    with pytest.raises(CompositionError, match=r"gift\+pai: both want the rows of attention, .*; use one of them$"):
        strategy("gift+pai")


def test_classes_and_names_are_no_parts_of_a_composition():
    greedy = strategy("greedy")
    with pytest.raises(OptionError, match=r"parts must be strategies such as .*, not names, got 'vcd'"):
        Composed((greedy, "vcd"))
    assert strategy(type(greedy)) == greedy
