"""KVSmooth against its formula written out, in every family that can carry it; its ranks, its memory, and neutral."""

from __future__ import annotations

import copy
import math
from functools import cache

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import mmhall
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Request
from mmhall.decoders.kvsmooth import KVSmooth
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._settings import Settings
from mmhall.strategies._layers import parse_layers
from tests.decoders.reference import searched
from tests.decoders.rows import NEW, UNSAID, check_half, scored, written
from tests.generation.reference import QUIET, REQUESTS, built, ours, said
from tests.jobs import opened, run
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

CARRYING = [name for name in REPRESENTATIVES if name != "gemma4"]


class Naive:
    """A copy of a model that reads prompt and answer in one pass, row by row, and smooths each row of the answer.

    Attributes:
        length: Tokens of the prompt.
        ranks: Rank of each entropy by layer, and what it made of it.
    """

    def __init__(self, name):
        adapter = adapter_for(*built(name))
        self.adapter = adapter
        self.model, decoder, layers = copy.deepcopy((adapter.model, adapter.decoder, adapter.layers))
        self.kinds, self.shares = adapter.kinds, {}
        for index, layer in enumerate(layers):
            for part in layer.modules():
                part.naive = self, index
        decoder.set_attn_implementation("kvsmooth_reference")

    def scores(self, request, answer, **options):
        """The log-probabilities of every step of a given answer, (NEW, V)."""
        inputs = self.adapter.inputs([request])
        self.length, self.options, self.shares = inputs["input_ids"].shape[1], options, {}
        longer = self.adapter.append_answer(inputs, torch.tensor([answer[:-1]], dtype=torch.long))
        with torch.no_grad():
            return self.model(**longer, use_cache=False).logits[0, self.length - 1 :].float().log_softmax(-1)

    def share(self, layer, entropies):
        strength, width, window = (self.options[name] for name in ("strength", "width", "window"))
        recent = entropies[-window:]
        rank = sum(one < recent[-1] for one in recent) / len(recent)
        found = strength if len(recent) == 1 else min(max(rank, strength - width, 0), strength + width, 1)
        self.shares.setdefault(layer, []).append(found)
        return found


