"""Imbalance against its formula written out; its groups; its guidance and twin."""

from __future__ import annotations

import copy
from itertools import product

import numpy as np
import pytest
import torch

import mmhall
from mmhall.attention import active
from mmhall.benchmarks.scenes import make_scene
from mmhall.decoders.imbalance import group_tokens
from mmhall.errors import CompositionError, ModelError
from mmhall.generation import make_request
from mmhall.strategies import CONTRAST, Session
from tests.decoders.rows import UNSEEN, check, check_half, family, guided
from tests.generation.reference import QUIET, REQUESTS, built, ours

pytestmark = QUIET


def test_one_of_eight_values_is_above_the_fence():
    """Q1 = 1, Q3 = 2.25, fence 4.125; of equal early values the first are local, and the summary token is not."""
    late = torch.tensor([1.0, 1, 1, 2, 2, 2, 3, 20])
    early = torch.tensor([0.5, 0.1, 0.5, 0.2, 0.5, 0.1, 0.1, 0.9])
    local, summary = group_tokens(early, late, 0.25)
    assert summary.tolist() == 7 * [False] + [True]
    assert local.tolist() == [True] + 7 * [False]
    local, summary = group_tokens(early, late, 0.5)
    assert local.nonzero()[:, 0].tolist() == [0, 2, 4]


def test_groups_may_be_empty_and_tokens_without_a_patch_are_in_none():
    even = torch.ones(8)
    local, summary = group_tokens(even, even, 0.0)
    assert not local.any()
    assert not summary.any()
    nan = torch.tensor([1.0, torch.nan, 1, 2, 2, 2, 3, 20, 1, torch.nan])
    local, summary = group_tokens(nan, nan, 1.0)
    assert summary.nonzero()[:, 0].tolist() == [7]
    assert local.nonzero()[:, 0].tolist() == [0, 2, 3, 4, 5, 6, 8]


def towers_maps(adapter, inputs):
    """The weights of each layer of the vision tower, computed eagerly, (pictures, H, Q, K) each."""
    tower = copy.deepcopy(adapter.anatomy.vision.module)
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        return tower(inputs["pixel_values"], output_attentions=True).attentions


def naive_groups(adapter, inputs, share=0.25):
    """Local and summary tokens of a single prompt, as indices among its image tokens, with numpy."""
    cls, values = adapter.anatomy.has_cls, []
    maps = towers_maps(adapter, inputs)
    for weights in (maps[0], maps[-2]):
        rows = weights[0, :, 0, 1:] if cls else weights[0].mean(dim=1)
        by_patch = rows.sum(dim=0).numpy()
        count = int(adapter.image_mask(inputs["input_ids"]).sum())
        side, across = int(len(by_patch) ** 0.5), int(count**0.5)
        blocks = by_patch.reshape(across, side // across, across, side // across)
        values.append(blocks.mean(axis=(1, 3)).ravel())
    early, late = values
    low, high = np.quantile(late.astype(np.float64), [0.25, 0.75])
    summary = set(np.nonzero(late > high + 1.5 * (high - low))[0].tolist())
    local = set(np.argsort(-early, kind="stable")[: round(share * len(early))].tolist()) - summary
    return local, summary


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_a_batch_is_the_formula_of_each_prompt(name):
    """With a CLS token, and without; where tokens are patches, and where they are blocks of them."""
    alpha, beta, gamma = 2.0, 1.0, 1.3

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        local, summary = naive_groups(adapter, inputs, 0.4)

        def edit(reader, layer, scores):
            edited = scores.clone()
            for head, row in product(range(scores.shape[1]), range(reader.length - 1, scores.shape[2])):
                for tokens, strength in ((local, alpha), (summary, beta)):
                    columns = [reader.image[token] for token in tokens]
                    own = scores[0, head, row, columns]
                    edited[0, head, row, columns] = torch.where(own > UNSEEN, own + strength * own.abs(), own)
            return edited

        main = reader.logits(inputs, answer[:-1], scores=edit)
        bare = adapter.append_answer(adapter.without_image(inputs), torch.tensor([answer[:-1]]))
        with torch.no_grad():
            other = adapter.model_for(bare)(**bare, use_cache=False).logits[0, -len(answer) :]
        return torch.stack([guided(*logits, gamma) for logits in zip(main, other, strict=True)])

    check(name, f"imbalance(alpha={alpha}, beta={beta}, gamma={gamma}, share=0.4, layers=':')", reference)


def test_groups_of_the_embedded_model_are_read_off_two_layers_of_its_tower():
    """The first of six and the fifth; of drawn scenes some have summary tokens."""
    lvlm, counts = mmhall.load("embedded"), []
    for seed in (1, 2, 3):
        inputs = lvlm.adapter.inputs([make_request(make_scene(seed, 3, 0.5, "hard").image, "Is there a cup?")])
        session = mmhall.strategy("imbalance(gamma=1)").fitted(lvlm.adapter).prepare(lvlm.adapter, inputs)
        with torch.no_grad(), active(lvlm.adapter.plan(session.ops, inputs)):
            lvlm.adapter.model(**inputs)
        local, summary = (tokens.nonzero()[:, 0].tolist() for tokens in session.ops[0].findings(6).values())
        assert (set(local), set(summary)) == naive_groups(lvlm.adapter, inputs)
        counts.append(len(summary))
    assert len(lvlm.adapter.anatomy.vision.layers) == 6
    assert max(counts) > 0


def groups_of(spec, requests=REQUESTS[:2], name="llava"):
    adapter, _ = family(name)
    inputs = adapter.inputs(requests)
    ops = mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs).ops
    with torch.no_grad(), active(adapter.plan(ops, inputs)):
        adapter.model(**inputs)
    return adapter, inputs, ops[0]


