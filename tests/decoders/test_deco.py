"""DeCo against its formula written out, in each kind of family; its candidates, its layers, and what is neutral."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters import Request
from mmhall.adapters._anatomy import Anatomy
from mmhall.decoders.deco import DeCo, candidates, corrected
from mmhall.errors import CompositionError, OptionError
from mmhall.options import rules
from mmhall.strategies import CONTRAST, Step, twin_generator
from mmhall.strategies._layers import parse_layers
from tests.decoders.rows import check, check_half
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

VARIANTS = {
    "few": ("alpha=8, top_k=6, top_p=0.04", {"alpha": 8.0, "top_k": 6, "top_p": 0.04}),
    "many": ("alpha=4, top_k=0, top_p=0.5", {"alpha": 4.0, "top_k": 10**6, "top_p": 0.5}),
    "twin": ("alpha=8, top_k=6, top_p=1, twin=3", {"alpha": 8.0, "top_k": 6, "top_p": 2.0, "twin": 3}),
}


def decoded(main, earlies, *, alpha, top_k, top_p, chosen=None):
    """The scores of one step, (V,), from logits of the last layer and of each earlier one."""
    main = main.double().log_softmax(-1)
    earlies = [early.double().log_softmax(-1) for early in earlies]
    kept, reached = [], 0.0
    for token in main.argsort(descending=True).tolist():
        if len(kept) == top_k or reached >= top_p:
            break
        kept.append(token)
        reached += math.exp(main[token])
    sureness = [max(math.exp(early[token]) for token in kept) for early in earlies]
    layer = sureness.index(max(sureness)) if chosen is None else chosen
    scores = torch.full_like(main, -math.inf)
    for token in kept:
        scores[token] = main[token] + alpha * sureness[layer] * earlies[layer][token]
    return scores.float()


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    """Layers are read by running the eager copy anew, with what enters a layer handed to its norm and head instead."""
    given, options = VARIANTS[variant]
    options = dict(options)
    twin = options.pop("twin", None)

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        main, states = reader.logits(inputs, answer[:-1]), dict(reader.states)
        model, earlies = reader.eager.model, []
        head, last = model.get_output_embeddings(), Anatomy(model).final_norm
        for layer in range(1, len(adapter.layers)):
            instead = last(states[layer][None])
            hook = head.register_forward_pre_hook(lambda module, args, instead=instead: (instead, *args[1:]))
            earlies.append(reader.logits(inputs, answer[:-1]))
            hook.remove()
        scores = []
        for at in range(len(answer)):
            drawn = twin and int(torch.randint(len(earlies), (), generator=twin_generator(twin, f"layer {at}")))
            scores.append(decoded(main[at], [one[at] for one in earlies], **options, chosen=drawn))
        return torch.stack(scores)

    with torch.no_grad():
        check(name, f"deco({given}, layers='1:')", reference)


def test_the_candidates_and_scores_of_a_toy():
    main = torch.tensor([[2.0, 1.8, 0.0, -1.0]]).log_softmax(-1)
    early = torch.tensor([[0.0, 2.0, 1.0, -3.0]]).log_softmax(-1)
    torch.testing.assert_close(main.exp(), torch.tensor([[0.4990, 0.4086, 0.0675, 0.0248]]), rtol=0, atol=1e-4)
    torch.testing.assert_close(early.exp(), torch.tensor([[0.0896, 0.6623, 0.2436, 0.0045]]), rtol=0, atol=1e-4)
    tokens, scores = candidates(main, 20, 0.9)
    assert tokens[0, scores[0] > -math.inf].tolist() == [0, 1]
    got, _ = corrected(scores, early.gather(-1, tokens)[None], 0.6)
    moved = got[0, :2] - got[0, 0] + 2.0
    torch.testing.assert_close(moved, torch.tensor([2.0, 2.5947]), rtol=0, atol=1e-4)
    assert (got[0, 2:] == -math.inf).all()


def test_how_many_candidates_there_are():
    main = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.95, 0.03, 0.01, 0.01]]).log()
    for top_k, top_p, wanted in (
        (0, 1.0, [4, 4]),
        (3, 1.0, [3, 3]),
        (0, 0.9, [3, 1]),
        (2, 0.9, [2, 1]),
        (9, 0.45, [1, 1]),
    ):
        _, scores = candidates(main, top_k, top_p)
        assert (scores > -math.inf).sum(dim=-1).tolist() == wanted, (top_k, top_p)


def test_each_row_adds_the_layer_that_is_surest_of_a_candidate():
    """A layer that is surer of another token does not count."""
    scores = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    early = torch.tensor([[[0.3, 0.1], [0.1, 0.7]], [[0.2, 0.5], [0.2, 0.1]]]).log()
    got, layers = corrected(scores, early, 2.0)
    assert layers.tolist() == [1, 0]
    wanted = scores + torch.stack([2.0 * 0.5 * early[1, 0], 2.0 * 0.7 * early[0, 1]])
    torch.testing.assert_close(got, wanted)
    out = torch.tensor([[0.6, -math.inf], [0.6, 0.4]]).log().nan_to_num(nan=-math.inf)
    torch.testing.assert_close(corrected(out, early, 2.0)[0][0, 0], scores[0, 0] + 2.0 * 0.3 * early[0, 0, 0])
    torch.testing.assert_close(corrected(scores, early, 2.0, 1)[0][1], scores[1] + 2.0 * 0.2 * early[1, 1])


def test_the_layer_that_each_token_adds_is_found():
    """Of a model of 3 layers the inputs of 1 and 2 are read; the first row's choices are shown: 2, then 1."""
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    session = mmhall.strategy("deco(layers='1:', top_p=1)").fitted(adapter).prepare(adapter, inputs)
    sure, unsure = (torch.tensor([[one, 1 - one]] * 2).log() for one in (0.9, 0.6))
    assert session.findings(3)["added layers"].shape == (0, 3, 1)
    for t, early in enumerate(((unsure, sure), (sure, unsure))):
        exits = dict(zip(session.exits, early, strict=True))
        session.combine(Step(unsure, (), torch.zeros(2, t, dtype=torch.long), exits=exits))
    found = session.findings(3)["added layers"][..., 0]
    torch.testing.assert_close(found, torch.tensor([[math.nan, 0, 1], [math.nan, 1, 0]]), equal_nan=True)
    plain = mmhall.strategy("deco(alpha=0, top_k=3)").fitted(adapter).prepare(adapter, inputs)
    assert plain.findings(3) == {}


