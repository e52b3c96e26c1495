"""CausalMM against its formulas written out: maps of the tower, attention of tower and decoder; what is refused."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import interpolate

import mmhall
from mmhall.adapters import Request
from mmhall.adapters._anatomy import Anatomy
from mmhall.decoders import causalmm
from mmhall.decoders.causalmm import counterfactual, draw_uniform, features_of_maps, resize_map
from mmhall.errors import CompositionError, ModelError, OptionError
from mmhall.strategies import CONTRAST, twin_generator
from tests.attention.test_vision_attention import Eager
from tests.decoders.rows import check, check_candidates, check_half, family, scored, written
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, built, in_turn
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

NORMALISED = ("vipllava", "mistral3", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "gemma4")


def contrasted(main, *others, alpha, beta):
    """The scores of one step, (V,), from logits of the plain model and of each branch."""
    main, *others = (one.log_softmax(-1) for one in (main, *others))
    scores = (1 + len(others) * alpha) * main - sum(alpha * other for other in others)
    return torch.where(main.exp() < beta * main.exp().max(), -math.inf, scores)


def replaced(weights, how, draws, *, total=None):
    """One row's counterfactual weights, from the weights of the columns that it sees, and `total` as released."""
    count = len(weights)
    if how == "uniform":
        return torch.full((count,), 1 / (total or count))
    if how == "random":
        return draws[:count] / draws[: total or count].sum()
    if how == "reversed":
        reverse = weights.max() - weights
        return reverse if total else reverse / reverse.sum() if count > 1 else torch.ones(1)
    return weights[draws[:count].argsort()]


def of_language(reader, layer, probs, *, layers, how, seed, compat=False):
    """Replace the rows of chosen layers, one head and row after the other."""
    if layer not in layers:
        return probs
    edited = torch.zeros_like(probs)
    for head in range(probs.shape[1]):
        for row in range(probs.shape[2]):
            seen = (probs[0, head, row] > 0).nonzero()[:, 0]
            total = (reader.length if row < reader.length else row + 1) if compat else None
            columns = torch.arange(total) if total else seen
            place = [torch.tensor(one) for one in (layer, head, row)]
            draws = draw_uniform(seed, *place, columns)
            edited[0, head, row, seen] = replaced(probs[0, head, row, seen], how, draws, total=total)
    return edited


LANGUAGE = {
    "random": "language='random', seed=3",
    "uniform": "language='uniform'",
    "reversed": "language='reversed'",
    "shuffled": "language='shuffled', seed=4",
    "random as released": "language='random', compat=True",
    "uniform as released": "language='uniform', compat=True",
    "reversed as released": "language='reversed', compat=True",
}


RELEASED = tuple(variant for variant in LANGUAGE if "released" in variant)
CASES = (  # the release knows causal attention alone
    *in_turn(tuple(REPRESENTATIVES), tuple(variant for variant in LANGUAGE if variant not in RELEASED)),
    *in_turn(("llava", "llava_next", "instructblip"), RELEASED),
)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_the_decoders_attention_is_the_formula_of_each_prompt(name, variant):
    """In a padded batch, in prefill and while decoding."""
    compat = variant in RELEASED
    how, seed = variant.split()[0], {"random": 3, "shuffled": 4}.get(variant, 0)
    adapter, _ = family(name)
    layers = [layer for layer, kind in enumerate(adapter.kinds) if kind not in ("linear", "cross")][:2]

    def reference(adapter, reader, request, answer):
        def edit(reader, layer, probs):
            return of_language(reader, layer, probs, layers=layers, how=how, seed=seed, compat=compat)

        inputs = adapter.inputs([request])
        pairs = zip(reader.logits(inputs, answer[:-1]), reader.logits(inputs, answer[:-1], probs=edit), strict=True)
        return torch.stack([contrasted(*pair, alpha=2.0, beta=0.02) for pair in pairs])

    named = ", ".join(map(str, layers))
    check(name, f"causalmm(alpha=2, beta=0.02, visual='none', {LANGUAGE[variant]}, layers='{named}')", reference)


