"""What a strategy is said to do and to cost, against what a run does."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch

import mmhall
from mmhall.adapters._base import Adapter, Inputs
from mmhall.attention import EVERY, VISION, Exit, Op
from mmhall.decoders import STRATEGIES
from mmhall.errors import CompositionError
from mmhall.generation._job import rewrite_inputs
from mmhall.generation._requests import make_request
from mmhall.lvlm import LVLM
from mmhall.strategies import Branch, Session, Strategy
from mmhall.strategies._step import Step
from mmhall.strategies.artifacts import Artifact
from tests.clip import CLIP
from tests.decoders.fitted import with_artifacts
from tests.decoders.reference import QUIET, slow
from tests.detector import DETECTOR
from tests.generation.reference import picture
from tests.lean import Lean

pytestmark = [QUIET, pytest.mark.usefixtures("clip", "detector")]

LONG = pytest.mark.long
NEW = 6
GUIDED = f"cgd(clip={str(CLIP)!r}, keep=1, candidates=3)"  # with more texts, rows depend on their lengths
WRITTEN = {
    "var": "var(sink_dims=(3, 7), tau=1.3)",
    "cgd": GUIDED,
    "halc": f"halc(detector={str(DETECTOR)!r}, clip={str(CLIP)!r}, words=('ii',), threshold=0.9)",
    "opera": "opera(num_attn_candidates=3)",
    "gift": "gift(saliency='50%', layers='0%:')",
    "yes-shift": "yes-shift(shift=2)",
    "pine": "pine(segments=('Is', 'there'))",
}
FULL = {  # by default PAI only steers, as VISTA in 3 layers; LQCD contrasts leading questions
    "pai": "pai(gamma=1.5)",
    "vista": "vista(sla_layers='1:')",
    "lqcd": "lqcd(neutral='Well? {question}')",
}
SPECS = [WRITTEN.get(name, name) for name in STRATEGIES.names()]
COMPOSED = [
    "vhr+vcd",
    "vhr+vdd(free='none+black')+beam(num_beams=3)",
    "gift(saliency='60%', layers='0%:')+vcd",
    "pai(gamma=1.5)+opera(num_attn_candidates=2)",
    f"vaf+{GUIDED}",
    "pai(gamma=1.0)",
    "vdd(alpha=0)",
]
ROWS = ("gift", "var", "pai", "vaf")
ASKED = picture(40, 40, 4), "Is there a dog?"


def lvlm(name):
    adapter = with_artifacts(slow(name).adapter)
    model = LVLM(adapter.model, adapter.processor, name)
    model.adapter.artifacts = adapter.artifacts
    return model


def counted(model, spec, **settings):
    """Rows and tokens of each call of the decoder while a strategy answers, and how many tokens it said."""
    calls = []
    model.generate(*ASKED, spec, max_new_tokens=1)  # what is found out about a model once takes passes, too

    def note(module, args, kwargs):
        given = kwargs.get("inputs_embeds")
        calls.append(tuple((kwargs["input_ids"] if given is None else given).shape[:2]))

    hook = model.adapter.decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        answer = model.generate(*ASKED, spec, max_new_tokens=NEW, **settings)
    finally:
        hook.remove()
    return calls, len(answer.token_ids)


def check(model, spec, **settings):
    calls, length = counted(model, spec, **settings)
    told = model.explain(spec, *ASKED, max_new_tokens=NEW, **settings)
    cost = told.cost
    first, rest = calls[: cost.prompt_passes], calls[cost.prompt_passes :]
    assert [rows for rows, _ in first] == [1] * cost.prompt_passes
    if cost.exact:
        steps = length - 1
        assert len(rest) == steps * cost.token_passes
        assert sum(rows for rows, _ in rest) == steps * cost.token_rows
        assert all(tokens == 1 for _, tokens in rest)
    else:
        assert max(rows for rows, _ in rest) == cost.token_rows
        assert len(rest) >= cost.token_passes * (length - 1)
    return told


@pytest.mark.parametrize("spec", [*SPECS, *(pytest.param(spec, marks=pytest.mark.slow) for spec in COMPOSED)])
def test_passes_and_rows_are_those_of_a_run_in_plain_readable_data(spec):
    told = check(lvlm("llava"), spec)
    assert max(map(len, str(told).splitlines())) <= 100
    assert str(told).startswith("Strategy  ")
    assert json.loads(json.dumps(told.to_dict()))["cost"]["token_rows"] == told.cost.token_rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mllama", "qwen3_5", *(pytest.param(one, marks=LONG) for one in ("qwen2_5_vl", "instructblip", "gemma4"))]
)
def test_other_families_cost_what_is_said(name):
    """Of Mllama, a branch without a picture steps apart; a recurrent layer has the whole prompt read twice."""
    model = lvlm(name)
    specs = ["vcd", "vdd(free='none+black')", "vhr+vcd"]
    specs += [] if name == "mllama" else ["gift(saliency='60%', layers='0%:')+vdd"]
    for spec in specs:
        check(model, spec)
    check(model, "vdd", num_beams=3)
    check(model, "vdd", do_sample=True, num_return_sequences=2)


@pytest.mark.slow
def test_apart_and_twice_are_told():
    assert lvlm("mllama").explain("vdd").cost.token_passes == 2
    assert lvlm("mllama").explain("vcd").cost.token_passes == 1
    late = "gift(saliency='60%', layers='0%:')"
    assert lvlm("llava").explain(late).reread == "its last token"
    assert lvlm("qwen3_5").explain(late).reread == "all of it"
    assert lvlm("llava").explain("gift(saliency='0%', layers='50%:')").reread == "nothing"


class Everything(Op):
    """Does a bit of everything. This is not told."""

    layers, kinds, sites, remembers = frozenset({1}), EVERY, frozenset({"mlp", "out"}), True

    def bias(self, call):
        return None

    def see(self, call, rows, probs):
        pass

    def edit_states(self, visit, states):
        return states


@dataclasses.dataclass(frozen=True)
class Trial(Strategy):
    """A strategy nobody has heard of."""

    name = "trial"

    strength: float = 0.5

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        exits = [Exit(0), Exit(1, norm=False)]
        branch = Branch(adapter.without_image(inputs), [Everything()])
        return Session([Everything()], [branch], lambda step: step.main, exits)

    @staticmethod
    def _main(step: Step):
        return step.main


def test_a_strategy_of_somebody_else_is_explained_by_its_session():
    model = lvlm("llava")
    told = model.explain(Trial(strength=1.0), *ASKED)
    (op,) = told.ops
    assert op.does == (
        "adds to attention scores",
        "reads attention weights",
        "edits states at mlp, out",
        "remembers what it found from token to token",
    )
    assert (op.layers, op.kinds) == ((1,), ("full",))
    assert told.branches[0].ops == told.ops
    assert told.branches[0].image_tokens == 0 < told.image_tokens
    assert told.exits == (
        "layer 0, with the final norm, at every token",
        "layer 1, without the final norm, at every token",
    )
    assert [(one.name, one.value, one.origin) for one in told.options] == [("strength", 1.0, "given")]
    text = str(told)
    assert "in it: adds to attention scores; reads attention weights" in text
    assert "in layer 1 (full). Does a bit of everything." in text
    assert "This is not told" not in text


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("dola(alpha=0.0)", "the main rows"),
        ("m3id(gate=0.0, beta=0.1)", "the main rows"),
        ("dola(bucket='low')", "the main rows, 1 inner layer"),
        ("vdd(free='none+black')", "the main rows, 2 branches"),
        (Trial(), "the main rows, 1 branch, 2 inner layers"),
    ],
)
def test_what_scores_are_made_from_is_told(spec, told):
    explain_strategy = lvlm("llava").explain(spec)
    assert explain_strategy.scores == told
    assert f"Scores    made from {told}" in str(explain_strategy).splitlines()
    assert "nothing" not in str(explain_strategy)


@pytest.mark.parametrize("spec", ["greedy", "beam", "dola(alpha=0, beta=0)"])
def test_nothing_is_said_where_the_plain_model_is_decoded(spec):
    told = lvlm("llava").explain(spec)
    assert told.scores == ""
    assert "Steers    nothing: the plain model is decoded" in str(told).splitlines()


def test_a_cut_off_beside_ops_leaves_their_branch_in_lock_step_out():
    """VHR's branch is read and not decoded; the scores have nothing of it."""
    told = lvlm("llava").explain("vhr+dola(alpha=0.0)")
    assert len(told.branches) == 1
    assert told.scores == "the main rows"


