"""M3ID against its formula written out, in every family; its weights, its gate, and what is neutral."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._run import first_token_scores
from mmhall.strategies._contrast import CONTRAST
from mmhall.strategies._docs import card
from mmhall.strategies._step import Step
from tests.decoders.rows import check
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, in_turn, ours

pytestmark = QUIET

VARIANTS = {
    "gate": ("decay=0.1, start=1, gate=0.5", {"decay": 0.1, "start": 1, "gate": 0.5}),
    "cut": ("decay=0.4, start=2, gate=1, beta=0.05", {"decay": 0.4, "start": 2, "beta": 0.05}),
}


def informed(main, bare, written, *, decay, start, gate=math.inf, beta=0.0):
    """The scores of one step, (V,), from logits with and without the picture, after some tokens."""
    main, bare = main.log_softmax(-1), bare.log_softmax(-1)
    left = math.exp(-decay * (written + start))
    scores = main + (1 - left) / left * (main - bare) if main.exp().max() < gate else main
    return torch.where(main.exp() < beta * main.exp().max(), -math.inf, scores)


@pytest.mark.parametrize(("name", "variant"), in_turn(FAMILIES, tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options = VARIANTS[variant]

    def reference(adapter, reader, request, answer):
        main = reader.logits(adapter.inputs([request]), answer[:-1])
        bare = adapter.without_image(adapter.inputs([request]))
        longer = adapter.append_answer(bare, torch.tensor([answer[:-1]]))
        with torch.no_grad():
            other = adapter.model_for(longer)(**longer, use_cache=False).logits[0, -len(answer) :]
        pairs = enumerate(zip(main, other, strict=True))
        return torch.stack([informed(*logits, written, **options) for written, logits in pairs])

    check(name, f"m3id({given})", reference)


def combined(spec, main, bare, written=0):
    """What mmhall makes of two rows of log-probabilities after some tokens."""
    adapter = ours("llava")
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:2]))
    said = torch.zeros(len(main), written, dtype=torch.long)
    return session.combine(Step(main.log_softmax(-1), (bare.log_softmax(-1),), said))


def test_the_weight_grows_with_the_answer():
    method = mmhall.strategy("m3id").fitted(ours("llava"))
    assert [round(method.weight(t), 4) for t in (0, 1, 50, 100)] == [0, 0.0202, 1.7183, 6.3891]
    assert mmhall.strategy("m3id(decay=0.02, start=50)").weight(50) == method.weight(100)
    assert method.weight(690) < 1e6
    assert method.weight(10**6) == pytest.approx(1e6)
    assert mmhall.strategy("m3id(decay=0.02, cap=3)").weight(400) == pytest.approx(3)


def test_a_first_token_is_the_plain_models_unless_some_count_as_written():
    """As the card says: where the first token alone counts, as among given answers, start decides."""
    adapter = ours("llava")
    batch = adapter.inputs(REQUESTS[:2])

    def scores(spec):
        return first_token_scores(adapter, batch, mmhall.strategy(spec)).log_softmax(dim=-1)

    torch.testing.assert_close(scores("m3id(gate=1)"), scores("greedy"))
    assert not torch.allclose(scores("m3id(gate=1, start=10)"), scores("greedy"), atol=1e-3)
    told = " ".join(card("m3id").sections["Defaults"].split())
    assert "where only that token counts, as in `choose` and answers of one token, use start=10" in told


def test_the_gate_opens_for_each_row_by_itself():
    sure, unsure = torch.tensor([3.0, 0.0, 0.0, 0.0]), torch.tensor([0.3, 0.2, 0.1, 0.0])
    main, bare = torch.stack([sure, unsure]), torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(2, -1)
    got = combined("m3id(decay=0.5, gate=0.3)", main, bare, written=3)
    logs, other = main.log_softmax(-1), bare.log_softmax(-1)
    assert torch.equal(got[0], logs[0])
    torch.testing.assert_close(got[1], logs[1] + (math.exp(1.5) - 1) * (logs[1] - other[1]))
    opened = combined("m3id(decay=0.5, gate=1)", main, bare, written=3)
    torch.testing.assert_close(opened, logs + (math.exp(1.5) - 1) * (logs - other))


def test_very_long_answers_keep_finite_scores():
    main, bare = torch.randn(2, 50), torch.randn(2, 50)
    main[:, 7] = bare[:, 9] = -math.inf
    got = combined("m3id(decay=3.0, gate=1)", main, bare, written=5000)
    assert (got[:, 7] == -math.inf).all()
    assert got[:, [i for i in range(50) if i != 7]].isfinite().all()


@pytest.mark.parametrize(
    ("spec", "request_"),
    [*((f"m3id({option}=0)", REQUESTS[0]) for option in ("decay", "gate", "cap")), ("m3id", Request("What?"))],
)
def test_neutral_options_and_no_picture_ask_for_nothing(spec, request_):
    adapter = ours("llava")
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request_]))
    assert not session.branches
    assert session.combine is None


def test_a_cut_off_alone_needs_no_branch():
    adapter = ours("llava")
    batch = adapter.inputs(REQUESTS[:2])
    session = mmhall.strategy("m3id(decay=0, beta=0.5)").fitted(adapter).prepare(adapter, batch)
    assert not session.branches
    main = torch.tensor([[2.0, 1.9, 0.0]]).log_softmax(-1)
    got = session.combine(Step(main, (), torch.zeros(1, 0, dtype=torch.long)))
    assert torch.equal(got, torch.where(main > -2, main, -math.inf))


def test_what_it_claims():
    assert mmhall.strategy("m3id").claims == {CONTRAST}
    mmhall.strategy("m3id+vhr")
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("vcd+m3id")


@pytest.mark.parametrize(
    ("option", "value"), [("decay", -0.1), ("gate", 1.1), ("gate", -0.1), ("start", -1), ("beta", 2), ("cap", -1)]
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^m3id: {option} must be an? (number|integer) (>= 0|in \[0, 1\]), got"):
        mmhall.strategy("m3id", **{option: value})
