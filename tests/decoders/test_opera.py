"""OPERA against a slow reference, and what it has in common with beam search; its parts are tested beside it."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from transformers.generation import BaseStreamer

import mmhall
from mmhall.adapters._base import Request
from mmhall.decoders.opera import Opera, Retrospection, find_rollback, rule_out
from mmhall.errors import CompositionError, OptionError
from mmhall.generation import run_searches
from mmhall.generation._settings import Settings
from mmhall.lvlm import LVLM
from tests.attention.reference import Eager
from tests.conftest import make_random_llava
from tests.decoders.opera_reference import Pull, Reference
from tests.generation.official import Official
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours, said
from tests.jobs import decode, opened

pytestmark = QUIET

NEUTRAL = "opera(penalty_weights=0, num_attn_candidates=100000, threshold=100000)"
GREEDY = "opera(num_attn_candidates=1, threshold=100000)"
LENGTH = 18


def searched(
    adapter, inputs, options, beams, longest, *, stop=(), extra=(), session=None, penalty=None, kind=Retrospection
):
    """Search for one prompt, and return what the search holds at the end."""
    settings = Settings(max_new_tokens=longest, num_beams=beams, length_penalty=penalty)
    config = settings.resolved(adapter.generator)
    config.eos_token_id = list(stop) or [10**6]  # None would be the model's own
    with torch.inference_mode():
        own = options.prepare(adapter, inputs)
        given = {} if session is None else {"branches": session.branches, "combine": session.combine}
        session = replace(own, **given)
        decoding, _ = opened(adapter, inputs, session, config, extra)
        search = kind(options, own.ops[0], decoding, 0)
        run_searches(decoding, [search])
    return search


def check(search, reference):
    """Check that a search found what the reference finds, and went back as it did."""
    wanted = reference.run()
    found = search.beams.finished()
    assert [answer for _, answer in found] == [list(answer) for _, answer in wanted]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], abs=1e-4)
    assert sum(search.tries.values()) == len(reference.backs)


def silent_on_specials(processor, seed):
    """A random LLaVA that never says a special token: a placeholder in an answer could not be read anew."""
    model = make_random_llava(processor, seed=seed)
    special = torch.tensor(list(processor.tokenizer.added_tokens_decoder))
    model.lm_head.register_forward_hook(lambda *call: call[2].index_fill(-1, special, -1e4))
    return LVLM(model, processor, "random")


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0, 1), pytest.param((5, 6), marks=pytest.mark.long)])
def test_random_searches_are_the_references(processor, pictures, seeds):
    """The last layer looks away from all before the tenth token, and sharply, so that stripes come and stay.

    The seeds draw every value but a threshold and a length penalty of 2; half precision has a penalty.
    """
    backs = 0
    for seed in seeds:
        draw, half = random.Random(seed), seed % 3 == 2
        lvlm = silent_on_specials(processor, seed)
        with torch.no_grad():
            lvlm.adapter.layers[-1].self_attn.q_proj.weight.mul_(8)
        inputs = lvlm.adapter.inputs([Request("What is this?", (pictures[seed % 3],))])
        pull = Pull(2, torch.full((inputs["input_ids"].shape[1] + 10,), -5.0))
        options = Opera(
            num_attn_candidates=draw.choice((2, 3, 5)),
            penalty_weights=draw.choice((0.0, 1.0, 1.0 if half else 1e3)),
            scale_factor=draw.choice((12.0, 16.0, 24.0)),  # with more, a penalty's last digits decide
            threshold=draw.choice((1, 1, 1, 2)),
            window=draw.choice((3, 512)),
            compat_fp16=half,
        )
        beams, penalty = draw.choice((2, 3)), draw.choice((1.0, 0.0, 2.0))
        stop = tuple(draw.sample(range(300), 3)) if seed % 2 else ()
        search = searched(lvlm.adapter, inputs, options, beams, LENGTH, stop=stop, extra=[pull], penalty=penalty)
        eager, edits = Eager(lvlm.adapter), {"scores": pull.edit}
        reference = Reference(
            lvlm.adapter, eager, inputs, options, beams, LENGTH, stop, length_penalty=penalty, edits=edits
        )
        check(search, reference)
        backs += len(reference.backs)
        lvlm.close()
    assert backs, "none of these searches went back"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3", "gemma4", "mllama"])
def test_families_are_searched_as_the_reference_does(name):
    adapter, options = ours(name), Opera(num_attn_candidates=2, threshold=1, scale_factor=20.0)
    inputs = adapter.inputs(REQUESTS[1:2])
    search = searched(adapter, inputs, options, 2, 14)
    check(search, Reference(adapter, Eager(adapter), inputs, options, 2, 14))


@pytest.mark.slow
def test_the_official_rule_counts_prompt_and_answer(processor, pictures):
    """As the authors' transformers did, going back included; today's rule ends many of these searches elsewhere."""
    backs = others = 0
    for seed in (0, 1, 3):  # the last one goes back
        half, stop = seed % 2 == 1, tuple(random.Random(seed).sample(range(300), 12))
        lvlm = silent_on_specials(processor, seed)
        with torch.no_grad():
            lvlm.adapter.layers[-1].self_attn.q_proj.weight.mul_(8)
        inputs = lvlm.adapter.inputs([Request("What is this?", (pictures[seed % 3],))])
        pull = Pull(2, torch.full((inputs["input_ids"].shape[1] + 10,), -5.0))
        options = Opera(threshold=1, scale_factor=16.0, compat_fp16=half, length_rule="official")
        search = searched(lvlm.adapter, inputs, options, 3, 14, stop=stop, extra=[pull])
        image = int(lvlm.adapter.image_mask(inputs["input_ids"]).sum())
        rule = Official(3, inputs["input_ids"].shape[1] - image + 1, 14, stop)
        given = {"edits": {"scores": pull.edit}, "official": rule}
        reference = Reference(lvlm.adapter, Eager(lvlm.adapter), inputs, options, 3, 14, stop, **given)
        check(search, reference)
        today = searched(
            lvlm.adapter, inputs, replace(options, length_rule="answer"), 3, 14, stop=stop, extra=[pull]
        ).beams.finished()
        others += [answer for _, answer in today] != [answer for _, answer in search.beams.finished()]
        backs += len(reference.backs)
        lvlm.close()
    assert backs >= 1
    assert others >= 1


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_contrast_joins_the_search(name):
    """Branches stacked beside the beams, and in a cache of their own."""
    adapter, options = ours(name), Opera(num_attn_candidates=3, threshold=1, scale_factor=20.0)
    inputs = adapter.inputs(REQUESTS[:1])
    session = mmhall.strategy("vdd(beta=0.001)").fitted(adapter).prepare(adapter, inputs)
    search = searched(adapter, inputs, options, 2, 13, session=session)
    check(search, Reference(adapter, Eager(adapter), inputs, options, 2, 13, session=session))
    assert search.beams.finished() != searched(adapter, inputs, options, 2, 13).beams.finished()


@pytest.fixture(scope="module")
def striped(processor):
    """Search a random LLaVA whose last layer's rows look at one token of the answer, if told which."""
    lvlm = LVLM(make_random_llava(processor, seed=2), processor, "random")

    def search(where, longest, **options):
        inputs = lvlm.adapter.inputs([Request("What is this?")])
        pull = torch.zeros(inputs["input_ids"].shape[1] + longest)
        if where is not None:
            pull[inputs["input_ids"].shape[1] + where] = 30.0
        made = Opera(**{"threshold": 3, "penalty_weights": 0.0, **options})
        return searched(lvlm.adapter, inputs, made, 3, longest, extra=[Pull(2, pull)])

    yield search
    lvlm.close()


