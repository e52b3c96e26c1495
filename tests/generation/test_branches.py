"""Stacked branches against a reference that decodes every branch by itself, with no cache at all."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters.base import Request
from mmhall.errors import GenerationError
from mmhall.generation.branches import join, prefill, prepared_by_generate, step
from mmhall.generation.settings import Settings

QUESTIONS = ("Is there a dog?", "Please describe this image in detail. What is on the left?")
LENGTH = 10
SPECS = ("vcd", "vcd(alpha=2.5, beta=0.3, noise_step=900)", "vdd", "vdd(free='none+unk')", "vdd(free='unk', alpha=0.4)")


def separately(llava, inputs, session, choose=lambda scores: scores.argmax(-1)):
    """Decode one step at a time, reading each branch's whole sequence anew."""
    branches = [dict(b) for b in (inputs, *session.branches)]
    chosen = []
    for _ in range(LENGTH):
        rows = []
        for branch in branches:
            with torch.no_grad():
                rows.append(llava.model(**branch).logits[:, -1].float().log_softmax(-1))
        token = choose(session.combine(*rows))
        chosen.append(token)
        for branch in branches:
            branch["input_ids"] = torch.cat([branch["input_ids"], token[:, None]], 1)
            branch["attention_mask"] = torch.nn.functional.pad(branch["attention_mask"], (0, 1), value=1)
    return torch.stack(chosen, 1)


@pytest.mark.parametrize("spec", SPECS)
def test_stacked_equals_separate(llava, pictures, spec):
    method = mmhall.strategy(spec)
    for index in range(2):
        inputs = llava.adapter.inputs([Request(QUESTIONS[index], pictures[index])])
        wanted = separately(llava, inputs, method.prepare(llava.adapter, inputs))[0].tolist()
        got = list(llava.generate(pictures[index], QUESTIONS[index], method, max_new_tokens=LENGTH).token_ids)
        assert got == wanted[: len(got)]
        assert len(got) == LENGTH or wanted[len(got)] == llava.adapter.tokenizer.eos_token_id


def beam_search(llava, inputs, session, beams):
    """Search naively: every step scores every beam's whole sequence in every branch; no early stop by score."""
    eos = llava.adapter.tokenizer.eos_token_id
    live, ended = [((), 0.0)], []
    for _ in range(LENGTH):
        grown = []
        for tokens, score in live:
            rows = []
            for branch in (inputs, *session.branches):
                ids = torch.cat([branch["input_ids"], torch.tensor([tokens], dtype=torch.long)], 1)
                mask = torch.ones_like(ids)
                with torch.no_grad():
                    rows.append(
                        llava.model(**{**branch, "input_ids": ids, "attention_mask": mask})
                        .logits[:, -1]
                        .log_softmax(-1)
                    )
            combined = session.combine(*rows).log_softmax(-1)[0]
            best = combined.topk(2 * beams)
            grown += [
                ((*tokens, t), score + s) for s, t in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        grown.sort(key=lambda pair: -pair[1])
        ended += [pair for pair in grown[:beams] if pair[0][-1] == eos]
        live = [pair for pair in grown[: 2 * beams] if pair[0][-1] != eos][:beams]
    scored = [(score / len(tokens), tokens) for tokens, score in (*ended, *live)]
    return [t for t in max(scored)[1] if t != eos]


@pytest.mark.parametrize("spec", ["vcd(beta=0)", "vdd(beta=0)", "vcd(beta=0.1)", "vdd(beta=0.5)"])
def test_beams_equal_a_naive_search(llava, pictures, spec):
    method = mmhall.strategy(spec)
    inputs = llava.adapter.inputs([Request(QUESTIONS[0], pictures[0])])
    wanted = beam_search(llava, inputs, method.prepare(llava.adapter, inputs), beams=3)
    got = llava.generate(pictures[0], QUESTIONS[0], method, max_new_tokens=LENGTH, num_beams=3)
    assert list(got.token_ids) == wanted


def test_joined_caches_give_each_rows_own_logits(llava, pictures):
    """Three states of different length, stepped together, equal three states stepped alone."""
    config = Settings(max_new_tokens=4).resolved(llava.model)
    batches = [
        llava.adapter.inputs([Request(q, p)]) for q, p in zip((*QUESTIONS, "What?"), (*pictures[:2], None), strict=True)
    ]
    token = torch.tensor([17, 23, 31])
    with torch.no_grad():
        alone = [prefill(llava.model, *prepared_by_generate(llava.model, b, config)) for b in batches]
        joined = join([prefill(llava.model, *prepared_by_generate(llava.model, b, config)) for b in batches])
        for _ in range(3):
            step(llava.model, joined, token)
            for state, t in zip(alone, token, strict=True):
                step(llava.model, state, t[None])
    torch.testing.assert_close(joined.logits, torch.cat([s.logits for s in alone]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("spec", ["vcd", "vdd(free='none+unk')"])
def test_sampling_draws_once_for_all_rows(llava, pictures, spec):
    """The same draws as a reference that reads every branch anew with the tokens chosen so far."""
    method = mmhall.strategy(spec, beta=0.01)
    inputs = llava.adapter.inputs([Request(QUESTIONS[0], pictures[0])])
    session = method.prepare(llava.adapter, inputs)
    torch.manual_seed(7)
    wanted = separately(llava, inputs, session, lambda scores: torch.multinomial(scores.softmax(-1), 1)[:, 0])
    got = llava.generate(pictures[0], QUESTIONS[0], method, max_new_tokens=LENGTH, do_sample=True, seed=7).token_ids
    assert list(got) == wanted[0].tolist()[: len(got)]
    assert len(set(got)) > 2


def test_nan_logits_are_an_error_not_token_zero(llava, pictures):
    with torch.no_grad():
        llava.model.get_decoder().norm.weight.fill_(float("nan"))
    for name in ("greedy", "vdd"):
        with pytest.raises(GenerationError, match="scores hold NaN"):
            llava.generate(pictures[0], QUESTIONS[0], name, max_new_tokens=2)