def test_each_sample_of_a_batch_has_its_own_groups():
    adapter, inputs, op = groups_of("imbalance(gamma=1)")
    local, summary = op.groups()
    image = adapter.image_mask(inputs["input_ids"])
    for row, request in enumerate(REQUESTS[:2]):
        _, single, alone = groups_of("imbalance(gamma=1)", [request])
        for both, one in zip((local, summary), alone.groups(), strict=True):
            assert torch.equal(both[row, image[row]], one[adapter.image_mask(single["input_ids"])])
    assert not torch.equal(local[0, image[0]], local[1, image[1]])
    assert not (local & summary).any()
    assert not ((local | summary) & ~image).any()


def test_prompts_with_and_without_a_picture_in_one_batch():
    """As `generate` takes them from a processor: each prompt gets the answer that it gets by itself."""
    model, processor = built("llava")
    (image,), side = REQUESTS[0].images, processor.tokenizer.padding_side
    loop = mmhall.custom_generate("imbalance(alpha=3, beta=3)", processor=processor)

    def answers(texts, pictures):
        inputs = processor(text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt")
        rows = model.generate(**inputs, custom_generate=loop, max_new_tokens=4, do_sample=False)
        return rows[:, inputs["input_ids"].shape[1] :].tolist()

    texts = ["<image> Is there a dog? Yes or no, and why?", "What is a cup?"]
    assert processor.tokenizer.padding_side == side
    assert answers(texts, [image]) == answers(texts[:1], [image]) + answers(texts[1:], None)


def test_a_trace_shows_both_groups():
    _, _, op = groups_of("imbalance(gamma=1)", REQUESTS[:1])
    maps = op.findings(3)
    local, summary = op.groups()
    assert maps["local tokens"].sum() == local.sum() > 0
    assert maps["summary tokens"].shape == maps["local tokens"].shape
    assert maps["summary tokens"].sum() == summary.sum()


@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", "paligemma"])
def test_other_families_group_the_tokens_of_all_pictures_of_a_prompt(name):
    adapter, inputs, op = groups_of("imbalance(gamma=1, share=0.5)", name=name)
    image = adapter.image_mask(inputs["input_ids"])
    local, summary = op.groups()
    for row in range(2):
        taken = (local | summary)[row, image[row]]
        assert 0.3 * int(image[row].sum()) <= int(taken.sum()) <= 0.6 * int(image[row].sum())


def test_a_twin_has_groups_of_the_same_sizes_elsewhere_in_the_picture():
    adapter, inputs, op = groups_of("imbalance(gamma=1)")
    informed = [group.sum(1).tolist() for group in op.groups()]
    image, drawn = adapter.image_mask(inputs["input_ids"]), []
    for twin in (1, 2):
        _, _, other = groups_of(f"imbalance(gamma=1, twin={twin})")
        local, summary = other.groups()
        assert [group.sum(1).tolist() for group in (local, summary)] == informed
        assert not ((local | summary) & ~image).any()
        drawn.append(local)
    assert not torch.equal(drawn[0], op.groups()[0])
    assert not torch.equal(*drawn)


def test_in_half_precision():
    check_half("imbalance(alpha=3, beta=3, gamma=1)", "imbalance(alpha=0, beta=0, gamma=1)")


def test_what_it_claims_and_refuses():
    assert CONTRAST in mmhall.strategy("imbalance").claims
    assert CONTRAST not in mmhall.strategy("imbalance(gamma=1)").claims
    with pytest.raises(CompositionError, match="both want the rows of attention"):
        mmhall.strategy("imbalance(gamma=1)+pai(gamma=1)")
    for name, reason in (("instructblip", "of which patches of the vision tower"), ("mllama", "cross-attention")):
        with pytest.raises(CompositionError, match=f"imbalance: {name} cannot carry it: .*{reason}"):
            mmhall.strategy("imbalance").fitted(ours(name))
    adapter = ours("llava")
    bare = adapter.without_image(adapter.inputs(REQUESTS[:1]))
    assert mmhall.strategy("imbalance").fitted(adapter).prepare(adapter, bare) == Session()


def test_a_tower_that_has_read_other_pictures_is_an_error():
    _, _, op = groups_of("imbalance(gamma=1)")
    op._groups = None
    op._seen[0] = {0: op._seen[0][0][:1]}
    with pytest.raises(ModelError, match="imbalance: the vision tower has read patches for"):
        op.groups()