def _attend(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    naive, layer = module.naive
    groups, rows = query.shape[1] // key.shape[1], []
    raw, smooth, entropies = (key, value), [key.clone(), value.clone()], []
    smooths = naive.kinds[layer] == "full" and layer in naive.options["layers"]
    for row in range(query.shape[2]):
        if smooths and row >= naive.length:
            for part, own in zip(smooth, raw, strict=True):
                part[:, :, row] = own[:, :, row]
        keys, values = (part.repeat_interleave(groups, 1) for part in smooth)
        scores = query[:, :, row : row + 1] @ keys.transpose(-1, -2) * scaling + attention_mask[:, :, row : row + 1]
        weights = scores.softmax(-1)
        rows.append(weights @ values)
        if smooths and row >= naive.length:
            each = weights[0, :, 0].clamp_min(1e-30)
            entropies.append(float(-(each * each.log()).sum(-1).mean()))
            share = naive.share(layer, entropies)
            for part, own in zip(smooth, raw, strict=True):
                before = (part if naive.options["previous"] == "smoothed" else own)[:, :, row - 1]
                part[:, :, row] = (1 - share) * own[:, :, row] + share * before
    return torch.cat(rows, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register("kvsmooth_reference", _attend)
AttentionMaskInterface.register("kvsmooth_reference", eager_mask)


@cache
def naive(name):
    return Naive(name)


def spec_of(options):
    given = {**options, "layers": ", ".join(map(str, options["layers"]))}
    return "kvsmooth(" + ", ".join(f"{key}={value!r}" for key, value in given.items()) + ")"


USUAL = {"strength": 0.6, "width": 0.4, "window": 2, "previous": "smoothed"}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("llava", {}),
        ("llava", {"previous": "raw"}),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in CARRYING[1:]),
    ],
)
def test_a_batch_is_the_formula_of_each_prompt(name, more):
    slow = naive(name)
    adapter = slow.adapter
    full = [layer for layer, kind in enumerate(adapter.kinds) if kind == "full"]
    options = {**USUAL, **more, "layers": full[:2]}
    batch, spec = adapter.inputs(REQUESTS[:2]), spec_of(options)
    answers = written(adapter, batch, spec)
    session, apart = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch), []
    scores = scored(adapter, batch, session, answers)
    for index, (request, answer) in enumerate(zip(REQUESTS[:2], answers.tolist(), strict=True)):
        plain = slow.scores(request, answer, **{**options, "layers": []})
        wanted = slow.scores(request, answer, **options)
        assert wanted.argmax(-1).tolist() == answer
        torch.testing.assert_close(*(part.clamp_min(UNSAID) for part in (scores[index], wanted)), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(wanted[:2], plain[:2])  # a smoothed column is read from the next token on
        apart.append(float((wanted.exp() - plain.exp()).abs().max()))
        for layer, shares in slow.shares.items():
            got = [float(each[index]) for each in session.ops[0]._shares[layer]]
            assert got[: NEW - 1] == pytest.approx(shares)
    assert max(apart) > 1e-3, apart


@pytest.mark.slow
def test_beams_are_those_of_a_naive_search_over_the_formula():
    slow = naive("llava")
    adapter, options, found = slow.adapter, {**USUAL, "layers": [0, 1]}, []
    for request in REQUESTS[:2]:
        found.append(searched(lambda answer, one=request: slow.scores(one, [*answer, 0], **options)[-1], 3)[0])
    config = Settings(max_new_tokens=4, num_beams=3).resolved(adapter.generator)
    got = run(adapter, adapter.inputs(REQUESTS[:2]), mmhall.strategy(spec_of(options)), config)
    assert list(map(tuple, got.tolist())) == found


def test_the_ranks_of_a_toy():
    entropies = torch.tensor([1.0, 1.4, 0.8, 1.2, 1.1])
    assert KVSmooth(strength=0.7, width=0.2).smoothing(entropies).item() == pytest.approx(0.5)
    assert KVSmooth(strength=0.5, width=0.2).smoothing(entropies).item() == pytest.approx(0.4)
    assert KVSmooth(strength=0.9, width=0.2).smoothing(entropies[:1]).item() == pytest.approx(0.9)
    assert KVSmooth(strength=0.5, width=0.5).smoothing(entropies[[0, 4, 4]]).item() == pytest.approx(1 / 3)  # a tie
    for rank, wanted in ((0.0, 0.7), (0.8, 0.8), (1.0, 1.0)):
        assert KVSmooth(strength=0.9, width=0.2).limited(torch.tensor(rank)).item() == pytest.approx(wanted)


def columns(adapter, spec, tokens):
    """The cache of the first request after some tokens, keys of each layer, (KV, K, D)."""
    batch = adapter.inputs(REQUESTS[:1])
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch)
    with torch.inference_mode():
        _, rows = opened(adapter, batch, session, Settings(max_new_tokens=9).resolved(adapter.generator))
        for token in tokens:
            rows.step(torch.tensor([token]))
        return [layer.keys[0] for layer in rows.parts[0][0].cache.layers], batch["input_ids"].shape[1]


