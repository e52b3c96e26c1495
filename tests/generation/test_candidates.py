"""Drawing tokens, several answers to a prompt, stop strings, and scores no token can be chosen from."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import pytest
import torch

import mmhall
from mmhall.errors import GenerationError, OptionError
from mmhall.generation._settings import Settings
from mmhall.strategies import Session
from tests.generation.reference import (
    FAMILIES,
    LENGTH,
    QUIET,
    REQUESTS,
    anew,
    cut,
    ends,
    generated,
    in_turn,
    ours,
    said,
    separately,
)

pytestmark = QUIET

MIXED = ("llava", "gemma3", "qwen3_5", "instructblip", "mllama", "llama4")
WAYS = {"greedy": ("greedy", {}), "contrast": ("vdd", {}), "beams": ("greedy", {"num_beams": 2})}


def drawing(seed):
    """Draw as `torch.multinomial` does with a generator of its own."""
    random = torch.Generator().manual_seed(seed)
    return lambda scores: torch.multinomial(scores.softmax(dim=-1), 1, generator=random)


@pytest.mark.parametrize(("name", "spec"), in_turn(MIXED, ("vcd(beta=0.01)", "vdd(beta=0.01, free='none+unk')")))
def test_a_draw_is_made_once_for_a_row_and_its_branches(name, spec, monkeypatch):
    monkeypatch.setattr("tests.generation.reference.LENGTH", 5)
    adapter, method = ours(name), mmhall.strategy(spec)
    inputs = adapter.inputs(REQUESTS[:1])
    wanted = separately(adapter, inputs, method.fitted(adapter).prepare(adapter, inputs), drawing(7))
    drawn = [said(adapter, inputs, method, max_new_tokens=5, do_sample=True, seed=seed) for seed in (7, 8)]
    assert drawn[0] == [wanted] != drawn[1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spec"), in_turn(("llava", "mllama"), ("vdd(beta=0.01)", "greedy")))
def test_several_draws_of_a_prompt_follow_each_other(name, spec):
    """Step by step, each of a prompt's rows draws from the prompt's own generator, the first row first."""
    adapter, method = ours(name), mmhall.strategy(spec)
    drawing_ = {"max_new_tokens": 5, "do_sample": True, "seed": 5, "num_return_sequences": 3}
    together = said(adapter, adapter.inputs(REQUESTS[:2]), method, **drawing_)
    wanted = []
    for request in REQUESTS[:2]:
        inputs = adapter.inputs([request])
        session, draw, answers = method.fitted(adapter).prepare(adapter, inputs), drawing(5), [[] for _ in range(3)]
        for _, answer in itertools.product(range(5), answers):
            token = int(draw(anew(adapter, session, inputs, answer)))
            answer.append(token)
        wanted += [cut(answer, ends(name)) for answer in answers]
    assert together == wanted
    assert len(set(together)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"num_beams": 3}, {"do_sample": True, "temperature": 0.7}], ids=str)
@pytest.mark.parametrize("spec", ["greedy", "vcd"])
def test_a_repetition_penalty_reads_each_of_several_answers(settings, spec):
    """Of prompts of uneven length: their padding counts for nothing."""
    adapter, settings = ours("llava"), {**settings, "num_return_sequences": 2, "repetition_penalty": 0.2}
    together = said(adapter, adapter.inputs(REQUESTS[:2]), spec, **settings)
    alone = [answer for r in REQUESTS[:2] for answer in said(adapter, adapter.inputs([r]), spec, **settings)]
    assert together == alone


def test_draws_leave_the_global_generator_alone():
    adapter = ours("llava")
    state = torch.random.get_rng_state()
    said(adapter, adapter.inputs(REQUESTS[:1]), do_sample=True)
    assert torch.equal(torch.random.get_rng_state(), state)


@contextmanager
def logits_of(adapter, change):
    head = adapter.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, out: change(out))
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize(("name", "way"), in_turn(FAMILIES, tuple(WAYS)))
def test_nan_is_an_error_not_token_zero(name, way):
    adapter, (spec, settings) = ours(name), WAYS[way]
    with (
        logits_of(adapter, lambda out: out * torch.nan),
        pytest.raises(GenerationError, match=r"scores hold NaN; try another dtype"),
    ):
        said(adapter, adapter.inputs(REQUESTS[:1]), spec, **settings)


@pytest.mark.parametrize("way", WAYS)
def test_a_single_row_of_nan_in_a_later_step_is_an_error(way):
    adapter, (spec, settings) = ours("llava"), WAYS[way]
    passes = []

    def late(out):
        passes.append(len(out))
        if len(passes) > 4:
            out[0, -1, 7] = torch.nan
        return out

    with logits_of(adapter, late), pytest.raises(GenerationError, match="scores hold NaN"):
        said(adapter, adapter.inputs(REQUESTS[1:3]), spec, **settings)
    assert len(passes) == 5


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_the_prompt_and_the_step_are_named(settings):
    """The second prompt's scores are no numbers from its third token on."""
    adapter, passes = ours("llava"), []

    def late(out):
        passes.append(out)
        return out if len(passes) < 3 else torch.cat([out[: len(out) // 2], out[len(out) // 2 :] * torch.nan])

    with logits_of(adapter, late), pytest.raises(GenerationError, match=r"^greedy: prompt 2 of 2, step 2: the next-"):
        said(adapter, adapter.inputs(REQUESTS[1:3]), **settings)


def test_nan_in_a_branch_alone_is_an_error():
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[1:3])

    def spoilt(out):
        if len(out) > 2:
            out[-1] = torch.nan
        return out

    for settings in ({}, {"num_beams": 2}, {"do_sample": True}):
        with logits_of(adapter, spoilt), pytest.raises(GenerationError, match="scores hold NaN"):
            said(adapter, inputs, "vdd", **settings)


@pytest.mark.parametrize("way", WAYS)
def test_logits_of_nothing_but_minus_infinity_are_an_error(way):
    adapter, (spec, settings) = ours("llava"), WAYS[way]
    with (
        logits_of(adapter, lambda out: torch.full_like(out, -torch.inf)),
        pytest.raises(GenerationError, match=r"scores hold (NaN|nothing above -inf)"),
    ):
        said(adapter, adapter.inputs(REQUESTS[:1]), spec, **settings)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_a_strategy_that_rules_everything_out_is_an_error(settings, monkeypatch):
    method = mmhall.strategy("greedy")
    nothing = Session(combine=lambda step: torch.full_like(step.main, -torch.inf))
    monkeypatch.setattr(type(method), "prepare", lambda *_: nothing)
    adapter = ours("llava")
    with pytest.raises(GenerationError, match=r"scores hold (NaN|nothing above -inf)"):
        said(adapter, adapter.inputs(REQUESTS[:1]), method, **settings)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_a_strategy_that_leaves_only_what_the_settings_rule_out_is_an_error(settings, monkeypatch):
    adapter = ours("llava")
    inputs, only = adapter.inputs(REQUESTS[:1]), "vdd(beta=1)"
    ((first, *_),) = said(adapter, inputs, only)
    monkeypatch.setattr(adapter.generator.generation_config, "suppress_tokens", [first])
    with pytest.raises(GenerationError, match="scores hold nothing above -inf"):
        said(adapter, inputs, only, **settings)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_single_tokens_may_be_ruled_out(settings):
    """A model may put -inf on tokens it never says, such as placeholders."""
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    plain = said(adapter, inputs, "vdd", **settings)

    def ruled_out(out):
        out[..., :3] = -torch.inf
        return out

    with logits_of(adapter, ruled_out):
        assert said(adapter, inputs, "vdd", **settings) == plain


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 0}], ids=str)
def test_a_stop_string_ends_an_answer(settings):
    adapter, tokenizer, stopped = ours("llava"), ours("llava").tokenizer, 0
    for request in REQUESTS[1:]:
        inputs = adapter.inputs([request])
        whole = said(adapter, inputs, **settings)[0]
        for token in whole[:-1]:
            stop = tokenizer.decode([token])
            if stop.isascii() and stop.isprintable() and stop.strip():
                torch.manual_seed(0)
                options = {"max_new_tokens": LENGTH, "stop_strings": [stop], "tokenizer": tokenizer, **settings}
                answer = said(adapter, inputs, stop_strings=(stop,), **settings)
                assert answer == generated("llava", inputs, **options)
                stopped += answer[0] == whole[: whole.index(token) + 1]
    assert stopped


