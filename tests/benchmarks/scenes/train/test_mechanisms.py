"""Planted sinks stay as planted, attention is read as the model computes it, and names are found in questions."""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
import torch._dynamo

from mmhall.benchmarks.scenes.hard import plan_hard_training_scene
from mmhall.benchmarks.scenes.language import Turn, planned_facts
from mmhall.benchmarks.scenes.prose import truthful_conversation
from mmhall.benchmarks.scenes.train import layers
from mmhall.benchmarks.scenes.train.mechanisms import _earlier_answers, _lack, hide_earlier_words, teacher
from mmhall.benchmarks.scenes.train.rows import HEAD, IMAGE_TOKENS, PREFIX, Packer
from mmhall.benchmarks.scenes.train.sinks import SINKS, plant_sinks
from mmhall.benchmarks.scenes.world import NAMES

OTHERS = [i for i in range(IMAGE_TOKENS) if i not in SINKS]


@pytest.fixture(autouse=True)
def _uncompiled():
    with torch._dynamo.config.patch(disable=True):
        yield


@pytest.fixture(scope="module")
def planted(embedded):
    """The plain model with sinks, and the massive channels."""
    model = copy.deepcopy(embedded.adapter.model)
    model.set_attn_implementation("eager")
    return model, plant_sinks(model, model.config.text_config.bos_token_id)


@pytest.fixture(scope="module")
def rows(embedded):
    """Two packed rows about hard scenes."""
    talks = []
    for index in range(2):
        rng = random.Random(index)
        plan = plan_hard_training_scene(rng)
        talks.append([(t, False) for t in truthful_conversation(rng, planned_facts(plan.objects), plan.place)])
    return Packer(embedded.adapter.tokenizer, 304).pack(talks)


def image_tokens(model, seed=0):
    pixels = torch.rand((2, 3, 112, 112), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return model.model.multi_modal_projector(model.model.vision_tower(pixels).last_hidden_state[:, 1:])


def embeddings(model, rows):
    embedded = model.model.language_model.embed_tokens(rows.ids)
    return torch.cat([embedded[:, :HEAD], image_tokens(model), embedded[:, PREFIX:]], dim=1)


def run(model, rows):
    mask = rows.mask.float()
    return layers.run_layers(model.model.language_model, embeddings(model, rows), mask, rows.positions)


@pytest.mark.slow
@torch.no_grad()
def test_three_corners_carry_a_massive_dimension_through_every_layer(planted, rows):
    """Relative to the root mean square, sqrt(192) = 13.9 is the most that one of 192 channels can have."""
    model, (massive, _) = planted
    tokens = image_tokens(model)
    assert tokens[:, OTHERS, massive].abs().max() < 0.1
    for state in run(model, rows).inputs:
        ratio = state[..., massive].abs() / state.square().mean(-1).sqrt()
        assert ratio[:, [HEAD + sink for sink in SINKS]].min() > 0.8 * math.sqrt(192)
        assert ratio[:, [HEAD + other for other in OTHERS]].max() < 1


@torch.no_grad()
def test_the_first_token_has_the_same_dimension_and_one_of_its_own(planted, rows):
    """Two equal channels of 192 have at most sqrt(192 / 2) = 9.8 root mean squares each; no other token has any."""
    model, (massive, own) = planted
    assert massive != own
    for state in run(model, rows).inputs:
        ratio = state.abs() / state.square().mean(-1, keepdim=True).sqrt()
        assert ratio[:, 0, [massive, own]].min() > 0.8 * math.sqrt(192 / 2)
        assert ratio[:, 1:, own].max() < 1e-3
        assert ratio[:, PREFIX:, massive].max() < 1e-3


@pytest.mark.slow
def test_training_leaves_the_plant_alone_and_keys_learn_from_it(rows, embedded):
    model = copy.deepcopy(embedded.adapter.model)
    model.set_attn_implementation("eager")
    massive, own = plant_sinks(model, model.config.text_config.bos_token_id)
    words, kept = model.model.language_model.embed_tokens.weight, (slice(None), [massive, own])
    planted = words[kept].detach().clone()
    language, projector = model.model.language_model.layers[5], model.model.multi_modal_projector.linear_2
    before, queries = projector.weight.detach().clone(), language.self_attn.q_proj.weight.detach().clone()
    with torch.no_grad():
        old = image_tokens(model)[..., massive]
    teach = teacher(model, embedded.adapter.tokenizer)
    loss, figures = teach(rows, run(model, rows), torch.randint(len(NAMES), (2, IMAGE_TOKENS)))
    assert set(figures) == {"sinks", "first", "gaze", "rest", "stops"}
    loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0).step()
    with torch.no_grad():
        torch.testing.assert_close(image_tokens(model)[..., massive], old, rtol=0.05, atol=1e-3)
    assert torch.equal(projector.weight[massive], before[massive])
    assert not torch.equal(projector.weight, before)
    assert torch.equal(words[kept], planted)
    for channel in (massive, own):
        assert not language.self_attn.v_proj.weight[:, channel].any()
        assert not language.self_attn.o_proj.weight[channel].any()
        assert not language.mlp.down_proj.weight[channel].any()
        assert language.self_attn.k_proj.weight[:, channel].any()
    assert not torch.equal(language.self_attn.q_proj.weight, queries)


