"""Beam search: transformers' own where it has one, a naive search where it has none."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

import mmhall
from mmhall.generation._settings import Settings
from mmhall.strategies import Session
from tests.generation.reference import (
    FAMILIES,
    LENGTH,
    QUIET,
    REQUESTS,
    cut,
    generated,
    in_turn,
    ours,
    said,
    searched,
    theirs,
)
from tests.jobs import run

pytestmark = QUIET

KINDS = tuple(itertools.product((2, 4), (1.0, 0.0, 2.0, -1.0), (False, True, "never")))
MIXED = ("llava", "gemma3", "qwen3_5", "instructblip", "mllama", "llama4")
"""Full, sliding and linear layers, embeddings instead of a prompt, layers across, chunks."""


@pytest.fixture
def early(monkeypatch):
    """Set `early_stopping` where it comes from: the model's own generation config."""

    def set_early(name, value):
        monkeypatch.setattr(ours(name).generator.generation_config, "early_stopping", value)

    return set_early


def wanted(name, inputs, kind, **more):
    beams, penalty, stopping = kind
    return generated(
        name,
        inputs,
        max_new_tokens=LENGTH,
        num_beams=beams,
        length_penalty=penalty,
        early_stopping=stopping,
        **more,
    )


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_5", "gemma3", "instructblip", "mllama"])
def test_beams_are_transformers_own(name, early):
    """Each family takes its turn through the kinds of search, with answers that end early and late."""
    first = 5 * FAMILIES.index(name)
    for number, request in enumerate(REQUESTS[:2]):
        kind = KINDS[(first + 7 * number) % len(KINDS)]
        early(name, kind[2])
        inputs = ours(name).inputs([request])
        assert said(ours(name), inputs, num_beams=kind[0], length_penalty=kind[1]) == wanted(name, inputs, kind)


@pytest.fixture
def sure(monkeypatch):
    """LLaVA, sure of what it says, with many ends: late answers may still beat early ones."""
    stop, models = tuple(range(0, 200, 8)), (ours("llava").model, theirs("llava"))
    monkeypatch.setattr("tests.generation.reference.ends", lambda name: stop)
    monkeypatch.setattr(models[0].generation_config, "eos_token_id", list(stop))
    heads = [model.get_output_embeddings() for model in models]
    hooks = [head.register_forward_hook(lambda module, args, out: 4 * out) for head in heads]
    yield "llava"
    for hook in hooks:
        hook.remove()


@pytest.mark.slow
def test_every_kind_of_search_is_transformers_own(sure, early):
    answers = {}
    for kind, (number, request) in itertools.product(KINDS, enumerate(REQUESTS[:2])):
        early(sure, kind[2])
        inputs, several = ours(sure).inputs([request]), {"num_return_sequences": kind[0]}
        found = said(ours(sure), inputs, num_beams=kind[0], length_penalty=kind[1], **several)
        assert found == wanted(sure, inputs, kind, **several)
        answers[(*kind, number)] = found
    for axis, values in ((1, (1.0, 0.0, 2.0, -1.0)), (2, (False, True, "never"))):
        usual = {key: found for key, found in answers.items() if key[axis] is values[0]}
        for value in values[1:]:
            changed = [found != answers[(*key[:axis], value, *key[axis + 1 :])] for key, found in usual.items()]
            assert any(changed), f"no answer tells {value} from {values[0]}"


@pytest.mark.parametrize(("name", "way"), in_turn(FAMILIES, (("greedy", 3), ("vdd", 2))))
def test_a_batch_finds_what_its_prompts_find_alone(name, way):
    adapter, (spec, beams) = ours(name), way
    together = said(adapter, adapter.inputs(REQUESTS[:3]), spec, num_beams=beams, max_new_tokens=4)
    alone = [said(adapter, adapter.inputs([r]), spec, num_beams=beams, max_new_tokens=4) for r in REQUESTS[:3]]
    assert [[answer] for answer in together] == alone


