"""The length rule of transformers 4.29: against a slow search of that kind, and wherever it can be asked for."""

from __future__ import annotations

import itertools

import pytest
import torch

import mmhall
from mmhall.errors import OptionError
from mmhall.generation._hypotheses import Stopping, WholePool
from mmhall.generation._settings import Settings
from mmhall.lvlm import LVLM
from mmhall.strategies import Session
from tests.conftest import make_random_llava
from tests.generation.official import Official, Search
from tests.generation.reference import QUIET, REQUESTS, cut
from tests.jobs import run

pytestmark = QUIET

SEEDS = range(6)
LENGTH, BEAMS = 7, 3
OFFICIAL = "beam(length_rule='official')"


def drowsy(processor, seed):
    """A random LLaVA that is never sure of what it says, ends early and late, and says no special token but the end."""
    model = make_random_llava(processor, seed=seed)
    end = 50 + seed
    silent = torch.tensor(list(processor.tokenizer.added_tokens_decoder))

    def tire(module, args, out):
        out = 2 * out.index_fill(-1, silent, -1e4)
        out[..., end] = out.amax(dim=-1) - 0.07 - 0.2 * (seed % 6)
        return out

    model.lm_head.register_forward_hook(tire)
    model.generation_config.eos_token_id = end
    return LVLM(model, processor, "random")


def wanted(lvlm, request, length=LENGTH, early=False, penalty=1.0, session=None):
    inputs = lvlm.adapter.inputs([request])
    image = int((inputs["input_ids"] == lvlm.adapter.image_token_id).sum())
    prompt = inputs["input_ids"].shape[1] - image + 1
    end = lvlm.model.generation_config.eos_token_id
    ends = (end,) if isinstance(end, int) else tuple(end)
    rule = Official(BEAMS, prompt, length, ends, early, penalty)
    return Search(lvlm.adapter, inputs, rule, session or Session()).run()


def found(lvlm, requests, spec=OFFICIAL, sequences=BEAMS, penalty=1.0, length=LENGTH):
    settings = Settings(
        max_new_tokens=length, num_beams=BEAMS, num_return_sequences=sequences, length_penalty=penalty
    ).resolved(lvlm.adapter.generator)
    rows = run(lvlm.adapter, lvlm.adapter.inputs(requests), mmhall.strategy(spec), settings, 0).tolist()
    end = lvlm.model.generation_config.eos_token_id
    return [cut(row, (end,) if isinstance(end, int) else end) for row in rows]


@pytest.mark.slow
def test_answers_are_those_of_the_search_of_that_time(processor):
    """Token for token, all of them, over random models; today's rule finds others for many."""
    others = 0
    for seed in SEEDS:
        lvlm, request = drowsy(processor, seed), REQUESTS[seed % 3]
        answers = found(lvlm, [request])
        assert answers == wanted(lvlm, request), seed
        others += found(lvlm, [request], "beam") != answers
        lvlm.close()
    assert others


@pytest.mark.slow
def test_other_kinds_of_search_are_those_of_that_time(processor):
    """Prolonging and shortening, however it stops."""
    for turn, (early, penalty) in enumerate(itertools.product((False, True, "never"), (0.0, 2.0))):
        lvlm = drowsy(processor, (1, 6)[turn % 2])
        lvlm.model.generation_config.early_stopping = early
        answers = found(lvlm, REQUESTS[:1], penalty=penalty)
        assert answers == wanted(lvlm, REQUESTS[0], early=early, penalty=penalty), (early, penalty)
        lvlm.close()


def test_a_batch_finds_what_its_prompts_find_alone(processor):
    lvlm = drowsy(processor, 3)
    together = found(lvlm, REQUESTS[:3])
    assert together == [answer for request in REQUESTS[:3] for answer in found(lvlm, [request])]
    assert together == [answer for request in REQUESTS[:3] for answer in wanted(lvlm, request)]
    lvlm.close()


@pytest.mark.slow
def test_a_contrast_joins_the_search(processor):
    lvlm = drowsy(processor, 2)
    method = mmhall.strategy("vdd(beta=0.001)").fitted(lvlm.adapter)
    session = method.prepare(lvlm.adapter, lvlm.adapter.inputs(REQUESTS[:1]))
    spec = f"{OFFICIAL}+vdd(beta=0.001)"
    assert found(lvlm, REQUESTS[:1], spec) == wanted(lvlm, REQUESTS[0], session=session)
    lvlm.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beam", "opera"])
def test_it_is_asked_for_and_recorded_everywhere(processor, name):
    lvlm = drowsy(processor, 4)
    request, settings = (REQUESTS[0].images[0], REQUESTS[0].prompt), {"max_new_tokens": LENGTH}
    spec = f"{name}(length_rule='official')"
    answer = lvlm.generate(*request, mmhall.strategy(name, length_rule="official"), **settings)
    assert answer.strategy == spec
    assert lvlm.generate(*request, spec, **settings).token_ids == answer.token_ids
    inputs = lvlm.adapter.inputs(REQUESTS[:1])
    loop = mmhall.custom_generate(name, num_beams=5, length_rule="official")
    row = lvlm.model.generate(**inputs, custom_generate=loop, **settings)[0, inputs["input_ids"].shape[1] :]
    assert cut(row.tolist(), (lvlm.model.generation_config.eos_token_id,))[: len(answer.token_ids)] == answer.token_ids
    lvlm.close()


def test_an_unknown_rule_is_refused():
    with pytest.raises(OptionError, match='beam: length_rule must be "answer" or "official", got \'prompt\''):
        mmhall.strategy("beam(length_rule='prompt')")


def pool(early=False, size=2):
    return WholePool(size, Stopping(early, 1.0, 8), 6)


def take(held, values, ended=None, marked=None):
    """Offer answers of two tokens; they are told apart by their index."""
    answers = torch.arange(len(values))[:, None].expand(-1, 2)
    none = [False] * len(values)
    told = torch.tensor(values), torch.tensor(ended or marked or none), torch.tensor(marked or none)
    held.take(answers, *told, torch.tensor(values[0]))


def test_the_end_mark_does_not_count_and_the_prompt_does():
    """6 prompt tokens and one before the mark: -3.5 / 7 = -0.5; an answer cut there has both its tokens: -4 / 8."""
    held = pool()
    take(held, [-3.5, -4.0, -5.0], ended=[True] * 3, marked=[True, False, False])
    assert [(score, int(answer[0])) for score, answer in held.scored()] == [(-0.5, 1), (-0.5, 0)]


def test_a_search_goes_on_for_its_best_candidate_even_one_that_has_ended():
    """-7 / 7 and -7.7 / 7 are held; the ended one promises -7 / 8, those that go on only -9 / 8."""
    held = pool()
    take(held, [-7.0, -7.7, -9.0, -9.0], marked=[True, True, False, False])
    assert held.open
    take(held, [-8.9, -9.0, -9.0, -9.0])
    assert not held.open


def test_of_equal_answers_the_later_stands_first_and_a_full_pool_takes_none():
    held = pool()
    take(held, [-7.0, -7.0, -9.0, -9.0], marked=[True, True, False, False])
    assert [int(answer[0]) for _, answer in held.scored()] == [1, 0]
    take(held, [-7.0, -7.0, -7.0], marked=[True, False, False])
    assert [int(answer[0]) for _, answer in held.scored()] == [1, 0]
