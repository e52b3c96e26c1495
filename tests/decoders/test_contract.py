"""What every registered strategy must keep, whatever it does: a new one joins by being registered.

On a random LLaVA with the embedded model's processor, and on small random models of the families. Each strategy meets
full, three-dimensional and cross attention, each time decoding in another way; of the other families it meets two. The
strategies' own tests compare each with its formula on every family.
"""

from __future__ import annotations

import threading
from functools import cache

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.decoders import STRATEGIES
from mmhall.errors import CompositionError, OptionError
from mmhall.lvlm import LVLM
from mmhall.options import rules
from tests.clip import CLIP
from tests.conftest import make_random_llava
from tests.decoders.fitted import learners, with_artifacts
from tests.detector import DETECTOR
from tests.generation.reference import QUIET, REQUESTS, ours as plain_model, said
from tests.threads import own_threads
from tests.zoo import REPRESENTATIVES

EMPTY = pytest.mark.filterwarnings("ignore:vdgd. the description")  # some models end an answer at once
pytestmark = [QUIET, EMPTY, pytest.mark.usefixtures("clip", "detector")]

QUESTIONS = ("Is there a dog in the image?", "Please describe this image in detail.", "Where was this picture taken?")
LENGTH = 6
DECODING = ({}, {"num_beams": 3}, {"do_sample": True, "seed": 3})
SEARCHING = ({}, {"num_beams": 3})
NAMES = tuple(STRATEGIES.names())
LEARNERS = learners()
LOOKING = f"detector={str(DETECTOR)!r}, clip={str(CLIP)!r}"
CHARACTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789")  # the words of random models
ACTIVE = {  # random models have no massive activations and attend weakly; answers here are short
    "opera": "opera(num_attn_candidates=3, penalty_weights=20.0, threshold=2, scale_factor=400.0)",
    "vhr": "vhr(alpha=4)",
    "gift": "gift(alpha=6, layers='0%:')",
    "var": "var(sink_dims=(0, 1, 2, 3), tau=1.2, mass=0.0, rho=0.0, keep=0.0)",
    "pai": "pai(alpha=2, gamma=1.5)",
    "vaf": "vaf(alpha=3)",
    "cgd": f"cgd(clip={str(CLIP)!r}, temperature=1.0)",
    "m3id": "m3id(decay=0.5, start=1, gate=1)",
    "sid": "sid(alpha=3, keep=0.25)",
    "rudder": "rudder(alpha=15)",
    "acg": "acg(gamma=4)",
    "adaiat": "adaiat(alpha=30, beta=1, layers=':')",
    "adhh": "adhh(tau=0, share=0.5)",
    "allpath": "allpath(gain=4, text_share=0.25, image_share=0.25)",
    "iat": "iat(alpha=20, layers=':')",
    "imbalance": "imbalance(alpha=3, beta=2, gamma=1.5)",
    "act": "act(beta=0, theta=0.05, heads='all', layers=':')",
    "zerotuning": "zerotuning(rate=20, heads='all', layers=':')",
    "vista": "vista(strength=0.5)",
    "vti": "vti(alpha=8)",
    "revis": "revis(threshold=-0.9)",
    "nullu": "nullu(layers=':')",
    "icd": "icd(alpha=4)",
    "deco": "deco(alpha=6)",
    "flb": "flb(gamma=8, rate=1)",
    "resdec": "resdec(alpha=0.9)",
    "memvr": "memvr(ratio=0.6, gate=0.5, layers='1:')",
    "kvsmooth": "kvsmooth(strength=0.6, width=0.4, layers=':')",
    "only": "only(alpha_far=3, alpha_near=1, gamma=1)",
    "apc": "apc(beta=0.9)",
    "debiased-pruning": "debiased-pruning(keep=0.2)",
    "vtc": "vtc(keep=0.1)",
    "vtc-cls": "vtc-cls(keep=0.1)",
    "yes-shift": "yes-shift(shift=50)",
    "olm": "olm(mass=0)",
    "self-verify": f"self-verify(samples=3, objects={tuple('abcdefghijklmnopqrstuvwxyz')})",  # of words that they say
    "sig": "sig(scale=4)",
    "vdgd": "vdgd(tokens=4, beta=0.01)",
    "halc": f"halc({LOOKING}, words={CHARACTERS}, contrast=0.4, threshold=0.5)",
    "lqcd": "lqcd(alpha=3, neutral='What? {question}')",
    "causalmm": "causalmm(alpha=3, edit='attention', language='random', layers=':')",
}
NEEDED = {  # options without which a strategy cannot be fitted to a model
    "cgd": {"clip": str(CLIP)},
    "halc": {"clip": str(CLIP), "detector": str(DETECTOR)},
    "yes-shift": {"shift": 0.9},
}
NEUTRAL = {
    "vcd": "vcd(alpha=0, beta=0)",
    "vdd": "vdd(alpha=0, beta=0)",
    "vhr": "vhr(alpha=1)",
    "gift": "gift(alpha=0)",
    "var": "var(keep=1)",
    "pai": "pai(alpha=0, gamma=1)",
    "vaf": "vaf(alpha=0, beta=0)",
    "dola": "dola(alpha=0, beta=0)",
    "m3id": "m3id(decay=0)",
    "sid": "sid(alpha=0, beta=0)",
    "rudder": "rudder(alpha=0)",
    "acg": "acg(gamma=0)",
    "adaiat": "adaiat(alpha=0)",
    "adhh": "adhh(tau=2)",
    "allpath": "allpath(gain=1, bad_gain=1)",
    "iat": "iat(alpha=0)",
    "imbalance": "imbalance(alpha=0, beta=0, gamma=1)",
    "act": "act(beta=1)",
    "zerotuning": "zerotuning(rate=1)",
    "vista": "vista(strength=0, sla_alpha=0)",
    "vti": "vti(alpha=0)",
    "revis": "revis(alpha=0)",
    "nullu": "nullu(rank=0)",
    "icd": "icd(alpha=0, beta=0)",
    "deco": "deco(alpha=0, top_k=0, top_p=1)",
    "flb": "flb(gamma=0, beta=0)",
    "resdec": "resdec(alpha=0, beta=0)",
    "memvr": "memvr(ratio=0)",
    "kvsmooth": "kvsmooth(strength=0, width=0)",
    "only": "only(alpha_near=0, alpha_far=0, beta=0)",
    "apc": "apc(beta=0)",
    "debiased-pruning": "debiased-pruning(keep=1)",
    "vtc": "vtc(keep=1, inhibit=1)",
    "vtc-cls": "vtc-cls(keep=1)",
    "yes-shift": "yes-shift(shift=0)",
    "olm": "olm(gap=0)",
    "self-verify": "self-verify(samples=0)",
    "sig": "sig(scale=1)",
    "vdgd": "vdgd(tokens=0)",
    "halc": f"halc({LOOKING}, base='plain', skip=1, twin=3)",
    "lqcd": "lqcd(alpha=0, beta=0)",
    "causalmm": "causalmm(alpha=0, beta=0)",
    "pine": "pine",  # acts on several pictures; its own tests give them
}
ARTIFACT = {"artifact"}  # which names what was fitted, if anything was
ANY_TEXT = {("brief", "text"), ("yes-prompt", "text"), ("icd", "text"), ("vdgd", "text"), ("lqcd", "neutral")}
IDLE = {"recomputed", "pine"}  # change nothing, the second one with a single picture
LATE = {"kvsmooth"}  # edit from the third token on
SEARCHED = "opera(num_attn_candidates=400, penalty_weights=0.0, threshold=1000)"  # neutral: a plain beam search
COMPOSED = (
    "vhr+vcd",
    "gift+vdd",
    "vhr(alpha=3)+pai(gamma=1, alpha=1)+vdd",
    "vaf(alpha=3)+vhr(alpha=3)",
    "rudder(alpha=15)+sid(alpha=3, keep=0.25)",
    "vhr(alpha=3)+dola",
    "kvsmooth(strength=0.6, width=0.4, layers=':')+only(alpha_far=3, gamma=1)",
    "opera+pai(alpha=1)+vhr(alpha=3)",
    f"vcd+cgd(clip={str(CLIP)!r}, temperature=1.0)",
    "vtc-cls(keep=0.2)+pai(alpha=1, gamma=1.5)",
    f"vhr(alpha=3)+halc({LOOKING}, words={CHARACTERS}, base='plain', num_beams=2)",
)
SPECS = tuple(ACTIVE.get(name, name) for name in NAMES if name not in ("greedy", "beam")) + COMPOSED
COLUMNS = {  # need image columns beside text
    *(
        "gift",
        "var",
        "pai",
        "vaf",
        "sid",
        "acg",
        "adhh",
        "allpath",
        "memvr",
        "only",
        "imbalance",
        "sig",
        "debiased-pruning",
    ),
}
ONLY = {"vtc": {"llava"}, "vtc-cls": {"llava"}}  # the families that carry a strategy, where most do not
UNABLE = {  # families of the other kinds, by strategy
    "opera": {"qwen3_5"},
    "imbalance": {"gemma4", "llama4", "mistral3", "idefics2", "blip_2", "instructblip"},
    "kvsmooth": {"gemma4"},
    "debiased-pruning": {"qwen3_5", "gemma4", "llama4"},
    "only": {"qwen3_5", "gemma3", "gemma4"},
    "pine": {"qwen3_5", "gemma3", "gemma4", "llama4", "mllama"},
}


