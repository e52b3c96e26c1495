"""What every registered strategy must keep, whatever it does: a new one joins by being registered.

On a random LLaVA with the embedded model's processor, and on small random models of every family.
"""

from __future__ import annotations

import threading

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.decoders import STRATEGIES
from mmhall.errors import CompositionError, OptionError
from mmhall.options import rules
from tests.clip import CLIP
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours, said
from tests.threads import own_threads

pytestmark = [QUIET, pytest.mark.usefixtures("clip")]

QUESTIONS = ("Is there a dog in the image?", "Please describe this image in detail.", "Where was this picture taken?")
LENGTH = 12
DECODING = ({}, {"num_beams": 3}, {"do_sample": True, "seed": 3})
SEARCHING = ({}, {"num_beams": 3})
NAMES = tuple(STRATEGIES.names())
ACTIVE = {  # random models have no massive activations and attend weakly; answers here are short
    "opera": "opera(num_attn_candidates=3, penalty_weights=20.0, threshold=2, scale_factor=400.0)",
    "vhr": "vhr(alpha=4)",
    "gift": "gift(alpha=6)",
    "var": "var(sink_dims=(0, 1, 2, 3), tau=1.2, mass=0.0, rho=0.0, keep=0.0)",
    "pai": "pai(alpha=2, gamma=1.5)",
    "vaf": "vaf(alpha=3)",
    "cgd": f"cgd(clip={str(CLIP)!r}, temperature=1.0)",
    "m3id": "m3id(decay=0.5, start=1, gate=1)",
    "sid": "sid(alpha=3, keep=0.25)",
    "rudder": "rudder(alpha=15)",
}
NEEDED = {"cgd": {"clip": str(CLIP)}}  # options without which a strategy cannot be fitted to a model
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
}
SEARCHED = "opera(num_attn_candidates=400, penalty_weights=0.0, threshold=1000)"  # neutral: a plain beam search
COMPOSED = (
    "vhr+vcd",
    "gift+vdd",
    "vhr(alpha=3)+pai(gamma=1, alpha=1)+vdd",
    "vaf(alpha=1)+vhr",
    "rudder(alpha=15)+sid(alpha=3, keep=0.25)",
    "vhr(alpha=3)+dola",
    "opera+pai(alpha=1)+vhr(alpha=3)",
    f"vcd+cgd(clip={str(CLIP)!r}, temperature=1.0)",
)
SPECS = tuple(ACTIVE.get(name, name) for name in NAMES if name not in ("greedy", "beam")) + COMPOSED
COLUMNS = {"gift", "var", "pai", "vaf", "sid"}  # weigh image columns beside text


def ids(answers):
    return [answer.token_ids for answer in answers]


def requests(pictures):
    return list(zip(pictures, QUESTIONS, strict=True))


def carries(spec, family):
    """Whether a family can carry a strategy."""
    parts = {part.split("(")[0] for part in spec.split("+")}
    return not (family == "mllama" and parts & COLUMNS) and not (family == "qwen3_5" and "opera" in parts)


def searches(spec):
    """Whether a strategy brings a search of its own."""
    return mmhall.strategy(spec).searches


def ways(spec):
    """How a strategy can decode: one that searches draws nothing."""
    return SEARCHING if searches(spec) else DECODING


CARRIED = [(spec, family) for spec in SPECS for family in FAMILIES if carries(spec, family)]
REFUSED = [(spec, family) for spec in SPECS for family in FAMILIES if not carries(spec, family)]


WAYS = [(spec, decoding) for spec in SPECS for decoding in ways(spec)]
PLAIN = tuple(spec for spec in SPECS if not searches(spec))


@pytest.mark.parametrize(("spec", "decoding"), WAYS, ids=str)
def test_a_batch_equals_single_runs(llava, pictures, spec, decoding):
    batch = llava.generate_batch(requests(pictures), spec, max_new_tokens=LENGTH, **decoding)
    singles = [llava.generate(*request, spec, max_new_tokens=LENGTH, **decoding) for request in requests(pictures)]
    assert ids(batch) == ids(singles)