def gain_of(maps, how, count, seed):
    """The released gain of each feature, (count,), from the map of each head, (H, N, N)."""
    heads, size = maps.shape[:2]
    if how == "random":
        place = torch.arange(size)
        maps = torch.stack([2 * draw_uniform(seed, torch.tensor(h), place[:, None], place) for h in range(heads)])
    elif how == "uniform":
        maps = torch.full_like(maps, maps.mean())
    elif how == "reversed":
        maps = maps.max() - maps
    else:
        drawn = [twin_generator(seed, f"head {head}, {size} patches") for head in range(heads)]
        orders = [torch.randperm(size * size, generator=one) for one in drawn]
        maps = torch.stack([one.flatten()[order].view(size, size) for one, order in zip(maps, orders, strict=True)])
    side = math.isqrt(count)
    return interpolate(maps[None], size=(side, side), mode="bilinear").mean(dim=1).flatten()


def with_gain(reader, inputs, answer, how, seed):
    """Logits with features multiplied by the gain, from the maps that the tower of transformers itself returns."""
    anatomy = Anatomy(reader.eager.model)
    anatomy.vision.module.set_attn_implementation("eager")
    with torch.no_grad():
        maps = anatomy.vision.module(inputs["pixel_values"], output_attentions=True).attentions[anatomy.feature_layer]
    hook = anatomy.projector.register_forward_pre_hook(
        lambda module, args: (args[0] * gain_of(maps[0], how, args[0].shape[1], seed)[:, None], *args[1:])
    )
    try:
        return reader.logits(inputs, answer)
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("name", "layer", "how"),
    [
        ("llava", 0, "shuffled"),
        ("llava", 0, "reversed"),
        *(pytest.param("llava", 0, how, marks=pytest.mark.slow) for how in ("random", "uniform")),
        pytest.param("paligemma", 1, "shuffled", marks=pytest.mark.slow),
    ],
)
def test_the_features_are_multiplied_as_released(name, layer, how):
    """LLaVA's features are those of the layer before the last, and leave out the class token of the map."""
    adapter, _ = family(name)
    assert adapter.anatomy.feature_layer == layer

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        main = reader.logits(inputs, answer[:-1])
        other = with_gain(reader, inputs, answer[:-1], how, seed=5)
        return torch.stack([contrasted(*pair, alpha=1.0, beta=0.02) for pair in zip(main, other, strict=True)])

    check(name, f"causalmm(beta=0.02, visual='{how}', seed=5)", reference)


@cache
def towered(name):
    """A copy of a family's model whose tower attends eagerly."""
    return Eager(built(name)[0])


def in_tower(layer, probs, before, *, how, seed):
    """Replace all rows of a layer of the tower, by the place of each patch in its own call."""
    edited = torch.zeros_like(probs)
    for row, head, patch in torch.cartesian_prod(*map(torch.arange, probs.shape[:3])).tolist():
        seen = (probs[row, head, patch] > 0).nonzero()[:, 0]
        draws = draw_uniform(seed, *(torch.tensor(one) for one in (layer, head, patch)), torch.arange(len(seen)))
        edited[row, head, patch, seen] = replaced(probs[row, head, patch, seen], how, draws)
    return edited


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("llava", "reversed"),
        ("qwen2_5_vl", "shuffled"),
        *(
            pytest.param(name, how, marks=pytest.mark.slow)
            for name, how in (("llava", "random"), ("llama4", "uniform"))
        ),
    ],
)
def test_the_towers_attention_is_the_formula_of_each_picture(name, how):
    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        longer = adapter.append_answer(inputs, torch.tensor([answer[:-1]]))
        at = inputs["input_ids"].shape[1] - 1
        edit = {"probs": lambda layer, probs, before: in_tower(layer, probs, before, how=how, seed=6)}
        main, other = (towered(name).logits(longer, **edits)[0, at:].float() for edits in ({}, edit))
        return torch.stack([contrasted(*pair, alpha=2.0, beta=0.02) for pair in zip(main, other, strict=True)])

    check(name, f"causalmm(alpha=2, beta=0.02, edit='attention', visual='{how}', seed=6)", reference)