def test_embeddings_are_called_so():
    told = lvlm("llava").explain("dola")
    assert told.exits[0] == "the embeddings, without the final norm, at every token"
    assert "layer -1" not in str(told)


def test_pictures_beside_the_tokens_are_not_counted_among_them():
    model = lvlm("mllama")
    told = model.explain("vdd", *ASKED)
    assert not told.image_in_sequence
    lines = str(told).splitlines()
    assert f"Prompt    {told.tokens} tokens, beside them {told.image_tokens} of the picture's" in lines
    assert "tokens, beside them 0 of the picture's; decoded beside the main rows" in str(told)
    assert "of them the picture's" in str(lvlm("llava").explain("vdd", *ASKED))


@pytest.mark.parametrize(("spec", "own"), [("beam", 5), ("opera", 5), (GUIDED.replace("keep=1", "keep=2"), 2)])
def test_a_setting_that_wins_over_the_strategys_beams_is_told(spec, own):
    model = lvlm("llava")
    assert "wins" not in model.explain(spec).chooses
    assert "wins" not in model.explain(spec, num_beams=own).chooses
    told = model.explain(spec, num_beams=3).chooses
    assert told.endswith(f"with 3 beams; the setting num_beams wins over the strategy's own {own}")
    assert "wins" in model.explain(spec, num_beams=1).chooses
    assert "wins" not in model.explain("greedy", num_beams=3).chooses