@pytest.mark.slow
def test_a_stripe_is_left_when_locations_agree_once_more_than_the_threshold(striped):
    """They agree from step 12 on, so four times at step 15; an answer of 16 tokens takes that step, one of 15 not."""
    assert striped(12, 15).tries == {}
    assert striped(12, 16).tries == {13: 5, 12: 5}
    assert striped(12, 16, threshold=4).tries == {}
    assert striped(12, 17, threshold=4).tries == {13: 5, 12: 5}


@pytest.mark.slow
def test_a_stripe_at_the_tenth_token_or_before_is_never_left(striped):
    assert striped(9, 30).tries == {}
    assert set(striped(10, 16).tries) == {10, 11}


@pytest.mark.parametrize(
    "candidates", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_what_was_left_is_never_chosen_again_and_steps_are_left_so_often_at_most(striped, candidates):
    """A pair chosen again would be in the set already."""
    search = striped(12, 16, num_attn_candidates=candidates)
    assert search.tries == {13: candidates, 12: candidates}
    assert len(search.out[12]) == 3 * candidates
    assert 13 not in search.out


def test_going_back_goes_no_further_than_the_window(striped):
    assert find_rollback([[12, 12]] * 20, {}, Opera(threshold=3, window=5)) == 14
    assert find_rollback([[12, 12]] * 20, {}, Opera(threshold=3, window=6)) == 13
    assert striped(12, 30, window=1).tries == {13: 5, 12: 5}


@pytest.mark.parametrize(
    ("name", "settings"),
    in_turn(
        ("llava", "gemma3", "instructblip", "mllama", "llama4"),
        (
            {"num_beams": 3},
            {"num_beams": 4, "length_penalty": 2.0, "num_return_sequences": 4},
            {"repetition_penalty": 0.3},
        ),
    ),
    ids=str,
)
def test_neutral_options_are_beam_search(name, settings):
    settings = {"num_beams": 5, **settings}
    inputs = ours(name).inputs(REQUESTS[:2])
    assert said(ours(name), inputs, NEUTRAL, **settings) == said(ours(name), inputs, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("stopping", [False, True, "never"])
def test_neutral_options_are_beam_search_however_it_stops(stopping, monkeypatch):
    monkeypatch.setattr(ours("llava").generator.generation_config, "early_stopping", stopping)
    inputs, settings = ours("llava").inputs(REQUESTS), {"num_beams": 3, "num_return_sequences": 2}
    assert said(ours("llava"), inputs, NEUTRAL, **settings) == said(ours("llava"), inputs, **settings)


def test_where_nothing_is_weighed_nothing_is_tried():
    adapter, sizes = ours("llava"), []
    hook = adapter.layers[0].register_forward_hook(lambda _, args, out: sizes.append(tuple(args[0].shape[:2])))
    try:
        for spec in (NEUTRAL, GREEDY, "opera(penalty_weights=0)"):
            said(adapter, adapter.inputs(REQUESTS[:1]), spec, num_beams=3)
        assert {size for size in sizes if size[1] < 20} == {(3, 1)}
        sizes.clear()
        said(adapter, adapter.inputs(REQUESTS[:1]), "opera", num_beams=3, max_new_tokens=4)
        assert sizes[1:] == [(1, 5), (3, 5), (3, 5), (3, 5)]
    finally:
        hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_one_candidate_is_greedy(beams):
    inputs = ours("qwen2_vl").inputs(REQUESTS)
    assert said(ours("qwen2_vl"), inputs, GREEDY, num_beams=beams) == said(ours("qwen2_vl"), inputs)


EAGER_TO_GO_BACK = "opera(threshold=1, scale_factor=20, num_attn_candidates=3)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spec"),
    in_turn(
        ("llava", "gemma3", "mllama"),
        (EAGER_TO_GO_BACK, "opera(threshold=1, scale_factor=20, compat_fp16=True)", "opera"),
    ),
)
def test_a_batch_finds_what_its_prompts_find_alone(name, spec):
    adapter = ours(name)
    settings = {"num_beams": 2, "max_new_tokens": 16, "num_return_sequences": 2, "repetition_penalty": 0.5}
    together = said(adapter, adapter.inputs(REQUESTS[:2]), spec, **settings)
    assert together == [answer for r in REQUESTS[:2] for answer in said(adapter, adapter.inputs([r]), spec, **settings)]