def test_layers_are_the_states_after_20_to_28_of_32():
    default = rules(DeCo)["layers"].general
    for spec in (default, DeCo.published["llava", 32]["layers"]):
        assert parse_layers(spec, ["full"] * 32, {"full"}, "deco", "layers") == set(range(20, 29))
    adapter = ours("llava")
    session = mmhall.strategy("deco(layers='1:')").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))
    assert [one.layer for one in session.exits] == list(range(len(adapter.layers) - 1))
    assert all(one.norm for one in session.exits)


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    neutral = "deco(alpha=0, top_k=0, top_p=1)"
    for spec, request in (
        (neutral, REQUESTS[0]),
        (f"{neutral[:-1]}, twin=1)", REQUESTS[0]),
        ("deco", Request("What?")),
    ):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert (session.combine, list(session.exits)) == (None, []), spec
    session = mmhall.strategy("deco(alpha=0)").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))
    assert (session.combine is None, list(session.exits)) == (False, [])


def test_in_half_precision():
    check_half("deco(alpha=8, top_k=6)", "deco(alpha=0)")


def test_what_it_claims_and_what_it_cannot_do_is_refused():
    assert mmhall.strategy("deco").claims == {CONTRAST}
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("deco+dola")
    wrong = (("alpha", -0.1), ("alpha", math.nan), ("top_k", -1), ("top_p", 0), ("top_p", 1.1), ("layers", "deep"))
    for option, value in wrong:
        with pytest.raises(OptionError, match=rf"^deco: {option} must be .*, got"):
            mmhall.strategy("deco", **{option: value})