@pytest.mark.slow
@pytest.mark.parametrize(("spec", "family"), CARRIED)
def test_a_batch_equals_single_runs_on_every_family(spec, family):
    """One family decodes in every way above; here each decodes in one of them, which take turns."""
    adapter, able = ours(family), ways(spec)
    decoding = able[(SPECS.index(spec) + FAMILIES.index(family)) % len(able)]
    options = {**decoding, "max_new_tokens": 5}
    together = said(adapter, adapter.inputs(REQUESTS[:2]), spec, **options)
    apart = [said(adapter, adapter.inputs([request]), spec, **options)[0] for request in REQUESTS[:2]]
    assert together == apart, decoding


@pytest.mark.parametrize(("spec", "family"), REFUSED)
def test_a_family_that_cannot_carry_it_is_refused_with_the_reason(spec, family):
    adapter = ours(family)
    with pytest.raises(CompositionError, match=f"{family} cannot carry it: "):
        said(adapter, adapter.inputs(REQUESTS[:1]), spec)


@pytest.mark.parametrize("spec", SPECS)
def test_it_changes_what_is_said_somewhere(spec):
    changed = [
        said(ours(family), ours(family).inputs(REQUESTS[:2]), spec, max_new_tokens=5)
        != said(ours(family), ours(family).inputs(REQUESTS[:2]), "greedy", max_new_tokens=5)
        for family in ("llava", "qwen2_5_vl", "gemma3", "internvl")
    ]
    assert sum(changed) >= 2