@pytest.mark.slow
def test_half_precision_makes_other_decisions():
    inputs = ours("llava").inputs(REQUESTS[:1])
    spec = "opera(penalty_weights=1e9, scale_factor=3, compat_fp16={})"
    answers = [said(ours("llava"), inputs, spec.format(half), max_new_tokens=24)[0] for half in (False, True)]
    assert answers[0][:10] == answers[1][:10]
    assert answers[0] != answers[1]


@pytest.mark.slow
def test_ends_and_least_lengths_are_kept(llava, pictures):
    """The end is a candidate like any other, and a processor may forbid it."""
    config = llava.model.generation_config
    config.eos_token_id = list(range(0, len(llava.processor.tokenizer), 3))
    answer = llava.generate(pictures[0], "What?", "opera", max_new_tokens=12)
    assert answer.stopped_by == "eos"
    config.min_new_tokens = 7
    longer = llava.generate(pictures[0], "What?", "opera", max_new_tokens=12)
    assert len(longer.token_ids) >= 7 > len(answer.token_ids)


@pytest.mark.slow
def test_stop_strings_end_an_answer(llava, pictures):
    whole = llava.generate(pictures[0], "What?", "opera", max_new_tokens=12)
    part = llava.generate(pictures[0], "What?", "opera", max_new_tokens=12, stop_strings=[whole.tokens[2]])
    assert len(part.token_ids) < len(whole.token_ids)


