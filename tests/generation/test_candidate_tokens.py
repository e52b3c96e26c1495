"""Tokens tried side by side, kept, dropped and read anew: every row against a prompt of its own, read from scratch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmhall.attention import Op
from mmhall.attention._passes import mask_candidates
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._prepare import PlannedBatch
from mmhall.generation._run import prepare_inputs
from mmhall.generation._settings import Settings
from mmhall.strategies import Session
from tests.generation.reference import QUIET, REQUESTS, anew, ours

pytestmark = QUIET

ABLE = ("llava", "qwen2_5_vl", "gemma3", "gemma4", "llama4", "paligemma", "mllama")
BATCH = REQUESTS[:2]
SIBLINGS = torch.tensor([[90, 97, 111], [110, 91, 102]])


def close(logits, wanted):
    """Special tokens, which these models never say, are so far below that their last digits are as large."""
    torch.testing.assert_close(logits.log_softmax(-1).clamp_min(-100), wanted.clamp_min(-100), rtol=0, atol=3e-4)


def settings(adapter):
    return Settings(max_new_tokens=64).resolved(adapter.generator)


def read(adapter, requests=BATCH, ops=(), branches=False):
    """Rows of some requests, with a picture-free branch if asked for."""
    inputs = adapter.inputs(requests)
    others = [adapter.without_image(inputs)] if branches else []
    config = settings(adapter)
    main, *beside = (
        PlannedBatch(prepare_inputs(adapter, one, config), adapter.plan((), empty=True)) for one in (inputs, *others)
    )
    return DecodeBatch(replace(main, plan=adapter.plan(ops, empty=True)), beside)


def wanted(adapter, requests, answers, branch=False):
    """Log-probabilities after each answer to its request, by a forward pass of each whole sequence."""
    rows = []
    for request, answer in zip(requests, answers, strict=True):
        inputs = adapter.inputs([request])
        rows.append(anew(adapter, Session(), adapter.without_image(inputs) if branch else inputs, answer))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ABLE)
@torch.inference_mode()
def test_siblings_are_what_each_would_be_alone_and_what_is_kept_goes_on(name):
    """In a left-padded batch, with answers longer than the windows; kept rows change places and repeat."""
    adapter = ours(name)
    rows, requests, answers = read(adapter), list(BATCH), [[], []]
    for step in range(24):
        tokens = (SIBLINGS.repeat(2, 1)[: len(answers)] + 3 * step) % 50 + 90
        rows.split(tokens)
        if step in (0, 1, 23):
            for sibling in range(tokens.shape[1]):
                said = [[*answer, int(tokens[row, sibling])] for row, answer in enumerate(answers)]
                close(rows.logits[0][:, sibling], wanted(adapter, requests, said))
        parents = torch.tensor([1, 0, 1][: 3 if step == 0 else len(answers)])
        candidates = torch.tensor([2, 0, 1])[: len(parents)]
        rows.keep(parents, candidates)
        answers = [[*answers[p], int(tokens[p, s])] for p, s in zip(parents.tolist(), candidates.tolist(), strict=True)]
        requests = [requests[parent] for parent in parents.tolist()]
    rows.step(torch.tensor([95, 96, 97]))
    answers = [[*answer, token] for answer, token in zip(answers, (95, 96, 97), strict=True)]
    close(rows.logits[0], wanted(adapter, requests, answers))


@pytest.mark.parametrize("name", ["llava", "gemma3", "gemma4", "llama4", "mllama"])
@torch.inference_mode()
def test_beams_of_a_prompt_change_places_without_moving_the_prompt(name):
    """Also where a sliding window has left the prompt, and where all siblings are dropped."""
    adapter, requests = ours(name), [BATCH[1]] * 3
    rows, answers = read(adapter, requests[:1]).taken(torch.zeros(3, dtype=torch.long)), [[], [], []]
    for step in range(22):
        parents, candidates = torch.tensor([2, 0, 2]), torch.tensor([1, 0, 2])
        tokens = (SIBLINGS[torch.tensor([0, 1, 0])] + 3 * step) % 50 + 90
        rows.split(tokens)
        if step % 5 == 4:
            rows.keep(parents, None, differing=step)
            rows.step(tokens[parents, candidates])
        else:
            rows.keep(parents, candidates, differing=step)
        answers = [[*answers[p], int(tokens[p, s])] for p, s in zip(parents.tolist(), candidates.tolist(), strict=True)]
    close(rows.logits[0], wanted(adapter, requests, answers))


@pytest.mark.parametrize("name", ABLE)
@torch.inference_mode()
def test_an_answer_read_anew_is_what_it_was(name):
    """After rows went on from a copy of the prompts', the copy is thrown away and the prompts' taken once more."""
    adapter = ours(name)
    prompts, order = read(adapter), torch.tensor([1, 0, 1])
    rows = prompts.taken(order)
    for step in range(6):
        rows.split(SIBLINGS[torch.tensor([0, 1, 0])] + step % 7)
        rows.keep(torch.tensor([2, 1, 0]), torch.tensor([0, 1, 2]))
    rows = prompts.taken(order)
    answers = torch.arange(90, 141).view(3, 17)
    rows.reread(answers, rows.memory)
    requests = [BATCH[row] for row in order.tolist()]
    close(rows.logits[0], wanted(adapter, requests, answers.tolist()))
    rows.split(SIBLINGS[:1].expand(3, -1))
    grown = [[*answer, 97] for answer in answers.tolist()]
    close(rows.logits[0][:, 1], wanted(adapter, requests, grown))


@pytest.mark.parametrize("name", ["llava", "gemma3", "llama4", "mllama"])
@torch.inference_mode()
def test_rows_whose_siblings_are_dropped_are_as_before(name):
    adapter = ours(name)
    rows, answers = read(adapter).taken(torch.tensor([0, 1, 1])), [[], [], []]
    for step in range(18):
        rows.split(SIBLINGS[torch.tensor([0, 1, 1])])
        rows.keep(torch.tensor([0, 2, 1]), None)
        rows.step(torch.tensor([93, 95, 99]) + step)
        answers = [[*answers[row], token + step] for row, token in ((0, 93), (2, 95), (1, 99))]
    close(rows.logits[0], wanted(adapter, [BATCH[0], BATCH[1], BATCH[1]], answers))


@pytest.mark.parametrize("name", ["llava", "gemma3", "instructblip", "mllama"])
@torch.inference_mode()
def test_branches_get_the_same_siblings(name):
    """Also of Mllama, whose branches have a cache of their own."""
    adapter = ours(name)
    rows, answers = read(adapter, branches=True), [[], []]
    for step in range(3):
        tokens = SIBLINGS + 5 * step
        rows.split(tokens)
        rows.keep(torch.tensor([1, 0]), torch.tensor([step, 0]))
        answers = [[*answers[1], int(tokens[1, step])], [*answers[0], int(tokens[0, 0])]]
    requests = [BATCH[1], BATCH[0]]
    for branch in (False, True):
        close(rows.logits[branch], wanted(adapter, requests, answers, branch))


class Halve(Op):
    """Halves the weight of the first columns in the newest rows, and notes which rows those were."""

    writes = True

    def __init__(self):
        self.noted = []

    def rows(self, call):
        self.noted.append((call.layer, call.prefill, call.newest.tolist(), call.start, call.offset))
        return call.newest

    def edit_probs(self, call, rows, probs):
        return torch.cat([probs[..., : 20 - call.offset] / 2, probs[..., 20 - call.offset :]], dim=-1)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama", "instructblip"])
@torch.inference_mode()
def test_ops_act_on_every_sibling_and_on_every_row_read_anew(name):
    """Steps one after the other, siblings, and reading anew steer alike."""
    adapter, answers = ours(name), SIBLINGS[:, :2]
    stepped, ops = read(adapter, ops=[Halve()]), [Halve(), Halve()]
    for tokens in answers.T:
        stepped.step(tokens)
    steered, prompts = read(adapter, ops=[ops[0]]), read(adapter, ops=[ops[1]])
    for tokens in answers.T:
        steered.split(torch.stack([tokens - 5, tokens, tokens + 3], dim=1))
        steered.keep(torch.tensor([0, 1]), torch.tensor([1, 1]))
    anew = prompts.taken(torch.tensor([0, 1]))
    anew.reread(answers, anew.memory)
    for rows in (steered, anew):
        close(rows.logits[0], stepped.logits[0].log_softmax(-1))
    plain = read(adapter)
    plain.reread(answers, plain.memory)
    assert (plain.logits[0] - stepped.logits[0]).abs().max() > 0.01
    length = adapter.inputs(BATCH)["input_ids"].shape[1]
    for op, rows in zip(ops, ([0, 1, 2], [0, 1]), strict=True):
        first = next(note for note in op.noted if not note[1])
        assert first == (0, False, rows, length, 0)


def test_siblings_see_what_the_first_sees_and_themselves():
    seen = torch.tensor([[[[False, True, True, True, False], [False, True, True, True, True]]]])
    mine = [[False, True, True, True, False], [False, True, True, False, True]]
    assert mask_candidates(seen, 2, 5, seen.device)[0, 0].tolist() == mine
    low = torch.finfo(torch.float32).min
    added = torch.where(seen, 0.5, low)
    own = [[low, 0.5, 0.5, 0.0, low], [low, 0.5, 0.5, low, 0.0]]
    assert mask_candidates(added, 2, 5, seen.device)[0, 0].tolist() == own
    assert mask_candidates(None, 2, 4, seen.device)[0, 0].tolist() == [
        [True, True, True, False],
        [True, True, False, True],
    ]


@torch.inference_mode()
def test_recurrent_states_cannot_be_split():
    assert not read(ours("qwen3_5")).splittable
    assert all(read(ours(name)).splittable for name in ("llava", "gemma3", "mllama"))