@pytest.mark.slow
def test_prompts_that_end_at_different_steps_do_not_disturb_each_other(early):
    """The search of a batch goes on until the last prompt is done; what the others hold stays."""
    name = "qwen2_5_vl"
    adapter = ours(name)
    for stopping, penalty in ((True, 0.0), (False, 2.0), ("never", 0.0)):
        early(name, stopping)
        settings = {"num_beams": 4, "length_penalty": penalty, "num_return_sequences": 3}
        together = said(adapter, adapter.inputs(REQUESTS), **settings)
        alone = [answer for request in REQUESTS for answer in said(adapter, adapter.inputs([request]), **settings)]
        assert together == alone


@pytest.mark.parametrize("name", FAMILIES)
def test_beams_with_contrast_find_what_a_naive_search_finds(name, early, monkeypatch):
    monkeypatch.setattr("tests.generation.reference.LENGTH", 5)
    early(name, "never")
    adapter = ours(name)
    inputs, method = adapter.inputs(REQUESTS[:1]), mmhall.strategy("vdd(beta=0.02)")
    naive = searched(adapter, inputs, method.fitted(adapter).prepare(adapter, inputs), 2)
    assert said(adapter, inputs, method, max_new_tokens=5, num_beams=2, num_return_sequences=2) == naive[:2]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "penalty"), in_turn(("llava", "gemma3", "instructblip", "mllama"), (1.0, 2.0)))
def test_a_repetition_penalty_acts_on_contrasted_beams(name, penalty, early, monkeypatch):
    monkeypatch.setattr("tests.generation.reference.LENGTH", 6)
    early(name, "never")
    adapter = ours(name)
    inputs, method = adapter.inputs(REQUESTS[2:3]), mmhall.strategy("vcd(alpha=0.5)")
    edit = RepetitionPenaltyLogitsProcessor(0.2)

    def penalised(answer, scores):
        read = torch.cat([inputs["input_ids"], torch.tensor([answer], dtype=torch.long)], dim=1)
        return edit(read, scores[None])[0]

    naive = searched(
        adapter, inputs, method.fitted(adapter).prepare(adapter, inputs), 2, length_penalty=penalty, edit=penalised
    )
    settings = {"num_beams": 2, "length_penalty": penalty}
    found = said(adapter, inputs, method, repetition_penalty=0.2, **settings)
    assert found == naive[:1]
    assert found != said(adapter, inputs, method, **settings)


@pytest.mark.parametrize(
    ("name", "spec"),
    in_turn(("llava", "instructblip", "mllama"), ("vdd(alpha=0, beta=1e-12)", "vdd(alpha=1e-9, beta=0)")),
)
def test_a_repetition_penalty_means_the_same_where_contrast_has_no_strength(name, spec):
    adapter = ours(name)
    inputs, settings = adapter.inputs(REQUESTS[:1]), {"num_beams": 3, "repetition_penalty": 0.2}
    plain = said(adapter, inputs, **settings)
    assert said(adapter, inputs, spec, **settings) == plain
    assert said(adapter, inputs, num_beams=3) != plain


@pytest.mark.parametrize(("name", "spec"), in_turn(("llava", "gemma3", "instructblip", "mllama"), ("greedy", "vdd")))
def test_a_repetition_penalty_in_an_uneven_batch_is_what_it_is_alone(name, spec):
    adapter, settings = ours(name), {"num_beams": 3, "repetition_penalty": 0.2, "max_new_tokens": 5}
    together = said(adapter, adapter.inputs(REQUESTS[1:3]), spec, **settings)
    alone = [said(adapter, adapter.inputs([request]), spec, **settings) for request in REQUESTS[1:3]]
    assert [[answer] for answer in together] == alone


@pytest.mark.parametrize("name", ["llava", "instructblip", "mllama"])
def test_a_repetition_penalty_under_beams_is_transformers_own(name):
    inputs = ours(name).inputs(REQUESTS[:1])
    assert said(ours(name), inputs, num_beams=3, repetition_penalty=0.2) == generated(
        name, inputs, num_beams=3, max_new_tokens=LENGTH, repetition_penalty=0.2
    )


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [1.0, -1.0])
def test_llama4_is_searched_where_transformers_cannot(penalty, early):
    """The newest transformers repeats its prompt for each beam, but not the pictures."""
    name = "llama4"
    early(name, "never")
    for request in REQUESTS[:2]:
        inputs = ours(name).inputs([request])
        naive = searched(ours(name), inputs, Session(), 2, length_penalty=penalty)
        found = said(ours(name), inputs, num_beams=2, num_return_sequences=2, length_penalty=penalty)
        assert found == naive[:2]


