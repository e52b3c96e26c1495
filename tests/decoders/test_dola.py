"""DoLa against its formula written out, in every family; its candidates, its divergences, and what is neutral."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.decoders.dola import divergence
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._settings import Settings
from mmhall.strategies._contrast import CONTRAST
from mmhall.strategies._step import Step
from tests.decoders.rows import NEW, check, check_candidates, family, scored
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, in_turn, ours, said
from tests.jobs import run
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

VARIANTS = {
    "released": ("beta=0.05", {"beta": 0.05}),
    "weak": ("beta=0.05, alpha=0.1", {"beta": 0.05, "alpha": 0.1}),  # rounding counts a tenth of it as well
    "normed": (
        "beta=0.02, early_norm=True, divergence='jensen-shannon', alpha=0.7",
        {"beta": 0.02, "reverse": True, "alpha": 0.7},
    ),
}


RUNS = (
    *in_turn(tuple(REPRESENTATIVES), ("weak", "normed", "released")),
    *in_turn(FAMILIES[len(REPRESENTATIVES) :], ("weak", "normed")),
)


def kl(one, other):
    """Of two rows of log-probabilities."""
    return sum(math.exp(p) * (p - q) for p, q in zip(one.tolist(), other.tolist(), strict=True) if math.exp(p) > 0)


def contrasted(main, earlies, *, beta, alpha=1.0, reverse=False):
    """The scores of one step, (V,), from logits of the last layer and of each candidate."""
    main, apart = main.double().log_softmax(-1), []
    earlies = [early.double().log_softmax(-1) for early in earlies]
    for early in earlies:
        mixed = ((main.exp() + early.exp()) / 2).log()
        pairs = ((main, mixed), (early, mixed)) if reverse else ((mixed, main), (mixed, early))
        apart.append(sum(kl(*pair) for pair in pairs) / 2)
    scores = main - alpha * earlies[apart.index(max(apart))]
    return torch.where(main.exp() < beta * main.exp().max(), -math.inf, scores).float()


@pytest.mark.parametrize(("name", "variant"), RUNS)
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    """Candidates are read by running the eager copy anew, with what enters a layer handed to its head instead."""
    given, options = VARIANTS[variant]

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        main, states = reader.logits(inputs, answer[:-1]), dict(reader.states)
        model, earlies = reader.eager.model, []
        head, last = model.get_output_embeddings(), Anatomy(model).final_norm
        tied = head.weight is model.get_input_embeddings().weight
        for after in range(2 if tied else 0, len(adapter.layers), 2):
            instead = last(states[after][None]) if variant == "normed" else states[after][None]
            hook = head.register_forward_pre_hook(lambda module, args, instead=instead: (instead, *args[1:]))
            earlies.append(reader.logits(inputs, answer[:-1]))
            hook.remove()
        return torch.stack([contrasted(main[at], [one[at] for one in earlies], **options) for at in range(len(answer))])

    with torch.no_grad():
        check(name, f"dola({given})", reference)


@pytest.mark.parametrize(
    ("bucket", "depth", "wanted"),
    [
        ("low", 32, range(0, 16, 2)),
        ("high", 32, range(16, 32, 2)),
        ("all", 32, range(0, 32, 2)),
        ("high", 5, [4]),
        ("low", 1, [0]),
        ("all", 1, [0]),
    ],
)
def test_buckets_are_every_second_layer(bucket, depth, wanted, monkeypatch):
    adapter = ours("llava")
    monkeypatch.setattr(adapter, "layers", [adapter.layers[0]] * depth)
    assert mmhall.strategy("dola", bucket=bucket).candidates(adapter) == list(wanted)


def test_embeddings_that_are_the_head_are_no_candidate(monkeypatch):
    for name, first in (("llava", 0), ("internvl", 2)):
        adapter = ours(name)
        monkeypatch.setattr(adapter, "layers", [adapter.layers[0]] * 8)
        assert mmhall.strategy("dola(bucket='all')").candidates(adapter) == list(range(first, 8, 2))


@pytest.mark.parametrize(
    ("name", "bucket", "depth", "there"),
    [
        ("llava", "high", 1, "after 0 of 1 layers"),
        ("llava", "high", 2, "after 0 of 2 layers"),
        ("internvl", "low", 4, "after 2 of 4 layers"),
        ("internvl", "all", 2, "after no number of 2 layers"),
    ],
)
def test_a_bucket_without_a_candidate_is_refused(name, bucket, depth, there, monkeypatch):
    """No layer outside the chosen half is taken instead, nor embeddings that are the head."""
    adapter = ours(name)
    batch = adapter.inputs(REQUESTS[:1])
    monkeypatch.setattr(adapter, "layers", [adapter.layers[0]] * depth)
    with pytest.raises(OptionError, match=rf"^dola: bucket must be one with a candidate.* {there}, got '{bucket}'"):
        mmhall.strategy("dola", bucket=bucket).prepare(adapter, batch)


def test_the_released_divergence_is_not_jensen_shannons():
    main = torch.tensor([[2.0, 1.0, -2.0]]).log_softmax(-1)
    early = torch.tensor([[2.0, 0.0, 0.0]]).log_softmax(-1)
    assert divergence(main, early).item() == pytest.approx(0.0474, abs=5e-5)
    assert divergence(main, early, "jensen-shannon").item() == pytest.approx(0.0389, abs=5e-5)


def test_tokens_that_no_layer_can_say_do_not_count():
    logits = torch.tensor([[2.0, 1.0, -2.0, -math.inf], [2.0, 0.0, 0.0, -math.inf]]).log_softmax(-1)
    got = divergence(logits[:1], logits[1:])
    torch.testing.assert_close(got, divergence(logits[:1, :3], logits[1:, :3]))


def combined(spec, main, *earlies):
    """What mmhall makes of rows of logits of the last layer, and of some candidates."""
    return combination(spec, main, *earlies)[0]


def combination(spec, main, *earlies):
    """The scores of rows of logits, and what is shown of the session that made them, in a model of 3 layers."""
    adapter = ours("llava")
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:2]))
    exits = {one: early.log_softmax(-1) for one, early in zip(session.exits, earlies, strict=True)}
    said = torch.zeros(len(main), 0, dtype=torch.long)
    return session.combine(Step(main.log_softmax(-1), (), said, exits=exits)), session.findings(3)


def test_the_scores_of_a_toy():
    main, early = torch.tensor([[2.0, 1.0, -2.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    got = combined("dola", main, early, main)
    torch.testing.assert_close(got, torch.tensor([[-0.087, 0.913, -math.inf]]), rtol=0, atol=5e-4)


def test_each_row_subtracts_the_layer_that_differs_most():
    main = torch.tensor([[2.0, 1.0, 0.5], [2.0, 1.0, 0.5]])
    far, near = torch.tensor([-2.0, 3.0, 0.0]), torch.tensor([2.0, 0.8, 0.5])
    parts = torch.stack([far, near]), torch.stack([near, far])
    got, found = combination("dola(beta=0)", main, *parts)
    torch.testing.assert_close(got, main.log_softmax(-1) - far.log_softmax(-1))
    assert found["subtracted layers"][0, :, 0].nan_to_num(-1).tolist() == [1, -1, 0]  # states after 0 and 2 layers
    twins = [combination(f"dola(beta=0, twin={twin})", main, *parts)[1] for twin in range(1, 9)]
    assert {int(one["subtracted layers"][0, 2, 0]) for one in twins} == {0, 1}


def test_impossible_tokens_stay_impossible():
    main, early = torch.tensor([[2.0, 1.0, -math.inf]]), torch.tensor([[1.0, 2.0, -math.inf]])
    got = combined("dola(beta=0, alpha=2)", main, early, early)
    assert got[0, 2] == -math.inf
    assert got[0, :2].isfinite().all()


@pytest.mark.parametrize(("spec", "request_"), [("dola(alpha=0, beta=0)", REQUESTS[0]), ("dola", Request("What?"))])
def test_neutral_options_and_no_picture_ask_for_nothing(spec, request_):
    adapter = ours("llava")
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request_]))
    assert not session.exits
    assert session.combine is None


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["dola(beta=0.05)+vhr(alpha=4)", "dola(beta=0.05)+pai(gamma=1, alpha=2)"])
def test_with_other_strategies_a_batch_equals_single_runs(spec):
    """VHR reads another prompt in lock step, whose layers and head are no exits."""
    adapter = ours("llava")
    together = said(adapter, adapter.inputs(REQUESTS[:2]), spec)
    assert together == [said(adapter, adapter.inputs([one]), spec)[0] for one in REQUESTS[:2]]
    assert together != said(adapter, adapter.inputs(REQUESTS[:2]), "dola(beta=0.05)")


def test_candidates_follow_a_token_that_was_tried_among_others():
    """A search goes on from one of the tokens that it read side by side as if it had read no other."""
    check_candidates("dola(beta=0)")


def test_what_it_claims():
    assert mmhall.strategy("dola").claims == {CONTRAST}
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("dola+vdd")


@pytest.mark.parametrize(
    ("option", "value"), [("alpha", -0.1), ("beta", 1.1), ("bucket", "middle"), ("divergence", "kl"), ("early_norm", 1)]
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^dola: {option} must be .*, got"):
        mmhall.strategy("dola", **{option: value})


def early_logits(adapter, reader, inputs, answer):
    """Logits of the last layer and of every candidate without the final norm, behind an answer, (V,) each."""
    main, states = reader.logits(inputs, answer)[-1], dict(reader.states)
    head, earlies = reader.eager.model.get_output_embeddings(), []
    for after in range(0, len(adapter.layers), 2):
        hook = head.register_forward_pre_hook(lambda _, args, after=after: (states[after][None], *args[1:]))
        earlies.append(reader.logits(inputs, answer)[-1])
        hook.remove()
    return main.double().log_softmax(-1), [early.double().log_softmax(-1) for early in earlies]


def as_released(adapter, reader, requests, *, beta, penalty):
    """A batch by the released code: tokens, and scores of each step before the penalty, (N, V).

    The layer is chosen by the mean divergence over the batch. The penalty divides differences above 0, and multiplies
    those below, of all tokens of prompt and answer.
    """
    inputs, answers, steps = [adapter.inputs([request]) for request in requests], [[] for _ in requests], []
    for _ in range(NEW):
        pairs = [early_logits(adapter, reader, *one) for one in zip(inputs, answers, strict=True)]
        apart = [
            sum(
                kl(mixed, main) + kl(mixed, earlies[layer])
                for main, earlies in pairs
                for mixed in [((main.exp() + earlies[layer].exp()) / 2).log()]
            )
            for layer in range(len(pairs[0][1]))
        ]
        layer, rows = apart.index(max(apart)), []
        for (main, earlies), one, answer in zip(pairs, inputs, answers, strict=True):
            kept = main.exp() >= beta * main.exp().max()
            scores = torch.where(kept, main - earlies[layer], -math.inf)
            rows.append(scores.float())
            before = torch.tensor([*one["input_ids"][0].tolist(), *answer]).unique()
            penalised = scores.clone()
            penalised[before] = torch.where(scores < 0, scores * penalty, scores / penalty)[before]
            answer.append(int(penalised.argmax()))
        steps.append(torch.stack(rows))
    return answers, torch.stack(steps, dim=1)


@pytest.mark.parametrize("name", ["llava", pytest.param("qwen2_5_vl", marks=pytest.mark.slow)])
def test_compat_is_the_released_code_on_a_batch(name):
    """A penalty below 1 rewards tokens of the prompt, so that it acts in a few steps; without compat others win."""
    adapter, reader = family(name)
    batch, spec = adapter.inputs(REQUESTS[:2]), "dola(beta=0.2, compat=True)"
    with torch.no_grad():
        answers, scores = as_released(adapter, reader, REQUESTS[:2], beta=0.2, penalty=0.5)
    config = Settings(max_new_tokens=NEW, repetition_penalty=0.5).resolved(adapter.generator)
    found = {
        compat: run(adapter, batch, mmhall.strategy("dola", beta=0.2, compat=compat), config)
        for compat in (True, False)
    }
    assert found[True].tolist() == answers
    assert found[False].tolist() != answers
    got = scored(adapter, batch, mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch), found[True])
    torch.testing.assert_close(got, scores, rtol=1e-5, atol=3e-4)  # products are taken in the faster order, as measured


def test_compat_chooses_one_layer_for_all_rows():
    main = torch.tensor([[2.0, 1.0, 0.5], [2.0, 1.0, 0.5]])
    far, near = torch.tensor([-2.0, 3.0, 0.0]), torch.tensor([2.0, 0.8, 0.5])
    middle = torch.tensor([1.0, 2.0, 0.0])
    got = combined("dola(beta=0, compat=True)", main, torch.stack([far, near]), torch.stack([near, middle]))
    torch.testing.assert_close(got, main.log_softmax(-1) - torch.stack([far, near]).log_softmax(-1))