@pytest.mark.parametrize(("spec", "decoding"), WAYS, ids=str)
def test_the_same_seed_repeats(llava, pictures, spec, decoding):
    runs = [ids(llava.generate_batch(requests(pictures), spec, max_new_tokens=LENGTH, **decoding)) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("spec", NEUTRAL.values())
@pytest.mark.parametrize("decoding", DECODING, ids=str)
def test_neutral_options_equal_plain_decoding(llava, pictures, spec, decoding):
    plain = llava.generate_batch(requests(pictures), "greedy", max_new_tokens=LENGTH, **decoding)
    assert ids(llava.generate_batch(requests(pictures), spec, max_new_tokens=LENGTH, **decoding)) == ids(plain)


@pytest.mark.parametrize("spec", ["vcd(alpha=0)", "vdd(alpha=0)"])
def test_a_cut_off_alone_is_greedy_token_for_token(llava, pictures, spec):
    plain = llava.generate_batch(requests(pictures), "greedy", max_new_tokens=LENGTH)
    assert ids(llava.generate_batch(requests(pictures), spec, max_new_tokens=LENGTH)) == ids(plain)


def test_every_strategy_has_neutral_options():
    assert set(NEUTRAL) | {"greedy", "beam", "opera", "cgd"} == set(NAMES)


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


PICTURED = (*PLAIN, ACTIVE["cgd"])
BARE = [(s, f) for s in PICTURED for f in ("llava", "qwen3_5", "mllama", "blip_2", "gemma4") if carries(s, f)]


@pytest.mark.parametrize(("spec", "family"), BARE)
def test_without_a_picture_it_is_plain_decoding(spec, family):
    adapter = ours(family)
    bare = adapter.inputs([Request("Is there a dog?"), Request("What?")])
    assert said(adapter, bare, spec, max_new_tokens=5) == said(adapter, bare, "greedy", max_new_tokens=5)


@pytest.mark.parametrize("spec", SPECS)
def test_several_pictures_and_a_question_without_words(spec):
    """The text holds only what the chat template adds, and punctuation."""
    for family in ("llava_next", "qwen2_vl", "idefics3"):
        adapter = ours(family)
        pictures = tuple(request.images[0] for request in REQUESTS[:2])
        several = [Request("What differs?", pictures), Request("?", pictures[:1])]
        together = said(adapter, adapter.inputs(several), spec, max_new_tokens=4)
        assert together == [said(adapter, adapter.inputs([one]), spec, max_new_tokens=4)[0] for one in several]


@pytest.mark.parametrize("spec", SPECS)
def test_streaming_says_the_same(llava, pictures, spec):
    whole = llava.generate(pictures[0], QUESTIONS[1], spec, max_new_tokens=LENGTH)
    assert "".join(llava.stream(pictures[0], QUESTIONS[1], spec, max_new_tokens=LENGTH)).strip() == whole.text


@pytest.mark.parametrize("spec", [spec for spec in SPECS if "cgd" not in spec])  # it needs the pictures themselves
def test_transformers_own_generate_says_the_same(llava, pictures, spec):
    inputs = llava.adapter.inputs([Request(QUESTIONS[1], (pictures[0],))])
    answer = llava.generate(pictures[0], QUESTIONS[1], spec, max_new_tokens=LENGTH)
    own = mmhall.custom_generate(spec, processor=llava.processor)
    rows = llava.model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, custom_generate=own)
    text = llava.processor.tokenizer.decode(rows[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    if "gift" not in spec:  # which words are the user's own is not told by inputs alone
        assert text.strip() == answer.text


@pytest.mark.parametrize("spec", PLAIN)
def test_a_trace_watches_without_changing_anything(llava, pictures, spec):
    trace = llava.trace(pictures[0], QUESTIONS[1], spec, max_new_tokens=LENGTH)
    assert trace.answer.token_ids == llava.generate(pictures[0], QUESTIONS[1], spec, max_new_tokens=LENGTH).token_ids
    assert trace.image_attention.shape[0] == len(trace.answer.token_ids)
    assert (trace.image_share > 0).all()
    assert (trace.image_share <= 1 + 1e-5).all()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("family", ["llava", "cohere2_vision", "qwen2_5_vl"])
def test_nothing_leaks_into_the_next_run(spec, family):
    """Also after runs that raised in the vision tower, in the middle of a layer, and while decoding."""
    adapter = ours(family)
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


@pytest.mark.parametrize("spec", SPECS)
def test_threads_share_a_model(llava, pictures, spec):
    wanted = ids(llava.generate_batch(requests(pictures), spec, max_new_tokens=6))
    plain = ids(llava.generate_batch(requests(pictures), "greedy", max_new_tokens=6))
    answers = {}

    def work(index, method):
        answers[index] = ids(llava.generate_batch(requests(pictures), method, max_new_tokens=6))

    threads = [threading.Thread(target=work, args=(i, spec if i % 2 else "greedy")) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[i] for i in range(4)] == [plain, wanted, plain, wanted]


@pytest.mark.parametrize("spec", [*NAMES, *SPECS])
def test_it_reads_itself_back(spec):
    made = mmhall.strategy(spec)
    assert mmhall.strategy(str(made)) == made
    assert mmhall.strategy(made) is made


@pytest.mark.parametrize("name", [name for name in NAMES if name != "greedy"])
def test_options_left_open_are_filled_in_for_a_model(name):
    """And written back: what an answer records runs the same again."""
    adapter = ours("llava")
    fitted = mmhall.strategy(name, **NEEDED.get(name, {})).fitted(adapter)
    assert None not in fitted.options().values()
    assert mmhall.strategy(str(fitted)) == fitted
    assert set(mmhall.strategy(name).origins(adapter)) == {
        o for o, rule in rules(type(fitted)).items() if rule.by_model
    }


@pytest.mark.parametrize("name", [name for name in NAMES if name != "greedy"])
def test_impossible_options_are_refused_when_built(name):
    kind = type(mmhall.strategy(name))
    for option, rule in rules(kind).items():
        wrong = [object(), float("nan"), float("inf"), "nonsense("]
        wrong += [rule.low - 1] if rule.low is not None else []
        wrong += [rule.high + 1] if rule.high is not None else []
        for value in wrong:
            with pytest.raises(OptionError, match=f"{name}: {option} must be"):
                mmhall.strategy(name, **{option: value})
