"""ZeroTuning against its formula written out; the two forms of it; its fit and twin."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import mmhall
from mmhall.adapters import first_tokens
from mmhall.analysis import first_answers
from mmhall.attention._attend import attend_with_ops
from mmhall.decoders import zerotuning
from mmhall.decoders.zerotuning import _NEUTRAL, ZeroTuning, _ScaleColumn, gaining
from mmhall.errors import CompositionError, FitError, OptionError
from mmhall.strategies import Session, Strategy
from tests.attention.reference import given_scores
from tests.decoders.fitted import fitted_artifact, made_questions
from tests.decoders.rows import check, check_half, family
from tests.generation.reference import QUIET, REQUESTS, ours

pytestmark = QUIET


def formula(rate, heads):
    def edit(reader, layer, probs):
        edited = probs.clone()
        for head in [head for at, head in heads if at == layer]:
            edited[0, head, :, 0] *= rate
            edited[0, head] /= edited[0, head].sum(-1, keepdim=True)
        return edited

    def reference(adapter, reader, request, answer):
        return reader.logits(adapter.inputs([request]), answer[:-1], probs=edit).log_softmax(-1)

    return reference


@pytest.mark.parametrize(("name", "rate"), [("llava", 6.0), ("gemma3", 20.0), ("mllama", 0.05), ("instructblip", 9.0)])
def test_a_batch_is_the_formula_of_each_prompt(name, rate):
    """In one head of some layers and in all of others."""
    adapter = ours(name)
    layers = [layer for layer, kind in enumerate(adapter.kinds) if kind not in ("linear", "cross")]
    heads = [(layer, head) for layer in layers for head in range(adapter.heads) if layer != layers[1] or head == 1]
    spec = ", ".join(f"{layer}.{head}" for layer, head in heads)
    check(name, f"zerotuning(rate={rate}, heads='{spec}')", formula(rate, heads))


@pytest.mark.parametrize("rate", [2.0, 0.5])
def test_scaling_and_renormalising_is_a_bias_and_a_change_of_head_outputs(rate):
    """Weights .5, .3, .2 with rate 2: .6667, .2, .1333.

    The other form is (O + (rate - 1) A_0 v_0) / (1 + (rate - 1) A_0).
    """
    weights, values = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    call = given_scores(weights.log().expand(1, 2, 3, 3))
    chosen = torch.tensor([[False, True]])
    op = _ScaleColumn(chosen, torch.tensor([[True, False, False]]), rate)

    def plain(query, key, value, mask):
        return ((query @ key.mT + mask).softmax(-1) @ value).transpose(1, 2), None

    output = attend_with_ops(call, [op], plain)[0, 2]
    assert_close(output[0], weights)
    if rate == 2:
        assert_close(output[1], torch.tensor([0.6667, 0.2, 0.1333]), rtol=0, atol=1e-4)
        assert_close(output[1] @ values, torch.tensor([0.9333, 0.2]), rtol=0, atol=1e-4)
    first = (rate - 1) * weights[0]
    assert_close(output[1] @ values, (weights @ values + first * values[0]) / (1 + first))
    assert_close(output[1, 1:] / output[1, 1], weights[1:] / weights[1])
    rates = op.findings(1)["rates of the first token"]
    assert rates.tolist() == [[1.0, rate]]


def test_rate_one_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    for spec, images in (
        ("zerotuning(rate=1)", True),
        ("zerotuning(rate=2)", False),
        ("zerotuning(rate=2, heads='')", True),
    ):
        inputs = adapter.inputs(REQUESTS[:1]) if images else adapter.without_image(adapter.inputs(REQUESTS[:1]))
        assert mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs) == Session(), spec


def test_the_column_is_the_first_after_padding_and_a_twins_is_another_of_the_text():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    assert (batch["attention_mask"].sum(1) < batch["input_ids"].shape[1]).any()
    first = first_tokens(batch)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        assert first[row].nonzero().tolist() == [[batch["input_ids"].shape[1] - length]]

    def op(spec):
        (only,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch).ops
        return only

    informed, *twins = (op(f"zerotuning(rate=2, heads='0.1, 2.0', layers=':', twin={twin})") for twin in (0, 1, 2))
    assert torch.equal(informed._column._values != 0, first)
    image = adapter.image_mask(batch["input_ids"])
    for twin in twins:
        column = twin._column._values != 0
        assert column.sum(1).tolist() == [1, 1]
        assert not (column & (first | image | ~batch["attention_mask"].bool())).any()
        assert twin._chosen.sum(1).tolist() == [1, 0, 1]
        assert not (twin._chosen & informed._chosen).any()


def test_in_half_precision():
    check_half("zerotuning(rate=8)", "zerotuning(rate=1)")


def test_heads_are_on_one_side_of_rate_one():
    up = torch.tensor([[0.3, 0.1, 0.0, -0.2, 0.2]])
    down = torch.tensor([[0.1, 0.3, 0.0, 0.4, 0.2]])
    assert gaining(up, down, 2.0).tolist() == [[True, False, False, False, True]]
    assert gaining(up, down, 0.5).tolist() == [[False, True, False, True, False]]


@pytest.mark.parametrize("by", ["entropy", "margin"])
def test_the_fit_finds_heads_and_a_rate(by):
    adapter, questions = ours("llava"), made_questions()
    artifact = fitted_artifact(adapter, f"zerotuning(by='{by}', layers='1')")
    up, down, numbers = artifact.tensors["up"], artifact.tensors["down"], artifact.facts["numbers"]
    chosen, tried = artifact.facts["chosen"]["rate"], numbers[f"{by} by rate"]
    best = min if by == "entropy" else max
    assert tried[f"{chosen:g}"] == best(tried.values())
    assert chosen != 1
    plain = mmhall.strategy("greedy")
    methods = [ZeroTuning(rate=rate, heads="1.2") for rate in (_NEUTRAL, 2.0, 0.5)]
    none, *others, before = first_answers(adapter, questions, [*methods, plain]).objective(by)
    assert_close(none, before, rtol=0, atol=1e-6)
    for tensor, after in zip((up, down), others, strict=True):
        assert tensor[1, 2] == (after - none).float()
        assert not tensor[[0, 2]].any()
    adapter.artifacts = {"zerotuning": artifact}
    try:
        method = mmhall.strategy("zerotuning").fitted(adapter)
        assert (method.rate, method.heads, method.by) == (chosen, "fitted", by)
        assert torch.equal(method._select(adapter), gaining(up, down, chosen))
        together = first_answers(adapter, questions, [plain, method]).objective(by).tolist()
        sign = -1 if by == "entropy" else 1
        assert_close(together, [sign * tried["1"], sign * tried[f"{chosen:g}"]])
        given = mmhall.strategy("zerotuning(rate=3, heads='all')").fitted(adapter)
        assert given.artifact is None
    finally:
        adapter.artifacts = {}


def test_heads_are_compared_with_a_rate_that_is_computed_and_changes_nothing(monkeypatch):
    """Plain attention may differ from it by rounding: without a mask, other kernels compute it."""
    adapter, seen = ours("llava"), []

    def measured(adapter, questions, alone, neutral, among, by):
        seen.append((alone("1.2"), neutral("1.2")))
        return torch.zeros(among.shape)

    monkeypatch.setattr(zerotuning, "gains_of_heads", measured)
    with pytest.raises(FitError, match="no rate gains"):
        Strategy.fitted(ZeroTuning(), adapter).fit(adapter, made_questions(2), 0)
    inputs = adapter.inputs(REQUESTS[:1])
    for (alone, neutral), rate in zip(seen, (2.0, 0.5), strict=True):
        assert alone.rate == rate
        (op,) = neutral.fitted(adapter).prepare(adapter, inputs).ops
        assert op.layers == {1}
        assert float(op._column._values.abs().max()) < 1e-15


def test_what_it_cannot_do_is_refused():
    adapter = ours("llava")
    adapter.artifacts = {}
    with pytest.raises(CompositionError, match="zerotuning: needs an artifact fitted on this model"):
        mmhall.strategy("zerotuning").fitted(adapter)
    for rate in (0, -1):
        with pytest.raises(OptionError, match="zerotuning: rate must be a number > 0"):
            mmhall.strategy("zerotuning", rate=rate)
    with pytest.raises(OptionError, match="zerotuning: rate must be left out: a fit finds it"):
        ZeroTuning(rate=2.0).for_fit()
    with pytest.raises(FitError, match="zerotuning: no rate gains accuracy on 2 questions"):
        Strategy.fitted(ZeroTuning(layers="2"), adapter).fit(adapter, made_questions(2), 0)
    with pytest.raises(CompositionError, match="both want the rows of attention"):
        mmhall.strategy("zerotuning(rate=2)+pai(gamma=1)")


def test_a_rate_on_the_side_without_heads_is_refused():
    adapter = ours("llava")
    artifact = fitted_artifact(adapter, "zerotuning(by='entropy', layers='1')")
    tensors = {"up": -artifact.tensors["up"].abs(), "down": artifact.tensors["down"].abs()}
    adapter.artifacts = {"zerotuning": type(artifact)("zerotuning", tensors, artifact.facts)}
    try:
        method = mmhall.strategy("zerotuning(rate=2)").fitted(adapter)
        with pytest.raises(OptionError, match="rate must be on the side of 1 on which heads gained in the fit"):
            method.prepare(adapter, adapter.inputs(REQUESTS[:1]))
    finally:
        adapter.artifacts = {}