def test_the_strategy_is_written_as_it_is_read():
    model = lvlm("llava")
    told = model.explain("vhr(alpha=2.0)+vdd")
    assert model.explain(told.strategy).strategy == told.strategy
    assert "beta" not in told.strategy
    assert "alpha=" in told.strategy.split("+")[1]


def test_the_guide_names_the_strategies_that_use_each_part_of_a_session():
    guide = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
    adapter, used = lvlm("llava").adapter, defaultdict(set)
    inputs = adapter.inputs([make_request(*ASKED)])
    for name in STRATEGIES.names():
        spec = FULL.get(name, WRITTEN.get(name, name))
        method = mmhall.strategy(spec).fitted(adapter)
        session = method.prepare(adapter, rewrite_inputs(adapter, inputs, method))
        for part in ("ops", "branches", "combine", "exits", "reread", "search"):
            used[part] |= {name} if getattr(session, part) else set()
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", guide.split("## Ops")[0], re.MULTILINE)
    assert {part: set(re.findall(r"`([\w-]+)`", names)) for part, names in rows} == used


class Pictured(Op):
    """Edits what the vision tower sees."""

    layers, kinds, sites = frozenset({1}), VISION, frozenset({"features", "out"})

    def edit_states(self, visit, states):
        return states


@dataclasses.dataclass(frozen=True)
class Looking(Strategy):
    """Looks with the vision tower."""

    name = "looking"

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        return Session([Pictured()])


def test_what_is_done_in_the_vision_tower_is_told():
    told = lvlm("llava").explain(Looking())
    (op,) = told.ops
    assert op.does == ("edits states at out", "edits the features that the vision tower hands to the projector")
    assert (op.layers, op.vision_layers) == ((), (1,))
    assert "in layer 1 of the vision tower. Edits what the vision tower sees." in " ".join(str(told).split())


def test_what_was_fitted_is_told():
    """A strategy that learns names what it has learnt in its option `artifact`."""
    facts = {"data": {"pairs": 3, "source": "scenes", "digest": "abc"}, "seed": 1, "options": "lean(layer=2)"}
    model, held = lvlm("llava"), Artifact("lean", {"direction": torch.ones(64)}, facts)
    model.adapter.artifacts = {"lean": held}
    told = {one.name: (one.value, one.origin) for one in model.explain(Lean(layer=2)).options}
    assert told["artifact"] == (held.digest, held.origin)


def test_it_says_where_values_come_from():
    model = lvlm("llava")
    model.adapter.tuned = {"vhr": {"alpha": 1.5}}
    told = {one.name: one.origin for one in model.explain("vhr(squared=True)+vcd(alpha=0.5)").options}
    assert told["vhr.alpha"] == "tuned for this model"
    assert told["vhr.layers"] == "not tuned for this model: the general default"
    assert told["vhr.squared"] == told["vcd.alpha"] == "given"
    assert told["vcd.beta"] == "the default"


@pytest.mark.slow
def test_it_follows_the_request():
    """Without a picture there is nothing to contrast with; a grey one stands in where nothing is asked."""
    model = lvlm("llava")
    assert model.explain("vcd", None, "What is a dog?").branches == ()
    assert model.explain("vcd").image_tokens == model.explain("vcd", *ASKED).image_tokens
    assert model.explain("vcd").tokens != model.explain("vcd", ASKED[0], "Is it?").tokens


def test_a_search_says_how_many_rows_it_takes_at_most():
    model = lvlm("llava")
    assert model.explain(GUIDED.replace("keep=1", "keep=2")).cost.token_rows == 6
    assert model.explain(f"vdd+{GUIDED}").cost.token_rows == 6
    assert model.explain("opera").cost.token_rows == 5


def test_what_a_model_cannot_carry_is_refused():
    with pytest.raises(CompositionError, match="pai: mllama cannot carry it"):
        lvlm("mllama").explain("pai")


def test_nothing_of_the_model_runs():
    model, calls = lvlm("llava"), []
    hook = model.adapter.decoder.register_forward_pre_hook(lambda *call: calls.append(call))
    try:
        model.explain("vhr+vcd")
    finally:
        hook.remove()
    assert calls == []


def test_dropped_tokens_are_told_with_the_layers_that_lack_them():
    told = lvlm("llava").explain("debiased-pruning(keep=0.25)")
    ranks, drops = told.ops
    assert (ranks.layers, drops.layers) == ((0,), (1, 2))
    assert drops.does == ("drops tokens of the prompt",)
    assert "drops tokens of the prompt; in layers 1:3 (full)." in " ".join(str(told).split())
    ranks, drops = lvlm("llava").explain("vtc-cls").ops
    assert (ranks.layers, ranks.vision_layers, drops.layers, drops.vision_layers) == ((), (1,), (0, 1, 2), ())