def ours(family):
    """The model of a family, with what strategies have learned about it."""
    return with_artifacts(plain_model(family))


def ids(answers):
    return [answer.token_ids for answer in answers]


def requests(pictures):
    return list(zip(pictures, QUESTIONS, strict=True))


def named(spec):
    """Names of the strategies of a composition."""
    return {part.split("(")[0] for part in spec.split("+")}


def carries(spec, family):
    """Whether a family can carry a strategy."""
    parts = named(spec)
    if any(family not in ONLY.get(part, {family}) for part in parts):
        return False
    return not (family == "mllama" and parts & COLUMNS) and not any(family in UNABLE.get(part, ()) for part in parts)


def searches(spec):
    """Whether a strategy brings a search of its own."""
    return mmhall.strategy(spec).searches


def ways(spec):
    """How a strategy can decode: one that searches draws nothing."""
    return SEARCHING if searches(spec) else DECODING


SLOW = pytest.mark.slow
OTHERS = tuple(name for name in REPRESENTATIVES if name not in ("llava", "qwen2_5_vl", "mllama", "gemma3"))
PLAIN = tuple(spec for spec in SPECS if not searches(spec))
SINGLE = tuple(spec for spec in SPECS if spec not in COMPOSED)


def met(spec):
    """Families that a strategy meets in its turn, and how it decodes there."""
    at, able = SPECS.index(spec), ways(spec)
    if not carries(spec, "qwen2_5_vl"):
        return [("llava", way) for way in able]
    core = ("llava", "qwen2_5_vl", next(one for one in ("mllama", "gemma3", "instructblip") if carries(spec, one)))
    others = [name for name in OTHERS if carries(spec, name)]
    families = (*(core if spec in SINGLE else (core[at % 2], core[2])), others[at % len(others)])
    return [(name, able[(at + turn) % len(able)]) for turn, name in enumerate(families)]


