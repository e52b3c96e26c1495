"""AdaIAT against its formula written out, in the families; its threshold; its fit; its twin."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

import mmhall
from mmhall.adapters._base import Request
from mmhall.decoders.adaiat import raise_answer, shuffled
from mmhall.errors import CompositionError, FitError, OptionError
from mmhall.strategies import Strategy, differing_words
from tests.decoders.fitted import fitted_artifact, made_artifact, made_pairs
from tests.decoders.rows import check, check_half, family, halved, written
from tests.generation.reference import QUIET, REQUESTS, ours
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET


def raised(weights, answer, threshold, factors):
    """Weights of a row, (H, K), as AdaIAT leaves them, head by head; and whether it changed them."""
    attended = sum(sum(head[answer].tolist()) / len(answer) for head in weights)
    if attended >= threshold:
        return weights, False
    edited = weights.clone()
    for head, factor in zip(edited, factors.tolist(), strict=True):
        head[answer] *= max(0.0, factor)
        head /= sum(head.tolist())
    return edited, True


class Eagerly:
    """Edits of an eager pass by statistics of every layer; it notes which rows it has changed and left."""

    def __init__(self, true, hallucinated, ratio, alpha, beta, layers):
        self.thresholds = [t + beta * (r - t) for r, t in zip(true.tolist(), hallucinated.tolist(), strict=True)]
        self.factors, self.layers, self.fired = 1 + alpha * (ratio - 1), layers, []

    def edit(self, reader, layer, probs):
        edited = probs.clone()
        for row in range(reader.length, probs.shape[2]) if layer in self.layers else ():
            answer = list(range(reader.length, row + 1))
            weights, fired = raised(probs[0, :, row], answer, self.thresholds[layer], self.factors[layer])
            edited[0, :, row] = weights
            self.fired.append(fired)
        return edited


def statistics(adapter, reader):
    """Made up: ratios from 0.5 to 3, and a threshold in the middle of what a prompt's answers have."""
    depth, heads = len(adapter.layers), adapter.heads
    draw = torch.Generator().manual_seed(5)
    ratio = 0.5 + 2.5 * torch.rand(depth, heads, generator=draw)
    means = torch.zeros(depth)
    request = REQUESTS[0]
    reader.logits(adapter.inputs([request]), [5, 6, 7])
    for layer, maps in enumerate(reader.eager.maps):
        if maps and adapter.kinds[layer] != "cross":
            rows = [maps[0][0, :, row, reader.length : row + 1] for row in range(reader.length, reader.length + 3)]
            means[layer] = torch.stack([row.mean(-1).sum() for row in rows]).median()
    return means * 1.1, means * 0.9, ratio


def given(adapter, true, hallucinated, ratio):
    method = Strategy.fitted(mmhall.strategy("adaiat"), adapter)
    return {"adaiat": made_artifact(method, {"true": true, "hallucinated": hallucinated, "ratio": ratio})}


@pytest.fixture
def lent():
    """Gives a model artifacts, and takes them away again."""
    changed = []

    def give(adapter, artifacts):
        changed.append((adapter, adapter.artifacts))
        adapter.artifacts = artifacts

    yield give
    for adapter, before in changed[::-1]:
        adapter.artifacts = before


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_batch_is_the_formula_of_each_prompt(name, lent):
    adapter, reader = family(name)
    found = statistics(adapter, reader)
    lent(adapter, given(adapter, *found))
    kinds = [kind if layer not in adapter.newest_only else "" for layer, kind in enumerate(adapter.kinds)]
    layers = [layer for layer, kind in enumerate(kinds) if kind in ("full", "sliding", "chunked")]
    edits = Eagerly(*found, 8.0, 0.5, layers)

    def reference(adapter, reader, request, answer):
        return reader.logits(adapter.inputs([request]), answer[:-1], probs=edits.edit).log_softmax(-1)

    check(name, f"adaiat(alpha=8, layers='{', '.join(map(str, layers))}')", reference)
    assert True in edits.fired
    assert False in edits.fired


def test_the_edit_of_a_toy():
    """Below the threshold 0.10 + 0.5 (0.30 - 0.10) = 0.20; M = 1.5 and alpha 6 give the factor 4."""
    weights = torch.tensor([0.5, 0.2, 0.2, 0.1])
    wanted = torch.tensor([0.2632, 0.1053, 0.4211, 0.2105])
    (edited,), fired = raised(weights[None], [2, 3], 0.2, torch.tensor([4.0]))
    assert fired
    assert_close(edited, wanted, rtol=0, atol=1e-4)
    count, factors = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1), 4.0)
    got = raise_answer(weights.clone()[None, None, None], 2, count, torch.tensor(0.2), factors)
    assert_close(got[0, 0, 0], wanted, rtol=0, atol=1e-4)
    got = raise_answer(weights.clone()[None, None, None], 2, count, torch.tensor(0.15), factors)
    assert torch.equal(got[0, 0, 0], weights)


