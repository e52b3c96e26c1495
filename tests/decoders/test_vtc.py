"""VTC against its formula written out: patches merged one by one, and pairs inhibited row by row."""

from __future__ import annotations

import copy
import math
from itertools import product

import pytest
import torch

import mmhall
from mmhall.decoders.vtc import cluster, low_pairs, merge
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._settings import Settings
from tests.decoders.rows import UNSEEN, check, check_candidates, check_half
from tests.generation.reference import QUIET, REQUESTS, ours
from tests.jobs import opened

pytestmark = QUIET

KEEP, CLUSTERS = 4, 2  # of 16 patches


def test_pairs_below_the_mean_focus_are_low():
    """A_TI (.2, .1), (.05, .3) and A_TT (1, 0), (.5, .5): F (.2, .1), (.125, .2), whose mean is .15625."""
    among, looks = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]]), torch.tensor([[[0.2, 0.1], [0.05, 0.3]]])
    focus = among @ looks
    torch.testing.assert_close(focus, torch.tensor([[[0.2, 0.1], [0.125, 0.2]]]))
    every = torch.ones(1, 1, 2, dtype=torch.bool)
    assert low_pairs(focus, every, torch.ones(1, 2, 1)).tolist() == [[[False, True], [True, False]]]
    assert low_pairs(focus, every, torch.tensor([[[1.0], [0.0]]])).tolist() == [[[False, True], [False, False]]]


def test_clusters_are_by_cosine_and_merged_by_importance():
    """Vectors along x and along y; of x, importances 1 and 3 give (4 + 3 * 8) / 4 = 7 at the second's place."""
    states = torch.tensor([[9.0, 9.0], [4.0, 0.0], [0.0, 1.0], [8.0, 0.0], [0.0, 5.0]])
    assert cluster(states[1:], 2).tolist() in ([0, 1, 0, 1], [1, 0, 1, 0])
    highest = torch.tensor([True, False, False, False, False])
    merged, kept = merge(states.clone(), torch.tensor([9.0, 1.0, 1.0, 3.0, 1.0]), highest, 2)
    assert kept.tolist() == [True, False, True, True, False]
    torch.testing.assert_close(merged, torch.tensor([[9.0, 9.0], [4.0, 0.0], [0.0, 3.0], [7.0, 0.0], [0.0, 5.0]]))
    assert torch.equal(merge(states.clone(), torch.ones(5), highest, 0)[1], highest)
    assert merge(states.clone(), torch.ones(5), highest, 9)[1].sum() == 3  # no more clusters than directions


def shorter_states(adapter, reader, inputs, answer):
    """The embeddings of the prompt with its answer, its picture of patches merged one by one; and their number."""
    tower = copy.deepcopy(adapter.anatomy.vision.module)
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        read = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    importance = read.attentions[0][0, :, 0, 1:].mean(dim=0).tolist()
    patches = read.hidden_states[-2][0, 1:]
    ranked = sorted(range(16), key=lambda j: -importance[j])
    tokens, rest = {j: patches[j] for j in ranked[:KEEP]}, sorted(ranked[KEEP:])
    labels = cluster(patches[rest], CLUSTERS).tolist()
    for label in set(labels):
        members = [j for j, own in zip(rest, labels, strict=True) if own == label]
        total = sum(importance[j] for j in members)
        tokens[max(members, key=lambda j: importance[j])] = sum(importance[j] / total * patches[j] for j in members)
    with torch.no_grad():
        picture = adapter.anatomy.projector(torch.stack([tokens[j] for j in sorted(tokens)])[None])[0]
    reader.logits(inputs, answer[:-1])
    states, image = reader.states[0], reader.image
    return torch.cat([states[: image[0]], picture, states[image[-1] + 1 :]])[None], len(tokens)


def inhibited(scores, image, length):
    """Scores in which each text row no longer sees image columns with a focus below the mean."""
    weights, edited = scores.softmax(-1).mean(dim=1)[0], scores.clone()
    text = range(image[-1] + 1, length)

    def focus(row, column):
        through = [t for t in text if t <= row] + ([row] if row >= length else [])
        return sum(float(weights[row, t] * weights[t, column]) for t in through)

    for rows in (list(text), *([row] for row in range(length, scores.shape[2]))):
        values = {pair: focus(*pair) for pair in product(rows, image)}
        mean = sum(values.values()) / len(values)
        for (row, column), value in values.items():
            if value < mean:
                edited[:, :, row, column] = UNSEEN
    return edited