def is_spare(spec, family, way):
    """Whether a family that a strategy meets once only decodes in a way that it meets elsewhere."""
    return family in OTHERS and any((one, other) == (spec, way) and name not in OTHERS for one, name, other in MET)


def marks(spec, family, way):
    """LLaVA's plain decoding is quick; what is spare is for the long run."""
    if (family, way) == ("llava", {}):
        return ()
    return (SLOW, pytest.mark.long) if is_spare(spec, family, way) else SLOW


MET = [(spec, family, way) for spec in SPECS for family, way in met(spec)]


def batch(family, spec, way, length=3):
    """What two prompts are told together."""
    return _batch(family, spec, tuple(way.items()), length)


@cache
def _batch(family, spec, way, length):
    return said(ours(family), ours(family).inputs(REQUESTS[:2]), spec, **{**dict(way), "max_new_tokens": length})


@pytest.fixture(scope="module")
def llava(processor):
    lvlm = LVLM(make_random_llava(processor), processor, "random")
    with_artifacts(lvlm.adapter)
    return lvlm


@pytest.fixture(scope="module")
def answers(llava, pictures):
    """What the second request is told, each strategy asked once."""
    return cache(lambda spec: llava.generate(pictures[1], QUESTIONS[1], spec, max_new_tokens=LENGTH))


