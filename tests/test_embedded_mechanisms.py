"""The model embedded/mechanisms: small, and with the attention patterns that were planted and taught."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.benchmarks.chair import PROMPT
from mmhall.benchmarks.scenes import make_scene
from mmhall.benchmarks.scenes.train.architecture import IMAGE_TOKENS
from mmhall.benchmarks.scenes.train.mechanisms import LOOKING, SINK_LAYERS
from mmhall.benchmarks.scenes.train.rows import HEAD, PREFIX
from mmhall.benchmarks.scenes.train.sinks import SINKS
from mmhall.models import SHIPPED

NAME = "embedded/mechanisms"


@pytest.fixture(scope="module")
def answered():
    """The model's caption of a hard scene, with the hidden states and attention weights of a pass over it."""
    lvlm = mmhall.load(NAME, attn_implementation="eager")
    scene = make_scene(4343, 3, 0.5, "hard")
    text = lvlm.generate(scene.image, PROMPT, max_new_tokens=200).text
    lvlm.close()  # restores the attention that returns weights
    prompt = f"USER: <image>\n{PROMPT} ASSISTANT: {text}"
    inputs = lvlm.adapter.processor(text=prompt, images=scene.image, return_tensors="pt")
    with torch.no_grad():
        out = lvlm.adapter.model(**inputs, output_attentions=True, output_hidden_states=True)
    return text, out


def test_the_folder_is_small_and_speaks(answered):
    assert sum(path.stat().st_size for path in SHIPPED[NAME].iterdir()) < 25_000_000
    assert (SHIPPED[NAME] / "README.md").read_text().startswith("---")
    assert "Overall, the picture shows" in answered[0]


def test_three_corners_and_the_first_token_carry_a_massive_dimension_in_every_layer(answered):
    for states in answered[1].hidden_states[:-1]:
        ratio = states[0].abs().amax(-1) / states[0].square().mean(-1).sqrt()
        assert ratio[0] > 9
        image = ratio[HEAD:PREFIX]
        assert image[list(SINKS)].min() > 9
        assert image[[i for i in range(IMAGE_TOKENS) if i not in SINKS]].max() < 8


def test_the_middle_layers_put_much_of_their_attention_to_the_picture_on_the_corners(answered):
    for layer in SINK_LAYERS:
        image = answered[1].attentions[layer][0, :, PREFIX:, HEAD:PREFIX].sum((0, 1))
        assert image[list(SINKS)].sum() / image.sum() > 0.15


def test_three_heads_of_a_layer_rest_on_the_first_token(answered):
    rest = torch.stack([weights[0, :, PREFIX:, 0].mean(-1) for weights in answered[1].attentions])
    assert rest[:, LOOKING:].mean() > 0.7
    assert rest[:, :LOOKING].mean() < 0.4


@pytest.mark.slow
def test_var_finds_the_massive_dimensions_at_the_first_token_and_acts():
    """Those of the first token, one of which the corners have, too; a large model's are found in the same way."""
    lvlm = mmhall.load(NAME)
    found = mmhall.strategy("var").fitted(lvlm.adapter).options()["sink_dims"]
    first = lvlm.adapter.decoder.embed_tokens.weight[lvlm.adapter.tokenizer.bos_token_id].abs()
    assert sorted(found) == first.topk(2).indices.sort().values.tolist()
    asked = [(make_scene(4343 + i, 3, 0.5, "hard").image, PROMPT) for i in range(4)]
    plain, steered = (lvlm.generate_batch(asked, strategy=s, max_new_tokens=120) for s in ("greedy", "var"))
    assert [one.text for one in plain] != [one.text for one in steered]
