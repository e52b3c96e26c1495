"""Texts that strategies learn from, read behind their prompts; and pairs held out of a fit."""

from __future__ import annotations

import pytest
import torch

from mmhall.adapters import adapter_for
from mmhall.fitting import fit, hold_out, read_states, read_text
from mmhall.generation._requests import make_request
from mmhall.strategies import Pair, PairSet
from tests.lean import Last, Lean
from tests.zoo import ZOO, built


@pytest.mark.parametrize("family", ZOO)
def test_texts_are_read_behind_the_prompts_of_every_family(family, pictures):
    adapter = adapter_for(*built(family))
    layer = next(layer for layer, kind in enumerate(adapter.kinds) if layer and kind in Last.kinds)
    last, text = Last(layer), "The image shows a dog."
    width = read_text(adapter, pictures[0], "Describe this image.", text, [last])
    ids = adapter.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert width == len(ids)
    asked = adapter.append_answer(
        adapter.inputs([make_request(pictures[0], "Describe this image.")]), torch.tensor([ids])
    )
    with torch.inference_mode():
        outputs = adapter.model_for(asked)(**asked, output_hidden_states=True)
    states = getattr(outputs, "language_model_outputs", outputs).hidden_states[layer]
    torch.testing.assert_close(last.state, states[0, -1].float(), rtol=1e-3, atol=1e-4)
    adapter.close()


@pytest.fixture
def pairs(pictures, tmp_path):
    """Twelve pairs about three pictures; the fifth and the tenth are held out."""
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    texts = [[f"There are {number} of a {thing}" for thing in ("dog", "cat")] for number in range(12)]
    return PairSet(tuple(Pair(f"{n % 3}", files[n % 3], "Describe it.", *texts[n]) for n in range(12)), "made")


def test_every_fifth_pair_is_held_out(pairs):
    rest, held_out = hold_out(pairs)
    assert held_out == (pairs.pairs[4], pairs.pairs[9])
    assert rest.pairs == tuple(pair for pair in pairs.pairs if pair not in held_out)
    few = PairSet(pairs.pairs[:4], "few")
    assert hold_out(few) == (few, ())


def margin(lvlm, pair, direction):
    """What the plain model, reading each text at once, and a push of its scores make of a pair."""
    means = []
    for text in (pair.faithful, pair.hallucinated):
        inputs = lvlm.adapter.inputs([make_request(pair.picture, pair.prompt)])
        ids = torch.tensor([lvlm.processor.tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            logits = lvlm.model(**lvlm.adapter.append_answer(inputs, ids)).logits[0, -ids.shape[1] - 1 : -1]
        pushed = (logits.log_softmax(-1) + direction).log_softmax(-1)
        means.append(pushed.gather(1, ids.T).mean())
    return float(means[0] - means[1])


def test_a_fit_is_scored_on_pairs_that_it_has_not_seen(llava, pairs):
    artifact, (first, second) = fit(llava, Lean(), pairs, seed=7), hold_out(pairs)[1]
    report, direction = artifact.facts["held_out"], artifact.tensors["direction"]
    assert (report["samples"], report["ids"]) == (2, [first.id, second.id])
    assert set(report) == {"samples", "ids", "plain", "strategy"}  # it has no twin
    leaning = 4.0 * llava.model.get_output_embeddings().weight.detach() @ (direction / direction.norm())
    plain, pushed = ([margin(llava, pair, by) for pair in (first, second)] for by in (torch.zeros(1), leaning))
    assert report["plain"] == {"right": sum(one > 0 for one in plain) / 2}
    assert report["strategy"]["right"] == sum(one > 0 for one in pushed) / 2
    changes = [after - before for before, after in zip(plain, pushed, strict=True)]
    assert report["strategy"]["change"] == pytest.approx(sum(changes) / 2, abs=1e-4)
    assert report["strategy"]["low"] == pytest.approx(min(changes), abs=1e-4)
    assert report["strategy"]["high"] == pytest.approx(max(changes), abs=1e-4)
    assert llava.adapter.artifacts == {}


def test_a_strategy_with_a_twin_is_scored_beside_it(llava, pairs):
    made = fit(llava, "vti(component=False)", pairs, seed=7)
    report = made.facts["held_out"]
    assert report["twin"]["change"] != report["strategy"]["change"]
    assert {"low", "high", "right"} < set(report["twin"])
    neutral = fit(llava, "vti(component=False, alpha=0)", pairs, seed=7).facts["held_out"]
    assert neutral["strategy"] == neutral["twin"] == {**neutral["plain"], "change": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize(("rows", "count"), [("last", 1), ("text", None), ("all", 0)])
def test_states_of_texts_are_those_of_a_plain_pass(llava, pictures, rows, count):
    text = "The image shows a dog."
    states = read_states(llava.adapter, pictures[0], "Describe it.", text, rows)
    ids = torch.tensor([llava.processor.tokenizer(text, add_special_tokens=False)["input_ids"]])
    inputs = llava.adapter.inputs([make_request(pictures[0], "Describe it.")])
    with torch.inference_mode():
        hidden = llava.model(**llava.adapter.append_answer(inputs, ids), output_hidden_states=True).hidden_states
    width = ids.shape[1] if count is None else count
    wanted = torch.stack([layer[0, -width:].mean(dim=0) for layer in hidden[1:-1]])  # the last has passed the norm
    torch.testing.assert_close(states[:-1], wanted, rtol=1e-4, atol=1e-4)