def test_both_branches_have_the_strength_each_and_the_first_token_alone_is_contrasted_as_released():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    parts = "causalmm(alpha=2, beta=0.02, visual='none', language='random')", "causalmm(alpha=2, beta=0.02)"
    spec = "causalmm(alpha=2, beta=0.02, language='random'{})"
    answers = written(adapter, batch, spec.format(""))
    both, first, *each = (
        scored(adapter, batch, mmhall.strategy(one).fitted(adapter).prepare(adapter, batch), answers)
        for one in (spec.format(""), spec.format(", first_token_only=True"), *parts)
    )
    plain = scored(adapter, batch, mmhall.Session(), answers).log_softmax(-1)
    kept = both.isfinite()
    torch.testing.assert_close(both[kept], (each[0] + each[1] - plain)[kept], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(first[:, 0], both[:, 0])
    cut = plain[:, 1:].exp() < 0.02 * plain[:, 1:].exp().amax(dim=-1, keepdim=True)
    torch.testing.assert_close(first[:, 1:], plain[:, 1:].masked_fill(cut, -math.inf), rtol=1e-5, atol=1e-4)


CAUSAL = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
EVERY = torch.ones(1, 1, 1, 4, dtype=torch.bool)


def test_weights_sum_to_one_over_what_a_row_sees_and_as_released_over_all_columns():
    """Of four columns the released rows of uniform weights sum to 1/4, 2/4, 3/4 and 1, those of random on average."""
    assert counterfactual("uniform", CAUSAL).sum(-1).flatten().tolist() == [1, 1, 1, 1]
    assert counterfactual("uniform", CAUSAL, every=EVERY).sum(-1).flatten().tolist() == [0.25, 0.5, 0.75, 1]
    draws = draw_uniform(0, torch.arange(2000)[:, None, None], torch.arange(4)[:, None], torch.arange(4))[:, None]
    sums = counterfactual("random", CAUSAL, draws=draws, every=EVERY).sum(-1).mean(dim=0).flatten()
    torch.testing.assert_close(sums, torch.tensor([0.25, 0.5, 0.75, 1]), rtol=0, atol=0.01)
    torch.testing.assert_close(counterfactual("random", CAUSAL, draws=draws).sum(-1), torch.ones(2000, 1, 4))


def test_reversed_weights_and_shuffled_ones():
    """Released, a reversed row sums to its visible columns times the largest weight, minus one: 3 x 0.5 - 1."""
    visible = torch.tensor([[[[True, True, True, False]]]])
    probs = torch.tensor([[[[0.5, 0.3, 0.2, 0.0]]]])
    torch.testing.assert_close(counterfactual("reversed", visible, probs)[0, 0, 0], torch.tensor([0, 0.4, 0.6, 0]))
    released = counterfactual("reversed", visible, probs, every=EVERY)[0, 0, 0]
    torch.testing.assert_close(released, torch.tensor([0, 0.2, 0.3, 0]))
    draws = torch.tensor([[[[0.9, 0.2, 0.4, 0.1]]]])
    torch.testing.assert_close(
        counterfactual("shuffled", visible, probs, draws)[0, 0, 0, :3], probs[0, 0, 0, [1, 2, 0]]
    )
    equal = torch.full((1, 1, 1, 3), 1 / 3)
    torch.testing.assert_close(counterfactual("reversed", visible[..., :3], equal), equal)
    alone = torch.tensor([[[[1.0, 0.0]]]])
    assert counterfactual("reversed", alone > 0, alone).tolist() == alone.tolist()


def test_draws_are_uniform_independent_and_of_their_place_alone():
    head, row, column = torch.arange(4)[:, None, None], torch.arange(50)[:, None], torch.arange(60)
    drawn = draw_uniform(7, head, row, column)
    assert torch.equal(drawn[2, 10:20, 30:], draw_uniform(7, torch.tensor(2), row[10:20], column[30:]))
    assert not torch.equal(drawn, draw_uniform(8, head, row, column))
    assert (float(drawn.min()) > 0, float(drawn.max()) < 1) == (True, True)
    histogram = torch.histc(drawn, 10, 0, 1) / drawn.numel()
    torch.testing.assert_close(histogram, torch.full((10,), 0.1), rtol=0, atol=0.01)
    neighbours = [
        torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs()
        for a, b in ((drawn[:, 1:], drawn[:, :-1]), (drawn[..., 1:], drawn[..., :-1]), (drawn[1:], drawn[:-1]))
    ]
    assert max(neighbours) < 0.03


def test_a_map_is_resized_to_the_squarest_grid_and_features_are_divided_among_maps():
    """From 4 x 4 to 2 x 2 each cell is the mean of the four middle entries of its quarter."""
    weights = torch.arange(16.0).view(4, 4)
    assert resize_map(weights, 4).tolist() == [2.5, 4.5, 10.5, 12.5]
    assert [len(resize_map(weights, count)) for count in (6, 7)] == [6, 7]
    assert features_of_maps([577, 577], torch.Size((2, 576))) == [576, 576]
    assert features_of_maps([32, 16], torch.Size((48,))) == [32, 16]
    assert features_of_maps([32, 16], torch.Size((12,))) == [8, 4]
    with pytest.raises(
        ModelError, match="the 7 features before the projector cannot be divided among 2 attention maps"
    ):
        features_of_maps([32, 16], torch.Size((7,)))


@pytest.mark.parametrize("how", causalmm.KINDS)
def test_blocks_of_rows_and_running_means_are_the_whole_map(how, monkeypatch):
    """A prompt by itself has no mask, so that uniform weights are a running mean, and no map is ever held."""
    adapter, _ = family("llava")
    spec = f"causalmm(alpha=2, beta=0, visual='none', language='{how}', layers=':')"
    batch, alone = adapter.inputs(REQUESTS[:2]), adapter.inputs(REQUESTS[1:2])
    answers = written(adapter, batch, spec)
    whole = scored(adapter, batch, mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch), answers)
    monkeypatch.setattr(causalmm, "_AT_ONCE", 1)
    largest, output_of = [0], causalmm.output_of

    def noted(call, weights):
        largest.append(weights.shape[2])
        return output_of(call, weights)

    monkeypatch.setattr(causalmm, "output_of", noted)
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, alone)
    torch.testing.assert_close(scored(adapter, alone, session, answers[1:])[0], whole[1], rtol=1e-5, atol=1e-4)
    assert max(largest) == (0 if how == "uniform" else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_carries_it_or_is_refused_in_words(name):
    adapter, _ = family(name)
    batch = adapter.inputs(REQUESTS[:2])
    plain = scored(adapter, batch, mmhall.Session(), torch.full((2, 4), 20))
    for spec in ("causalmm(alpha=2, beta=0)", "causalmm(alpha=2, beta=0, edit='attention', visual='reversed')"):
        if name in NORMALISED and "edit" not in spec:
            continue
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch)
        each = [adapter.inputs([one]) for one in REQUESTS[:2]]
        together = scored(adapter, batch, session, torch.full((2, 4), 20))
        alone = [
            scored(adapter, one, mmhall.strategy(spec).fitted(adapter).prepare(adapter, one), torch.full((1, 4), 20))
            for one in each
        ]
        torch.testing.assert_close(together.clamp_min(-100), torch.cat(alone).clamp_min(-100), rtol=1e-4, atol=1e-3)
        assert (together.softmax(-1) - plain.softmax(-1)).abs().max() > 1e-2, spec