@pytest.mark.parametrize("name", ["llava", "qwen3_5", "mllama"])
def test_several_answers_come_best_first(name, early):
    early(name, False)
    kind = (4, 1.0, False)
    for request in REQUESTS[:2]:
        inputs = ours(name).inputs([request])
        answers = said(ours(name), inputs, num_beams=4, num_return_sequences=4)
        assert answers == wanted(name, inputs, kind, num_return_sequences=4)
        assert len(set(answers)) == 4
        assert said(ours(name), inputs, num_beams=4, num_return_sequences=2) == answers[:2]


@pytest.mark.parametrize(("stopping", "beams"), [(False, 2), (True, 4)])
def test_what_a_strategy_rules_out_never_becomes_an_answer(stopping, beams, monkeypatch):
    """One token is left at each step; every other, ruled out, would end the answer."""
    adapter = ours("llava")
    config = adapter.generator.generation_config
    inputs, only = adapter.inputs(REQUESTS[:1]), "vdd(beta=1)"
    monkeypatch.setattr(config, "eos_token_id", [2])
    possible = said(adapter, inputs, only)
    vocabulary = adapter.model.get_output_embeddings().out_features
    monkeypatch.setattr(config, "eos_token_id", [token for token in range(vocabulary) if token not in possible[0]])
    monkeypatch.setattr(config, "early_stopping", stopping)
    assert said(adapter, inputs, only) == possible
    assert said(adapter, inputs, only, num_beams=beams) == possible


@pytest.mark.slow
@pytest.mark.parametrize("stopping", [False, True, "never"])
def test_as_many_answers_are_found_as_asked_for(stopping, monkeypatch):
    """Also where a strategy leaves fewer that are possible."""
    adapter = ours("llava")
    monkeypatch.setattr(adapter.generator.generation_config, "early_stopping", stopping)
    inputs, only = adapter.inputs(REQUESTS[:3]), "vdd(beta=1)"
    found = said(adapter, inputs, only, num_beams=3, num_return_sequences=3)
    assert len(found) == 9
    assert found[::3] == said(adapter, inputs, only)


@pytest.mark.slow
def test_one_end_or_none_is_as_good_as_several(monkeypatch):
    """The number of ends decides how many candidates a step looks at."""
    name = "qwen3_vl"
    config = ours(name).generator.generation_config
    inputs = ours(name).inputs(REQUESTS[:1])
    for end in (*config.eos_token_id, None):
        monkeypatch.setattr(config, "eos_token_id", end)
        monkeypatch.setattr("tests.generation.reference.ends", lambda _, end=end: () if end is None else (end,))
        settings = Settings(max_new_tokens=LENGTH, num_beams=4, num_return_sequences=4).resolved(ours(name).generator)
        rows = run(ours(name), inputs, mmhall.strategy("greedy"), settings, 0).tolist()
        stop = () if end is None else (end,)
        assert [cut(row, stop) for row in rows] == generated(
            name, inputs, max_new_tokens=LENGTH, num_beams=4, num_return_sequences=4
        )


@pytest.mark.parametrize("name", ["llava", "qwen3_5", "instructblip", "mllama"])
def test_a_prompt_is_read_once_not_once_a_beam(name):
    adapter, passes = ours(name), []
    hook = adapter.layers[0].register_forward_hook(lambda _, args, out: passes.append(args[0].shape[:2]))
    try:
        said(adapter, adapter.inputs(REQUESTS[:2]), num_beams=4, max_new_tokens=3)
    finally:
        hook.remove()
    (rows, length), *steps = passes
    assert rows == 2
    assert length > 1
    assert steps == [(8, 1)] * len(steps)
    assert steps