@pytest.mark.parametrize("inhibit", [1, 0])
def test_a_batch_is_the_formula_of_each_prompt(inhibit):
    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        states, count = shorter_states(adapter, reader, inputs, answer)
        first, length = reader.image[0], states.shape[1] - len(answer) + 1
        image = range(first, first + count)
        edits = {"scores": lambda layer, scores: inhibited(scores, image, length) if layer == 1 else scores}
        reader.eager._begin(edits if inhibit == 0 else {})
        with torch.no_grad():
            logits = reader.eager.model(inputs_embeds=states, use_cache=False).logits
        return logits[0, -len(answer) :].log_softmax(-1)

    share = f"keep={KEEP / 16}, clusters={CLUSTERS / 16}"
    check("llava", f"vtc({share}, inhibit={inhibit}, layers='1')", reference)


def test_pairs_are_inhibited_without_merging():
    def reference(adapter, reader, request, answer):
        def scores(reader, layer, scores):
            return inhibited(scores, reader.image, reader.length) if layer in (0, 2) else scores

        return reader.logits(adapter.inputs([request]), answer[:-1], scores=scores).log_softmax(-1)

    check("llava", "vtc(keep=1, inhibit=0, layers='0, 2')", reference)


def test_as_many_tokens_are_kept_by_a_twin_and_weights_are_scaled():
    adapter = ours("llava")
    inputs, config = adapter.inputs(REQUESTS[:1]), Settings(max_new_tokens=3).resolved(adapter.generator)
    kept = []
    for twin in (0, 1, 2):
        session = mmhall.strategy("vtc", keep=0.25, clusters=0.0, twin=twin).fitted(adapter).prepare(adapter, inputs)
        with torch.inference_mode():
            opened(adapter, inputs, session, config)
        kept.append(session.findings(3)["image tokens kept"])
    assert [int(one.sum()) for one in kept] == [4, 4, 4]
    assert len({tuple(one.tolist()) for one in kept}) == 3
    ops = mmhall.strategy("vtc(keep=1, inhibit=0.5)").fitted(adapter).prepare(adapter, inputs).ops
    assert [op._bias for op in ops] == [math.log(0.5)]


def test_what_cannot_be_carried_is_refused():
    with pytest.raises(CompositionError, match="vtc: qwen2_5_vl cannot carry it: its image tokens are not the patches"):
        mmhall.strategy("vtc").fitted(ours("qwen2_5_vl"))
    adapter = ours("llava")
    with pytest.raises(OptionError, match="encoder must be one encoder layer of this model's vision tower"):
        mmhall.strategy("vtc(encoder='0:2')").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS))


def test_rows_are_claimed_only_where_pairs_are_inhibited():
    for other in ("vaf", "pai(gamma=1)"):
        merging = mmhall.strategy(f"vtc(inhibit=1)+{other}").fitted(ours("llava"))
        assert len(merging.prepare(ours("llava"), ours("llava").inputs(REQUESTS[:1])).ops) == 3
        with pytest.raises(
            CompositionError, match=r"the rows of attention, .* or vtc\(inhibit=1\), which merges alone"
        ):
            mmhall.strategy(f"vtc+{other}")


@pytest.mark.parametrize("spec", ["vtc", "vtc-cls", "imbalance"])
def test_a_class_token_among_the_image_tokens_is_refused(spec, monkeypatch):
    adapter = ours("llava")
    assert adapter.patches
    assert adapter.merges_patches
    monkeypatch.setattr(adapter.model.config, "vision_feature_select_strategy", "full")
    assert not adapter.patches
    assert not adapter.merges_patches
    with pytest.raises(CompositionError, match=f"{spec}: llava cannot carry it: .* patches of (a|the) vision tower"):
        mmhall.strategy(spec).fitted(adapter)


def test_half_precision_and_searches():
    check_half("vtc(keep=0.1)", "vtc(keep=1, inhibit=1)")
    check_candidates("vtc(keep=0.2)")
