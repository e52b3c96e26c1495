"""Texts that strategies learn from, read behind their prompts."""

from __future__ import annotations

import pytest
import torch

from mmhall.adapters import adapter_for
from mmhall.fitting import read_text
from mmhall.generation._requests import make_request
from tests.lean import Last
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