def test_the_chain_of_a_toy_and_columns_of_the_prompt_never_change():
    """In layer 0 raw keys do not depend on earlier columns: the smoothed ones form a chain, like 4, 2, 5 of 4, 0, 8."""
    adapter, tokens = ours("llava"), [7, 9, 11]
    raw, length = columns(adapter, "greedy", tokens)
    for previous in ("smoothed", "raw"):
        spec = f"kvsmooth(strength=0.5, width=0, layers='0', previous={previous!r})"
        got, _ = columns(adapter, spec, tokens)
        assert torch.equal(got[0][:, :length], raw[0][:, :length])
        wanted = raw[0].clone()
        for at in range(length, wanted.shape[1]):
            before = wanted[:, at - 1] if previous == "smoothed" else raw[0][:, at - 1]
            wanted[:, at] = (raw[0][:, at] + before) / 2
        torch.testing.assert_close(got[0], wanted)
    constant, _ = columns(adapter, "kvsmooth(strength=0, width=0.0001, layers='0')", tokens)
    torch.testing.assert_close(constant[0], raw[0], rtol=0, atol=1e-3)


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    for spec, request in (
        ("kvsmooth(strength=0, width=0)", REQUESTS[0]),
        ("kvsmooth(strength=0, width=0, twin=2)", REQUESTS[0]),
        ("kvsmooth", Request("What?")),
    ):
        assert not mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request])).ops


def test_the_twin_ranks_at_random_alike_in_every_row():
    adapter = ours("llava")
    batch = adapter.inputs(REQUESTS[:2])
    spec = "kvsmooth(strength=0.5, width=0.5, layers='0:', twin={})"
    shares = []
    for twin in (1, 2, 1):
        session = mmhall.strategy(spec.format(twin)).fitted(adapter).prepare(adapter, batch)
        with torch.inference_mode():
            _, rows = opened(adapter, batch, session, Settings(max_new_tokens=9).resolved(adapter.generator))
            for _ in range(6):
                rows.step(rows.scores().argmax(-1))
        found = torch.stack([torch.stack(each) for each in session.ops[0]._shares.values()])
        assert (found[..., :1] == found).all()
        assert (found[:, 0] == 0.5).all()
        shares.append(found)
    assert torch.equal(shares[0], shares[2])
    assert not torch.equal(shares[0], shares[1])
    alone = [said(adapter, adapter.inputs([one]), spec.format(1))[0] for one in REQUESTS[:2]]
    assert said(adapter, batch, spec.format(1)) == alone


def test_what_is_found_is_the_mean_smoothing_of_each_layer():
    adapter = ours("llava")
    batch = adapter.inputs(REQUESTS[:1])
    session = mmhall.strategy("kvsmooth(strength=0.4, width=0, layers='1:')").fitted(adapter).prepare(adapter, batch)
    with torch.inference_mode():
        _, rows = opened(adapter, batch, session, Settings(max_new_tokens=9).resolved(adapter.generator))
        for _ in range(3):
            rows.step(rows.scores().argmax(-1))
    found = session.ops[0].findings(3)["smoothing"]
    assert math.isnan(found[0])
    torch.testing.assert_close(found[1:], torch.full((2, 1), 0.4))


def test_what_papers_give_and_what_it_claims():
    assert parse_layers("9%:", ["full"] * 32, {"full"}, "kvsmooth", "layers") == set(range(3, 32))
    assert KVSmooth.published["llava", 32]["strength"] == 0.9
    with pytest.raises(CompositionError, match="both want the cached keys and values"):
        mmhall.strategy("kvsmooth+kvsmooth(strength=0.3)")


@pytest.mark.parametrize(
    ("name", "reason"), [("gemma4", "reuse the keys"), ("llava_phi3", "none of its layers caches")]
)
def test_models_that_cannot_carry_it_say_why(name, reason):
    with pytest.raises(CompositionError, match=rf"^kvsmooth: .* cannot carry it: .*{reason}"):
        mmhall.strategy("kvsmooth").fitted(ours(name))


def test_in_half_precision():
    check_half("kvsmooth(strength=0.9)", "kvsmooth(strength=0, width=0)")


def test_what_it_cannot_do_is_refused():
    wrong = (("strength", 1.1), ("width", -0.1), ("window", 0), ("previous", "last"), ("layers", "x"), ("twin", -1))
    for option, value in wrong:
        with pytest.raises(OptionError, match=rf"^kvsmooth: {option} must be .*, got"):
            mmhall.strategy("kvsmooth", **{option: value})