@pytest.mark.parametrize(
    ("spec", "family", "way"),
    [pytest.param(*one, marks=marks(*one)) for one in MET],
    ids=str,
)
def test_a_batch_equals_single_runs(spec, family, way):
    """With the same seed also where tokens are drawn."""
    adapter, options = ours(family), {**way, "max_new_tokens": 3}
    apart = [said(adapter, adapter.inputs([request]), spec, **options)[0] for request in REQUESTS[:2]]
    assert batch(family, spec, way) == apart


def test_every_pair_of_a_strategy_and_a_way_to_decode_is_met():
    for spec in SINGLE:
        met_ways = [way for one, family, way in MET if one == spec and not is_spare(one, family, way)]
        assert all(way in met_ways for way in ways(spec)), spec


@pytest.mark.slow
@pytest.mark.parametrize("spec", SINGLE)
def test_a_request_among_three_is_answered_as_alone(llava, pictures, answers, spec):
    """The one that is looked at stands padded between the others."""
    longest = "What is on the left of it, and what is behind that? Please describe both in detail."
    first, asked, last = requests(pictures)
    together = llava.generate_batch([(first[0], longest), asked, last], spec, max_new_tokens=LENGTH)
    assert together[1].token_ids == answers(spec).token_ids


@pytest.mark.slow
def test_families_that_cannot_carry_a_strategy_refuse_it_with_the_reason():
    refused = [(spec, family) for spec in SPECS for family in ("mllama", "qwen3_5") if not carries(spec, family)]
    for spec, family in refused:
        adapter = ours(family)
        with pytest.raises(CompositionError, match=f"{family} cannot carry it: "):
            said(adapter, adapter.inputs(REQUESTS[:1]), spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in IDLE])
def test_it_changes_what_is_said_somewhere(spec):
    """At least twice: mostly in two of the families that it meets, decoding in the same way."""
    length = 8 if spec.split("(")[0] in LATE else 3
    changed = [batch(family, spec, way, length) != batch(family, "greedy", way, length) for family, way in met(spec)]
    assert sum(changed) >= 2, changed


@pytest.mark.parametrize("decoding", [DECODING[0], *(pytest.param(way, marks=SLOW) for way in DECODING[1:])], ids=str)
def test_neutral_options_equal_plain_decoding(llava, pictures, decoding):
    """A cut-off alone does, where the likeliest token is taken."""
    plain = llava.generate_batch(requests(pictures), "greedy", max_new_tokens=LENGTH, **decoding)
    for spec in (*NEUTRAL.values(), *(() if decoding else ("vcd(alpha=0)", "vdd(alpha=0)"))):
        asked = llava.generate_batch(requests(pictures), spec, max_new_tokens=LENGTH, **decoding)
        assert ids(asked) == ids(plain), spec


def test_every_strategy_has_neutral_options():
    assert set(NEUTRAL) | {"greedy", "beam", "opera", "cgd", "brief", "yes-prompt", "recomputed"} == set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("beams", [2, 5])