@pytest.mark.slow
def test_it_has_five_beams_of_its_own(llava, pictures):
    answers = [llava.generate(pictures[0], "What?", "opera", max_new_tokens=6, **n) for n in ({}, {"num_beams": 5})]
    assert answers[0].token_ids == answers[1].token_ids
    assert answers[0].settings["num_beams"] == 5
    several = llava.generate(pictures[0], "What?", "opera", max_new_tokens=6, num_return_sequences=5)
    assert len(several.others) == 4
    with pytest.raises(OptionError, match=r"num_return_sequences must be at most num_beams \(5\)"):
        llava.generate(pictures[0], "What?", "opera", num_return_sequences=6)


def test_it_draws_nothing(llava, pictures):
    with pytest.raises(OptionError, match="do_sample must be False with a search of 5 beams"):
        llava.generate(pictures[0], "What?", "opera", do_sample=True)
    with pytest.raises(OptionError, match="do_sample must be False with a strategy that searches"):
        llava.generate(pictures[0], "What?", "opera", do_sample=True, num_beams=1)


@pytest.mark.slow
def test_custom_generate_searches_too(processor, pictures):
    own = make_random_llava(processor)
    lvlm = LVLM(make_random_llava(processor), processor, "random")
    inputs = lvlm.adapter.inputs([Request("What?", (picture,)) for picture in pictures[:2]])
    for beams in (None, 2):
        loop = mmhall.custom_generate(EAGER_TO_GO_BACK, num_beams=beams, processor=processor)
        rows = own.generate(**inputs, max_new_tokens=14, do_sample=False, custom_generate=loop)
        given = {} if beams is None else {"num_beams": beams}
        pairs = [(picture, "What?") for picture in pictures[:2]]
        wanted = lvlm.generate_batch(pairs, EAGER_TO_GO_BACK, max_new_tokens=14, **given)
        found = rows[:, inputs["input_ids"].shape[1] :].tolist()
        assert [tuple(row)[: len(answer.token_ids)] for row, answer in zip(found, wanted, strict=True)] == [
            answer.token_ids for answer in wanted
        ]
    with pytest.raises(OptionError, match="do_sample must be False"):
        own.generate(**inputs, max_new_tokens=4, do_sample=True, custom_generate=mmhall.custom_generate("opera"))


