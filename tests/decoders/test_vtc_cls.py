"""VTC-CLS against a shorter prompt read by transformers; what the class token ranks, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.errors import CompositionError, ModelError, OptionError
from mmhall.generation._settings import Settings
from mmhall.strategies import ClassRanking, keep_highest, kept_count
from tests.decoders.rows import check, check_candidates, check_half
from tests.generation.reference import QUIET, REQUESTS, ours
from tests.jobs import opened

pytestmark = QUIET

KEEP = 0.2


def test_scores_are_summed_over_layers():
    """Rows (.05, .30, .10, .20) and (.25, .10, .10, .30) sum to (.30, .40, .20, .50): of two, 1 and 3 are kept."""
    ranking = ClassRanking("vtc-cls", torch.ones(1, 4, dtype=torch.bool), frozenset({1, 2}), 0.5, 0)
    for layer, row in ((1, [0.05, 0.30, 0.10, 0.20]), (2, [0.25, 0.10, 0.10, 0.30])):
        call = type("Call", (), {"layer": layer})
        heads = torch.tensor([[0.3, *row], [0.5, *row]])[None, :, None]
        ranking.see(call, torch.tensor([0]), heads)
    torch.testing.assert_close(ranking.importance(), torch.tensor([[0.30, 0.40, 0.20, 0.50]]))
    assert ranking.dropped().tolist() == [[True, False, True, False]]
    assert kept_count(0.2222, torch.tensor([576, 3, 1])).tolist() == [128, 1, 1]
    tied = keep_highest(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), torch.ones(1, 4, dtype=torch.bool), [2])
    assert tied.tolist() == [[False, True, True, False]]


def kept_patches(adapter, pixels, layers):
    """Patches by attention that transformers' own eager tower returns, (pictures, patches) bool."""
    tower = copy.deepcopy(adapter.anatomy.vision.module)
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        maps = tower(pixels, output_attentions=True).attentions
    scores = sum(maps[layer][:, :, 0, 1:].mean(dim=1) for layer in layers)
    ranked = scores.argsort(dim=1, descending=True)[:, : round(KEEP * scores.shape[1])]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, ranked, value=True)


def shorter(layers):
    """Return what gives the scores of every step of a given answer, (NEW, V), read after a shorter prompt."""

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        image = adapter.image_mask(inputs["input_ids"])[0]
        reader.logits(inputs, answer[:-1])
        states = reader.states[0]
        kept = torch.ones(len(states), dtype=torch.bool)
        kept[: len(image)][image] = kept_patches(adapter, inputs["pixel_values"], layers).flatten()
        with torch.no_grad():
            read = adapter.decoder(inputs_embeds=states[kept][None], use_cache=False).last_hidden_state
            return adapter.model.get_output_embeddings()(read)[0, -len(answer) :].log_softmax(-1)

    return reference


@pytest.mark.parametrize("layers", ["0", "1", "0, 1"])
def test_a_batch_is_the_shorter_prompt_of_each(layers):
    check("llava", f"vtc-cls(keep={KEEP}, layers='{layers}')", shorter([int(one) for one in layers.split(",")]))


def test_each_of_several_pictures_keeps_the_same_share():
    pictures = tuple(request.images[0] for request in REQUESTS[:2])
    several = [Request("What differs?", pictures), Request("How many are there?", pictures[::-1])]
    check("llava", f"vtc-cls(keep={KEEP}, layers='0')", shorter([0]), several)


def test_what_is_kept_is_found_and_no_layer_holds_more():
    adapter = ours("llava")
    inputs, kept = adapter.inputs(REQUESTS[:1]), []
    for twin in (0, 1, 2):
        session = mmhall.strategy("vtc-cls", keep=0.25, twin=twin).fitted(adapter).prepare(adapter, inputs)
        with torch.inference_mode():
            _, rows = opened(adapter, inputs, session, Settings(max_new_tokens=3).resolved(adapter.generator))
        found = session.findings(3)
        kept.append(found["image tokens kept"])
        assert found["share of image tokens kept"].tolist() == [[0.25]] * 3
        lengths = {layer.keys.shape[2] for layer in rows.parts[0][0].cache.layers}
        assert lengths == {inputs["input_ids"].shape[1] - 12}
    assert kept[0].bool().tolist() == kept_quarter(adapter, inputs)
    assert len({tuple(one.tolist()) for one in kept}) == 3


def kept_quarter(adapter, inputs):
    """The tiny tower has two layers: "50%:-1" names none, so that the nearest, the second, is read."""
    tower = copy.deepcopy(adapter.anatomy.vision.module)
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        scores = tower(inputs["pixel_values"], output_attentions=True).attentions[1][0, :, 0, 1:].mean(dim=0)
    return [bool(score >= scores.sort(descending=True).values[3]) for score in scores]


def test_what_cannot_be_carried_is_refused():
    for name, reason in (
        ("mllama", "there are no image tokens to drop"),
        ("qwen2_5_vl", "its image tokens are not the patches of a vision tower"),
        ("llava_next", "its image tokens are not the patches of a vision tower"),
        ("llava_qwen2", "its vision tower has no class token"),
        ("llava_phi3", "cannot be closed: the window of layer 0 counts them"),
    ):
        with pytest.raises(CompositionError, match=f"vtc-cls: .* cannot carry it: .*{reason}"):
            mmhall.strategy("vtc-cls").fitted(ours(name))
    adapter = ours("llava")
    with pytest.raises(OptionError, match="vtc-cls: layers must be"):
        mmhall.strategy("vtc-cls(layers='7')").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS))
    with pytest.raises(OptionError, match="keep must be above 0, at most 1"):
        mmhall.strategy("vtc-cls(keep=0)")
    ranking = ClassRanking("vtc-cls", torch.ones(1, 5, dtype=torch.bool), frozenset({0}), 0.5, 0)
    with pytest.raises(ModelError, match="has read 0 patches, but the prompts have 5 image tokens"):
        ranking.dropped()


def test_half_precision_and_searches():
    check_half("vtc-cls(keep=0.1)", "vtc-cls(keep=1)")
    check_candidates("vtc-cls(keep=0.2)")