def test_rows_of_a_batch_are_raised_each_by_itself():
    weights = torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.1, 0.1, 0.4, 0.4]])[:, None, None]
    count, factors = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1), 4.0)
    before = weights.clone()
    got = raise_answer(weights, 2, count, torch.tensor(0.2), factors)
    assert not torch.equal(got[0], before[0])
    assert torch.equal(got[1], before[1])


def test_the_first_token_is_that_of_plain_decoding_and_ratios_of_one_change_nothing(lent):
    adapter, _ = family("llava")
    batch, (depth, heads) = adapter.inputs(REQUESTS[:2]), (len(adapter.layers), adapter.heads)
    plain = written(adapter, batch, "greedy")
    always = torch.full((depth,), 99.0)
    lent(adapter, given(adapter, always, always, torch.full((depth, heads), 9.0)))
    (op,) = mmhall.strategy("adaiat").fitted(adapter).prepare(adapter, batch).ops
    assert op.rows(SimpleNamespace(step=0, newest=torch.tensor([9]))) is None  # no answer, no mean
    assert op.first_row == -1  # questions about one picture share what stands before
    steered = written(adapter, batch, "adaiat(alpha=9, layers=':')")
    assert torch.equal(steered[:, 0], plain[:, 0])
    assert not torch.equal(steered, plain)
    lent(adapter, given(adapter, always, always, torch.ones(depth, heads)))
    assert torch.equal(written(adapter, batch, "adaiat(alpha=9, layers=':')"), plain)


def test_the_twin_exchanges_the_ratios_of_each_layer():
    ratio = torch.arange(24.0).view(3, 8)
    twins = [shuffled(ratio, twin) for twin in (1, 2)]
    for twin in twins:
        assert torch.equal(twin.sort(dim=1).values, ratio)
        assert (twin != ratio).any(dim=1).all()
    assert not torch.equal(*twins)


def test_a_fit_measures_true_and_hallucinated_words():
    adapter, reader = family("llava")
    pairs, values = made_pairs(alike=True), ([], [])
    artifact = fitted_artifact(adapter, "adaiat")
    for pair in pairs:
        inputs = adapter.inputs([Request(pair.prompt, (pair.picture,))])
        for kept, text in zip(values, differing_words(pair, adapter.tokenizer), strict=True):
            reader.logits(inputs, list(text.ids))
            (word,) = text.words
            row = reader.length + word.tokens[-1]
            maps = [of_layer[0][0, :, row, reader.length : row + 1].mean(-1) for of_layer in reader.eager.maps]
            kept.append(torch.stack(maps))
    true, hallucinated = (torch.stack(part).mean(0) for part in values)
    assert_close(artifact.tensors["true"], true.sum(1), rtol=0, atol=1e-5)
    assert_close(artifact.tensors["hallucinated"], hallucinated.sum(1), rtol=0, atol=1e-5)
    assert_close(artifact.tensors["ratio"], true / hallucinated, rtol=1e-3, atol=1e-3)


def test_a_fit_refuses_words_that_do_not_differ_beyond_chance():
    adapter, pairs = ours("llava"), made_pairs(alike=True)
    turned = [type(p)(p.id, p.picture, p.prompt, p.hallucinated, p.faithful) for p in pairs[1::2]]
    with pytest.raises(FitError, match="the attention of heads to the answer does not tell"), torch.inference_mode():
        Strategy.fitted(mmhall.strategy("adaiat"), adapter).fit(adapter, [*pairs[::2], *turned], 0)


def test_in_half_precision():
    adapter = halved()
    always, ratio = torch.full((len(adapter.layers),), 99.0), torch.full((len(adapter.layers), adapter.heads), 2.0)
    check_half("adaiat(alpha=6, layers=':')", "adaiat(alpha=0)", given(adapter, always, always, ratio))


def test_neutral_options_and_no_picture_ask_for_nothing(lent):
    adapter = ours("llava")
    depth, heads = len(adapter.layers), adapter.heads
    lent(adapter, given(adapter, torch.ones(depth), torch.ones(depth), torch.ones(depth, heads)))
    for spec, request in (
        ("adaiat(alpha=0)", REQUESTS[0]),
        ("adaiat(alpha=0, twin=1)", REQUESTS[0]),
        ("adaiat", Request("?")),
    ):
        assert mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request])) == mmhall.Session()
    lent(adapter, {})
    with pytest.raises(CompositionError, match="adaiat: needs an artifact"):
        mmhall.strategy("adaiat").fitted(adapter)


@pytest.mark.parametrize(("option", "value"), [("alpha", -1), ("beta", 1.1), ("layers", "x"), ("twin", -1)])
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^adaiat: {option} must be .*, got"):
        mmhall.strategy("adaiat", **{option: value})