def test_stop_strings_of_a_batch_end_each_answer_by_itself():
    adapter = ours("llava")
    stops = tuple("abcdefghijklmnopqrstuvwxyz")
    together = said(adapter, adapter.inputs(REQUESTS), stop_strings=stops)
    assert [[answer] for answer in together] == [
        said(adapter, adapter.inputs([request]), stop_strings=stops) for request in REQUESTS
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_sample": True, "num_beams": 2}, "do_sample must be False with a search of 2 beams, got True"),
        ({"num_return_sequences": 2, "num_beams": 1}, r"at most num_beams \(1\) unless do_sample=True, got 2"),
        ({"num_return_sequences": 4, "num_beams": 3}, r"at most num_beams \(3\) unless do_sample=True, got 4"),
        ({"num_return_sequences": 0}, "num_return_sequences must be an integer >= 1"),
        ({"length_penalty": "long"}, "length_penalty must be a number"),
        ({"length_penalty": float("nan")}, "length_penalty must be a number"),
        ({"length_penalty": float("inf")}, "length_penalty must be a number"),
        ({"stop_strings": "end"}, "stop_strings must be a tuple of non-empty strings, got 'end'"),
        ({"stop_strings": ("",)}, "stop_strings must be a tuple of non-empty strings"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(OptionError, match=message):
        Settings(**settings)


def test_settings_become_a_generation_config():
    model = ours("llava").model
    config = Settings(num_beams=3, length_penalty=0.5, num_return_sequences=2, stop_strings=("a", "b")).resolved(model)
    assert (config.num_beams, config.length_penalty, config.num_return_sequences) == (3, 0.5, 2)
    assert config.stop_strings == ["a", "b"]
    assert Settings().resolved(model).stop_strings is None


def test_who_names_no_beams_gets_the_strategys_own():
    model = ours("llava").model
    assert [Settings().resolved(model, beams).num_beams for beams in (1, 5)] == [1, 5]
    assert Settings(num_beams=2).resolved(model, 5).num_beams == 2
    with pytest.raises(OptionError, match="do_sample must be False with a search of 5 beams"):
        Settings(do_sample=True).resolved(model, 5)
    assert Settings(num_return_sequences=5).resolved(model, 5).num_return_sequences == 5
    for settings, beams in ((Settings(num_return_sequences=2), 1), (Settings(num_return_sequences=6), 5)):
        with pytest.raises(OptionError, match=rf"at most num_beams \({beams}\) unless do_sample=True"):
            settings.resolved(model, beams)