def test_beam_is_the_setting_as_a_strategy(llava, pictures, beams):
    plain = llava.generate_batch(requests(pictures), "greedy", max_new_tokens=LENGTH, num_beams=beams)
    asked = llava.generate_batch(requests(pictures), f"beam(num_beams={beams})", max_new_tokens=LENGTH)
    assert ids(asked) == ids(plain)
    assert {answer.settings["num_beams"] for answer in asked} == {beams}
    contrasted = llava.generate_batch(requests(pictures), "vcd", max_new_tokens=LENGTH, num_beams=beams)
    composed = llava.generate_batch(requests(pictures), f"vcd+beam(num_beams={beams})", max_new_tokens=LENGTH)
    assert ids(composed) == ids(contrasted)


def test_what_beams_find_is_streamed_whole(llava, pictures):
    for spec, settings in (("beam", {}), ("vcd", {"num_beams": 2}), ("vcd+beam", {})):
        pieces = list(llava.stream(pictures[0], QUESTIONS[0], spec, max_new_tokens=LENGTH, **settings))
        assert pieces == [llava.generate(pictures[0], QUESTIONS[0], spec, max_new_tokens=LENGTH, **settings).text]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_a_search_with_nothing_to_punish_is_a_beam_search(llava, pictures, beams):
    plain = llava.generate_batch(requests(pictures), "greedy", max_new_tokens=LENGTH, num_beams=beams)
    found = llava.generate_batch(requests(pictures), SEARCHED, max_new_tokens=LENGTH, num_beams=beams)
    assert ids(found) == ids(plain)


def test_greedy_is_the_models_own_greedy(llava, pictures):
    inputs = llava.adapter.inputs([Request(QUESTIONS[1], (pictures[0],))])
    own = llava.model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    answer = llava.generate(pictures[0], QUESTIONS[1], "greedy", max_new_tokens=LENGTH)
    assert [token for token in own.tolist() if token not in (1, 2)] == [t for t in answer.token_ids if t != 2]


PICTURED = (*PLAIN, ACTIVE["cgd"], ACTIVE["halc"], ACTIVE["self-verify"])


@pytest.mark.parametrize("family", ["llava", "qwen3_5", "mllama"])
def test_without_a_picture_it_is_plain_decoding(family):
    adapter = ours(family)
    bare = adapter.inputs([Request("Is there a dog?"), Request("What?")])
    plain = said(adapter, bare, "greedy", max_new_tokens=4)
    for spec in PICTURED:
        if carries(spec, family):
            assert said(adapter, bare, spec, max_new_tokens=4) == plain, spec


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl", "gemma3"])
@pytest.mark.slow
def test_several_pictures_and_a_question_without_words(family):
    """The text holds only what the chat template adds, and punctuation; strategies take turns with the families."""
    adapter = ours(family)
    pictures = tuple(request.images[0] for request in REQUESTS[:2])
    several = [Request("What differs?", pictures), Request("?", pictures[:1])]
    for spec in SPECS[("llava_next", "qwen2_5_vl", "gemma3").index(family) :: 3]:
        if not carries(spec, family):
            continue
        together = said(adapter, adapter.inputs(several), spec, max_new_tokens=3)
        assert together == [said(adapter, adapter.inputs([one]), spec, max_new_tokens=3)[0] for one in several], spec


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_streaming_says_the_same(llava, pictures, answers, spec):
    pieces = llava.stream(pictures[1], QUESTIONS[1], spec, max_new_tokens=LENGTH)
    assert "".join(pieces).strip() == answers(spec).text


# CGD, HALC and self-verify need the pictures themselves, ICD, LQCD and VDGD the messages, a prompt the question; which
# words are the user's own, as GIFT asks, is not told by inputs alone, nor are artifacts.
NOT_BY_INPUTS = {"brief", "cgd", "halc", "self-verify", "yes-prompt", "gift", "icd", "lqcd", "vdgd", *LEARNERS}