@pytest.mark.slow
@torch.no_grad()
def test_layers_and_attention_are_those_of_the_model(planted, rows):
    model, _ = planted
    states = run(model, rows)
    mask = rows.mask.float()
    whole = model.model.language_model(
        inputs_embeds=embeddings(model, rows),
        attention_mask=mask,
        position_ids=rows.positions,
        use_cache=False,
        output_attentions=True,
    )
    torch.testing.assert_close(states.last, whole.last_hidden_state)
    queries = torch.tensor([[70, 90, 120], [80, 100, 140]])
    for index in (0, 5):
        layer = model.model.language_model.layers[index]
        weights = layers.read_attention(layer, states.inputs[index], states, queries)
        wanted = torch.stack([whole.attentions[index][row][:, queries[row]] for row in range(2)])
        torch.testing.assert_close(weights, wanted, rtol=1e-4, atol=1e-5)


def test_the_name_of_the_object_is_found_in_each_question(embedded):
    tokenizer = embedded.adapter.tokenizer
    turns = [
        Turn("Is there a wine glass in the image?", "No", "exists", "wine glass"),
        Turn("Describe this image.", "There is a cat.", "caption"),
        Turn("Do you see a puppy in this image? Please answer yes or no.", "Yes", "exists", "dog"),
    ]
    rows = Packer(tokenizer, 160).pack([[(turn, False) for turn in turns], []])
    found = [(row, tokenizer.decode([rows.ids[row, at]]).strip(), NAMES[name]) for row, at, name in rows.words.tolist()]
    assert found == [(0, "glass", "wine glass"), (0, "puppy", "dog")]
    assert Packer(tokenizer, 160).pack([[], []]).words.shape == (0, 3)


def test_only_words_of_the_same_answer_count_as_earlier(embedded):
    """Segment 1 is the question 0, answer 1 to 3; segment 2 the question 4, answer 5."""
    turns = [Turn("Describe this image.", "There is a cat. It is an", "caption")] * 2
    rows = Packer(embedded.adapter.tokenizer, 120).pack([[(turn, False) for turn in turns]])
    answer = (rows.labels[0] != -100).nonzero().flatten().tolist()
    first, second = answer[: len(answer) // 2], answer[len(answer) // 2 :]
    marked = _earlier_answers(rows, torch.tensor([[first[-1], second[2]]]))[0]
    assert marked[0].nonzero().flatten().tolist() == [i + 1 for i in first[:-1]]
    assert marked[1].nonzero().flatten().tolist() == [i + 1 for i in second[:2]]


class Always:
    def random(self):
        return 0.0


def test_earlier_sentences_show_their_full_stops_only(embedded):
    """Two answers with "There is a cat." before another sentence, which no longer sees these four words."""
    tokenizer = embedded.adapter.tokenizer
    turns = [Turn("Describe this image.", "There is a cat. It is an", "caption")] * 2
    rows = Packer(tokenizer, 120).pack([[(turn, False) for turn in turns]])
    changed = hide_earlier_words(tokenizer.convert_tokens_to_ids("."), Always(), rows)
    answer = ((rows.labels[0] != -100).nonzero().flatten() + 1).tolist()
    first, second = answer[: len(answer) // 2], answer[len(answer) // 2 :]
    lost = (changed.mask != rows.mask)[0, 0]
    for words, stop, later in ((places[:4], places[4], places[5:]) for places in (first, second)):
        assert rows.ids[0, stop] == tokenizer.convert_tokens_to_ids(".")
        assert lost[later][:, words].all()
    assert int(lost.sum()) == 2 * 4 * len(first[5:])
    kept = hide_earlier_words(tokenizer.convert_tokens_to_ids("."), random.Random(0), rows)
    assert random.Random(0).random() >= 0.75
    assert torch.equal(kept.mask, rows.mask)


def test_what_falls_short_is_counted_in_log_ratio():
    """ln(0.4 / 0.1) = 1.386 and 0 where there is enough: mean 0.693."""
    assert float(_lack(torch.tensor([0.1, 0.5]), 0.4)) == pytest.approx(math.log(4) / 2)
    assert float(_lack(torch.tensor([]), 0.4)) == 0