@pytest.mark.parametrize("name", NORMALISED)
def test_a_projector_that_normalises_features_is_refused(name):
    """At once, or while a picture is read where the processor is not known."""
    adapter, _ = family(name)
    message = r"cannot carry it: its projector normalises each feature, .*; use edit=\"attention\"$"
    with pytest.raises(CompositionError, match=rf"^causalmm: {adapter.anatomy.family} {message}"):
        mmhall.strategy("causalmm").fitted(adapter)
    mmhall.strategy("causalmm(edit='attention')").fitted(adapter)
    batch, method = adapter.inputs(REQUESTS[:1]), mmhall.strategy("causalmm", alpha=1.0, tower_layers=":", layers=":")
    with pytest.raises(CompositionError, match="its projector normalises each feature"):
        scored(adapter, batch, method.prepare(adapter, batch), torch.full((1, 4), 20))


def test_a_model_without_a_tower_is_refused_unless_language_alone_is_edited(monkeypatch):
    adapter, _ = family("llava")
    monkeypatch.setitem(vars(adapter), "anatomy", Anatomy(adapter.decoder))
    with pytest.raises(CompositionError, match=r"cannot carry it: its vision tower gives no .* needs none"):
        mmhall.strategy("causalmm").fitted(adapter)
    mmhall.strategy("causalmm(visual='none', language='uniform')").fitted(adapter)


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    neutral = "causalmm(alpha=0, beta=0)", "causalmm(visual='none', beta=0)"
    for spec, inputs in (*((one, batch) for one in neutral), ("causalmm", adapter.inputs([Request("What?")]))):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs)
        assert (session.combine, list(session.branches)) == (None, []), spec
    for spec in ("causalmm(alpha=0, language='random')", "causalmm(visual='none')"):
        cut = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch)
        assert (cut.combine is None, list(cut.branches)) == (False, []), spec


