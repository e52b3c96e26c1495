"""Nullu against edited weights and its formula written out; its fit on numbers, its invariants and its twin."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.decoders.nullu import find_subspace
from mmhall.errors import FitError, OptionError
from mmhall.strategies import Strategy
from mmhall.strategies._layers import parse_layers
from tests.decoders.fitted import fitted_artifact, made_pairs, with_artifacts
from tests.decoders.rows import check, family
from tests.decoders.steering import edited, from_row, outputs
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

CLOSE = {"rtol": 0, "atol": 1e-4}
VARIANTS = {"all": "layers='1:', rank=3", "answer": "layers='1:', rank=2, rows='answer'"}


def read_layers(adapter):
    """Layers from the second on that are given whole prompts."""
    return [layer for layer in range(1, len(adapter.layers)) if layer not in adapter.newest_only]


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    adapter, _ = family(name)
    basis = with_artifacts(adapter).artifacts["nullu"].tensors["basis"]
    rank = 3 if variant == "all" else 2

    def reference(adapter, reader, request, answer):
        reader.begin(adapter.inputs([request]))
        first = 0 if variant == "all" else reader.length - 1

        def edit(layer, states):
            def project(part):
                return part - sum((part @ basis[layer, :, [at]]) * basis[layer, :, at] for at in range(rank))

            return from_row(first, states, project)

        with edited(reader, "mlp", read_layers(adapter), edit):
            return reader.logits(adapter.inputs([request]), answer[:-1]).log_softmax(-1)

    with torch.no_grad():
        check(name, f"nullu({VARIANTS[variant]})", reference)


def test_it_is_what_edited_weights_do():
    """W' = (I - V V^T) W in the last matrix of the MLP, as in the released code."""
    adapter, _ = family("llava")
    basis = with_artifacts(adapter).artifacts["nullu"].tensors["basis"]

    def reference(adapter, reader, request, answer):
        stack, kept = Anatomy(reader.eager.model).decoder, []
        for layer in (1, 2):
            weight = stack.layers[layer].mlp.down_proj.weight
            kept.append((weight, weight.detach().clone()))
            own = basis[layer, :, :4]
            weight.data = (torch.eye(len(own)) - own @ own.T) @ weight
        logits = reader.logits(adapter.inputs([request]), answer[:-1])
        for weight, before in kept:
            weight.data = before
        return logits.log_softmax(-1)

    with torch.no_grad():
        check("llava", "nullu(layers='1, 2')", reference)


def test_the_subspace_of_a_toy():
    """(1.5, 2, 0) and (3, 4, 0): one dimension, (0.6, 0.8, 0); (1, 2, 3) becomes (-0.32, 0.24, 3)."""
    halves = torch.tensor([[1.5, 2.0, 0.0], [3.0, 4.0, 0.0]])
    state = torch.tensor([1.0, 2.0, 3.0])
    for given in (halves, halves.flip(0), -halves):
        basis, spectrum = find_subspace(given)
        torch.testing.assert_close(basis[:, 0].abs(), torch.tensor([0.6, 0.8, 0.0]), **CLOSE)
        assert (basis[:, 1:] == 0).all()
        torch.testing.assert_close(torch.tensor(spectrum), torch.tensor([5.5902, 0.0]), **CLOSE)
        left = state - basis @ (basis.T @ state)
        torch.testing.assert_close(left, torch.tensor([-0.32, 0.24, 3.0]), **CLOSE)
        torch.testing.assert_close(left - basis @ (basis.T @ left), left)
        torch.testing.assert_close(basis.T @ left, torch.zeros(basis.shape[1]), **CLOSE)


@pytest.mark.parametrize("feature", ["text", "all", "last"])
def test_the_fit_is_that_of_plain_passes(feature):
    adapter = ours("llava")
    found = fitted_artifact(adapter, f"nullu(feature={feature!r})")

    def states(pair, text):
        ids = torch.tensor([adapter.tokenizer(text, add_special_tokens=False)["input_ids"]])
        inputs = adapter.append_answer(adapter.inputs([Request(pair.prompt, (pair.picture,))]), ids)
        first = {"text": -ids.shape[1], "all": 0, "last": -1}[feature]
        return torch.stack([layer[first:].mean(dim=0) for layer in outputs(adapter, inputs)])

    halves = torch.stack([states(p, p.hallucinated) - states(p, p.faithful) for p in made_pairs()]) / 2
    for layer, basis in enumerate(found.tensors["basis"]):
        _, spectrum, rows = torch.linalg.svd(halves[:, layer].double(), full_matrices=False)
        values = found.facts["numbers"][f"layer {layer}"]["singular values"]
        torch.testing.assert_close(torch.tensor(values).double(), spectrum[:8], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close((rows[0].float() @ basis[:, 0]).abs(), torch.tensor(1.0), rtol=0, atol=1e-3)


def test_texts_that_leave_the_same_states_are_refused():
    adapter = ours("llava")
    method = Strategy.fitted(mmhall.strategy("nullu"), adapter)
    same = [type(pair)(pair.id, pair.picture, pair.prompt, pair.faithful, pair.faithful) for pair in made_pairs(2)]
    with torch.inference_mode(), pytest.raises(FitError, match="leave the same states"):
        method.fit(adapter, same, 0)


def bases(spec):
    adapter = with_artifacts(ours("llava"))
    (op,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1])).ops
    return op._bases


def test_the_twin_removes_other_dimensions_as_many():
    true, one, again = (bases(f"nullu(rank=2, twin={twin})") for twin in (0, 1, 1))
    for layer, basis in true.items():
        assert torch.equal(one[layer], again[layer])
        torch.testing.assert_close(one[layer].T @ one[layer], torch.eye(2), **CLOSE)
        assert float(torch.linalg.matrix_norm(basis.T @ one[layer], 2)) < 0.9


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = with_artifacts(ours("llava"))
    cases = (("nullu(rank=0)", REQUESTS[0]), ("nullu(rank=0, twin=3)", REQUESTS[0]), ("nullu", Request("What?")))
    for spec, request in cases:
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert session == mmhall.Session(), spec


def test_defaults_are_the_released_ones():
    assert parse_layers("50%:", ["full"] * 32, {"full"}, "nullu", "layers") == set(range(16, 32))
    fitted = mmhall.strategy("nullu").fitted(with_artifacts(ours("llava")))
    assert (fitted.rank, fitted.layers) == (4, "50%:")


@pytest.mark.parametrize(
    ("option", "value"),
    [("rank", -1), ("rank", 17), ("rank", 1.5), ("feature", "first"), ("layers", "x"), ("twin", -1)],
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^nullu: {option} must be .*, got"):
        mmhall.strategy("nullu", **{option: value})
