"""ONLY against its formula written out, in every family that can carry it; its heads, its contrast, and neutral."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.decoders.only import Only, near_or_far, suppress_largest
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._settings import Settings
from mmhall.strategies._contrast import CONTRAST
from tests.decoders.reference import searched
from tests.decoders.rows import UNSEEN, check, check_candidates, check_half, family
from tests.generation.reference import QUIET, REQUESTS, ours, said
from tests.jobs import opened, run
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

REFUSED = {"mllama": "cross-attention", "gemma3": "its norm before the MLP", "gemma4": "its norm before the MLP",
           "qwen3_5": "the output projection of the heads"}  # fmt: skip
CARRYING = [name for name in REPRESENTATIVES if name not in REFUSED]


def spread(weights):
    """The entropy of some weights as shares; None of no weight."""
    total = sum(weights)
    return None if total == 0 else -sum(w / total * math.log(w / total + 1e-6) for w in weights)


def leaned(rows, image, first, masked):
    """The edited weights of one row, (H, K), head by head."""
    heads, ratios = [row.tolist() for row in rows], []
    for head in heads:
        found = []
        for inside in (lambda k: k not in image and k != first, lambda k: k in image):
            group = [k for k in range(len(head)) if inside(k) and not masked[k]]
            mean = sum(head[k] for k in group) / max(1, len(group))
            deviation = math.sqrt(sum((head[k] - mean) ** 2 for k in group) / max(1, len(group) - 1))
            for k in group:
                if len(group) > 1 and head[k] > mean + deviation:
                    head[k] = 0.0
            found.append(spread([head[k] for k in group]))
        text, picture = found
        ratios.append((text or 0.0) / (math.inf if picture is None else picture))
    middle = sum(ratios) / len(ratios)
    return torch.tensor(
        [head if ratio >= middle else [0.0] * len(head) for head, ratio in zip(heads, ratios, strict=True)]
    )


def side(adapter, reader, request, answer, layer):
    """Logits of the model and of its side stream at every step of a given answer, (NEW, V) each."""
    inputs = adapter.inputs([request])
    stack, norm = Anatomy(reader.eager.model).decoder, Anatomy(reader.eager.model).final_norm
    caught = {}

    def catch(name):
        def hook(module, args, output):
            caught[name] = output[0] if isinstance(output, tuple) else output

        return hook

    hook = stack.layers[-1].register_forward_hook(catch("out"))
    main = reader.logits(inputs, answer[:-1])
    hook.remove()
    entering, first = reader.states[len(stack.layers) - 1], next(k for k in range(999) if k not in reader.image)

    def scores(reader, index, scores):
        if index == layer:
            caught["masked"] = (scores[0, 0] < UNSEEN).tolist()
        return scores

    def probs(reader, index, weights):
        if index != layer:
            return weights
        edited = weights.clone()
        for row in range(reader.length - 1, weights.shape[2]):
            edited[0, :, row] = leaned(weights[0, :, row], set(reader.image), first, caught["masked"][row])
        return edited

    hook = stack.site(layer, "attn").register_forward_hook(catch("stream"))
    reader.logits(inputs, answer[:-1], probs=probs, scores=scores)
    hook.remove()
    last, found = stack.layers[-1], []
    mlp = getattr(last, "mlp", None) or last.feed_forward
    with torch.no_grad():
        for row in range(reader.length - 1, len(entering)):
            mixed = 0.2 * entering[row] + last.input_layernorm(caught["stream"][0, row])
            update = mlp(last.post_attention_layernorm(mixed)[None, None])
            update = update[0] if isinstance(update, tuple) else update
            states = norm(mixed + update.reshape(mixed.shape)) + 0.5 * norm(caught["out"][0, row])
            found.append(reader.eager.model.get_output_embeddings()(states[None, None])[0, 0].float())
    return main, torch.stack(found)


def combined(layer, *, near, far, gamma, beta, distances):
    """Return what gives the scores of every step of a given answer, (NEW, V)."""

    def reference(adapter, reader, request, answer):
        scores = []
        for main, other in zip(*side(adapter, reader, request, answer, layer), strict=True):
            main, other = main.log_softmax(-1), other.log_softmax(-1)
            distances.append(float((main.exp() - other.exp()).abs().sum()))
            both = main + near * other if distances[-1] < gamma else (1 + far) * main - far * other
            scores.append(torch.where(main.exp() < beta * main.exp().max(), -math.inf, both))
        return torch.stack(scores)

    return reference


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "llava" else pytest.mark.slow) for name in CARRYING]
)
def test_a_batch_is_the_formula_of_each_prompt(name):
    distances, gamma = [], 1.0  # some are nearer, some farther
    reference = combined(0, near=0.7, far=2.0, gamma=gamma, beta=0.02, distances=distances)
    check(name, f"only(alpha_near=0.7, alpha_far=2, gamma={gamma}, beta=0.02, layer='0')", reference)
    if name == "llava":
        assert {distance < gamma for distance in distances} == {True, False}, distances


def test_a_later_layer_and_both_sides_of_the_distance():
    for gamma in (0.0, 2.1):
        reference = combined(2, near=0.7, far=2.0, gamma=gamma, beta=0.02, distances=[])
        check("llava", f"only(alpha_near=0.7, alpha_far=2, gamma={gamma}, beta=0.02, layer='2')", reference)


@pytest.mark.slow
def test_beams_are_those_of_a_naive_search_over_the_formula():
    adapter, reader = family("llava")
    reference, found = combined(0, near=0.7, far=2.0, gamma=1.0, beta=0.3, distances=[]), []
    for request in REQUESTS[:2]:
        found.append(searched(lambda answer, one=request: reference(adapter, reader, one, [*answer, 0])[-1], 3)[0])
    config = Settings(max_new_tokens=4, num_beams=3).resolved(adapter.generator)
    method = mmhall.strategy("only(alpha_near=0.7, alpha_far=2, gamma=1.0, beta=0.3, layer='0')")
    assert list(map(tuple, run(adapter, adapter.inputs(REQUESTS[:2]), method, config).tolist())) == found


def test_the_row_of_a_toy():
    """Thresholds 0.1018 of text and 0.2436 of the picture: its weight 0.30 alone goes, wherever the picture stands."""
    weights = torch.tensor([0.30, 0.05, 0.10, 0.05, 0.10, 0.02, 0.30, 0.08, 0.0])
    kinds = [2, 0, 0, 1, 1, 1, 1, 0, 3]  # the last column is masked
    for order in (list(range(9)), [3, 4, 5, 6, 0, 1, 2, 7, 8]):
        groups = torch.tensor([kinds[k] for k in order])[None, None, None]
        left, ratio = suppress_largest(weights[order][None, None, None], groups == 0, groups == 1)
        assert (left[0, 0, 0] == 0).nonzero()[:, 0].tolist() == sorted([order.index(6), order.index(8)])
        assert left.sum().item() == pytest.approx(0.70, abs=1e-4)
        assert ratio.item() == pytest.approx(1.1487, abs=1e-4)
    _, ratio = suppress_largest(weights[None, None, None], groups == 0, groups == 5)
    assert ratio.item() == 0  # no picture in sight


def test_a_column_that_is_seen_counts_although_its_weight_has_vanished():
    """Of (0.4, 0, 0, 0) the mean is 0.1 and the deviation 0.2, so that 0.4 goes; alone it would stay."""
    weights = torch.tensor([0.4, 0.0, 0.0, 0.0, 0.3, 0.3])[None, None, None]
    text = torch.arange(6)[None, None, None] < 4
    left, _ = suppress_largest(weights, text, ~text)
    assert left[0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0, 0.3, 0.3])


def test_the_scores_of_a_toy():
    main, other = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    logs = main.log_softmax(-1), other.log_softmax(-1)
    assert (logs[0].exp() - logs[1].exp()).abs().sum().item() == pytest.approx(0.6638, abs=1e-4)
    for gamma, wanted in ((0.2, [3.0, 1.0, -1.0]), (0.7, [5.0, 4.0, 3.0])):
        got = near_or_far(*logs, Only(gamma=gamma, alpha_near=3.0, alpha_far=1.0))[0]
        torch.testing.assert_close(got - got[0] + wanted[0], torch.tensor(wanted), rtol=0, atol=1e-4)


def test_each_row_has_its_own_distance():
    main = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]).log_softmax(-1)
    other = torch.tensor([[2.0, 1.0, 0.1], [-9.0, 1.0, 9.0]]).log_softmax(-1)
    got = near_or_far(main, other, Only(gamma=0.2, alpha_near=3.0, alpha_far=1.0))
    torch.testing.assert_close(got, torch.stack([main[0] + 3 * other[0], 2 * main[1] - other[1]]))


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter, nothing = ours("llava"), "only(alpha_near=0, alpha_far=0, beta=0{})"
    for spec, request in (
        (nothing.format(""), REQUESTS[0]),
        (nothing.format(", twin=2"), REQUESTS[0]),
        ("only", Request("What?")),
    ):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert (*session.ops, *session.exits, session.combine) == (None,)
    cut = mmhall.strategy("only(alpha_near=0, alpha_far=0)").fitted(adapter)
    session = cut.prepare(adapter, adapter.inputs(REQUESTS[:1]))
    assert (*session.ops, *session.exits) == ()
    assert session.combine is not None


def test_the_twin_keeps_as_many_heads_at_random():
    adapter = ours("llava")
    batch, kept, first = adapter.inputs(REQUESTS[:2]), [], []
    for twin in range(7):
        session = mmhall.strategy(f"only(twin={twin})").fitted(adapter).prepare(adapter, batch)
        with torch.inference_mode():
            opened(adapter, batch, session, Settings(max_new_tokens=4).resolved(adapter.generator))
        kept.append(session.ops[0].findings(3)["text-leaning heads"])
        first.append(session.ops[0]._kept[0])
    assert kept[0][1:].isnan().all()
    assert len({float(one[0].sum()) for one in kept}) == 1
    assert not torch.equal(kept[0][0], kept[1][0])
    informed, *drawn = first
    assert any((one & informed).any() for one in drawn)  # from all heads: the others are the opposite choice
    assert any((~one & ~informed).any() for one in drawn)
    spec = "only(twin=1, alpha_far=3, gamma=0.1)"
    alone = [said(adapter, adapter.inputs([one]), spec)[0] for one in REQUESTS[:2]]
    assert said(adapter, batch, spec) == alone


def test_tokens_tried_side_by_side_have_side_streams_of_their_own():
    """As a search does: each of them is scored as where it is the only one."""
    check_candidates("only(beta=0, gamma=1.0)")


def test_what_it_claims():
    assert mmhall.strategy("only").claims == {CONTRAST}
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("only+vcd")


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_models_that_cannot_carry_it_say_why(name, reason):
    with pytest.raises(CompositionError, match=rf"^only: \w+ cannot carry it: .*{reason}"):
        mmhall.strategy("only").fitted(ours(name))


def test_in_half_precision():
    check_half("only(alpha_far=3)", "only(alpha_near=0, alpha_far=0, beta=0)")


def test_what_it_cannot_do_is_refused():
    for option, value in (
        ("alpha_near", -1),
        ("alpha_far", math.nan),
        ("gamma", -0.1),
        ("beta", 2),
        ("layer", "x"),
        ("twin", -1),
    ):
        with pytest.raises(OptionError, match=rf"^only: {option} must be .*, got"):
            mmhall.strategy("only", **{option: value})
    adapter = ours("llava")
    with pytest.raises(OptionError, match=r"^only: layer must be one layer of this model, got '0:2'"):
        mmhall.strategy("only(layer='0:2')").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:2]))