class Heard(BaseStreamer):
    """Keeps what arrives, piece by piece."""

    def __init__(self):
        self.pieces = []

    def put(self, value):
        self.pieces.append(value.tolist())

    def end(self):
        self.pieces.append("end")


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["opera", EAGER_TO_GO_BACK, "opera(threshold=9)", NEUTRAL])
def test_what_is_streamed_is_never_taken_back(spec):
    adapter, counts = ours("llava"), []
    for request in REQUESTS[:2]:
        inputs, heard = adapter.inputs([request]), Heard()
        config = Settings(max_new_tokens=20, num_beams=3).resolved(adapter.generator)
        with torch.inference_mode():
            session = mmhall.strategy(spec).prepare(adapter, inputs)
            rows = decode(adapter, inputs, session, config, streamer=heard)
        assert heard.pieces.pop() == "end"
        assert [token for piece in heard.pieces for token in piece] == rows[0].tolist()
        counts.append(len(heard.pieces))
    assert max(counts) > 1, "everything came at the end"


def test_without_a_picture_only_stripes_count(llava):
    """Ten tokens long no stripe is punished: each beam's best tokens compete by themselves."""
    plain = llava.generate(None, "What?", "opera(penalty_weights=0)", max_new_tokens=10)
    assert llava.generate(None, "What?", "opera(penalty_weights=50)", max_new_tokens=10).token_ids == plain.token_ids


def test_recurrent_models_are_refused():
    adapter = ours("qwen3_5")
    with pytest.raises(CompositionError, match=r"opera: qwen3_5 cannot carry it: .*recurrent"):
        Opera().fitted(adapter)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_attn_candidates", 0),
        ("num_attn_candidates", 2.5),
        ("penalty_weights", -1.0),
        ("penalty_weights", math.nan),
        ("scale_factor", 0.0),
        ("scale_factor", math.inf),
        ("threshold", 0),
        ("window", 0),
        ("compat_fp16", 1),
    ],
)
def test_impossible_options_are_refused_when_built(option, value):
    with pytest.raises(OptionError, match=f"opera: {option} must be"):
        mmhall.strategy("opera", **{option: value})


def test_what_is_ruled_out_stays_out_where_a_contrast_leaves_nothing_else():
    """Of two beams, one has the ruled-out token alone; it falls behind, and its token by as much."""
    logits = torch.tensor([[2.0, -torch.inf, -torch.inf], [1.0, 1.0, -torch.inf]])
    told = rule_out(logits, torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert told[0].tolist() == [-999.0, -torch.inf, -torch.inf]
    assert told[1].tolist() == [-999.0, 0.0, -torch.inf]


@pytest.mark.slow
@pytest.mark.parametrize("contrast", ["vcd(beta=0.02, draw='seed')", "vdd(beta=0.5)"])
def test_contrasts_never_bring_back_what_was_ruled_out(contrast):
    """Every location agrees, so the search goes back again and again, under a cut that leaves few tokens."""
    adapter, options = ours("llava"), Opera(num_attn_candidates=3, threshold=1, scale_factor=20.0)
    inputs, seen = adapter.inputs(REQUESTS[:1]), []
    session = mmhall.strategy(contrast).fitted(adapter).prepare(adapter, inputs)

    class Told(Retrospection):
        def _roll_back(self, kept):
            told = yield from super()._roll_back(kept)
            seen.extend(float(told[row, token]) for row, token in self.out[kept])
            return told

    found = searched(adapter, inputs, options, 3, 24, session=session, kind=Told)
    assert found.tries
    assert max(seen) <= -900