@pytest.mark.slow
@pytest.mark.parametrize("spec", [spec for spec in SPECS if not NOT_BY_INPUTS & named(spec)])
def test_transformers_own_generate_says_the_same(llava, pictures, answers, spec):
    inputs = llava.adapter.inputs([Request(QUESTIONS[1], (pictures[1],))])
    own = mmhall.custom_generate(spec, processor=llava.processor)
    rows = llava.model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, custom_generate=own)
    text = llava.processor.tokenizer.decode(rows[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text.strip() == answers(spec).text


@pytest.mark.slow
@pytest.mark.parametrize("spec", PLAIN)
def test_a_trace_watches_without_changing_anything(llava, pictures, answers, spec):
    trace = llava.trace(pictures[1], QUESTIONS[1], spec, max_new_tokens=LENGTH)
    assert trace.answer.token_ids == answers(spec).token_ids
    assert trace.image_attention.shape[0] == len(trace.answer.token_ids)
    assert (trace.image_share > 0).all()
    assert (trace.image_share <= 1 + 1e-5).all()


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_nothing_leaks_into_the_next_run(spec):
    """Also after runs that raised behind a layer, in the middle of one, and while decoding."""
    adapter = ours("llava" if SPECS.index(spec) % 2 or not carries(spec, "qwen2_5_vl") else "qwen2_5_vl")
    inputs = adapter.inputs(REQUESTS[:2])
    with torch.no_grad():
        before = adapter.model(**inputs).logits
    threads = own_threads()
    wanted = said(adapter, inputs, spec, max_new_tokens=4)
    for module, call in ((adapter.layers[1], 1), (adapter.layers[-1].self_attn.o_proj, 1), (adapter.layers[0], 2)):
        calls = iter(range(1, 100))

        def fail(*_, calls=calls, call=call):
            if next(calls) >= call:
                raise RuntimeError("on purpose")

        hook = module.register_forward_hook(fail)
        try:
            with pytest.raises(RuntimeError, match="on purpose"):
                said(adapter, inputs, spec, max_new_tokens=6)
        finally:
            hook.remove()
    assert own_threads() <= threads
    with torch.no_grad():
        torch.testing.assert_close(adapter.model(**inputs).logits, before, rtol=0, atol=0)
    assert said(adapter, inputs, spec, max_new_tokens=4) == wanted


@pytest.mark.slow
def test_threads_share_a_model(llava, pictures, answers):
    """Four at once, each with strategies of its own, in another order."""
    shares = [SPECS[turn::4] for turn in range(4)]
    wanted = {spec: answers(spec).token_ids for spec in SPECS}
    found = {}

    def work(specs):
        for spec in specs:
            found[spec] = llava.generate(pictures[1], QUESTIONS[1], spec, max_new_tokens=LENGTH).token_ids

    threads = [threading.Thread(target=work, args=(specs,)) for specs in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted


def test_strategies_read_themselves_back():
    for spec in (*NAMES, *SPECS):
        made = mmhall.strategy(spec)
        assert mmhall.strategy(str(made)) == made, spec
        assert mmhall.strategy(made) is made, spec


@pytest.mark.parametrize("name", [name for name in NAMES if name != "greedy"])
def test_options_left_open_are_filled_in_for_a_model(name):
    """And written back: what an answer records runs the same again."""
    adapter = ours("llava")
    fitted = mmhall.strategy(name, **NEEDED.get(name, {})).fitted(adapter)
    assert {option for option, value in fitted.options().items() if value is None} <= ARTIFACT
    assert mmhall.strategy(str(fitted)) == fitted
    made = mmhall.strategy(name, **NEEDED.get(name, {}))
    filled = {option for option, value in made.options().items() if value is None != fitted.options()[option]}
    assert set(made.origins(adapter)) == filled


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "greedy"])
def test_impossible_options_are_refused_when_built(name):
    kind = type(mmhall.strategy(name))
    for option, rule in rules(kind).items():
        wrong = [object(), float("nan"), float("inf"), " " if (name, option) in ANY_TEXT else "nonsense("]
        wrong += [rule.low - 1] if rule.low is not None else []
        wrong += [rule.high + 1] if rule.high is not None else []
        for value in wrong:
            with pytest.raises(OptionError, match=f"{name}: {option} must be"):
                mmhall.strategy(name, **{option: value})