def test_a_twin_contrasts_other_pictures_read_plainly():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    method = mmhall.strategy("causalmm(language='random', twin=3)").fitted(adapter)
    branches = method.prepare(adapter, batch).branches
    assert [list(branch.ops) for branch in branches] == [[], []]
    pixels = [branch.inputs["pixel_values"] for branch in branches] + [batch["pixel_values"]]
    assert not any(torch.equal(one, other) for one, other in pairwise(pixels))
    with pytest.raises(ModelError, match="without pictures to change"):
        method.prepare(adapter, dict(batch))


def test_in_half_precision_and_with_candidate_tokens():
    check_half("causalmm(alpha=3, language='random')", "causalmm(alpha=0, beta=0)")
    check_half("causalmm(alpha=3, edit='attention', visual='reversed')", "causalmm(alpha=0, beta=0, twin=2)")
    for how in causalmm.KINDS:
        check_candidates(f"causalmm(visual='none', language='{how}')")


def test_what_it_claims_and_what_it_cannot_do_is_refused():
    assert mmhall.strategy("causalmm").claims == {CONTRAST}
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("causalmm+vcd")
    wrong = {
        "alpha": -0.1,
        "beta": 1.1,
        "visual": "black",
        "edit": "map",
        "layers": "x",
        "tower_layers": "x",
        "seed": -1,
    }
    for option, value in wrong.items():
        with pytest.raises(OptionError, match=rf"^causalmm: {option} must be .*, got"):
            mmhall.strategy("causalmm", **{option: value})
    adapter, _ = family("llava")
    for option, edit in (("tower_layers", "edit='attention'"), ("layers", "language='uniform'")):
        method = mmhall.strategy(f"causalmm({option}='9', {edit})").fitted(adapter)
        with pytest.raises(OptionError, match=rf"^causalmm: {option} must be a layer from 0 to"):
            method.prepare(adapter, adapter.inputs(REQUESTS[:1]))
