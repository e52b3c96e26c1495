"""Head divergence against head outputs of two whole passes, hooked in front of the output projection."""

from __future__ import annotations

import pytest
import torch

from mmhall.adapters._base import Request
from mmhall.analysis._head_divergence import HeadDivergence, head_divergence
from mmhall.errors import OptionError, PromptError
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours

pytestmark = QUIET

ANSWER = (70, 81, 92, 70)


def hooked(adapter, inputs):
    """Inputs of each self-attention's output projection, by layer, (T, H, D)."""
    seen, hooks = {}, []
    for index, layer in enumerate(adapter.layers):
        for name, part in layer.named_modules():
            if name.endswith(("self_attn.o_proj", "self_attn.out_proj", "self_attn.dense")):

                def take(_, args, index=index):
                    seen[index] = args[0][0].unflatten(-1, (adapter.heads, -1))

                hooks.append(part.register_forward_pre_hook(take))
    with torch.no_grad():
        adapter.model_for(inputs)(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "qwen3_5"])
def test_it_is_the_distance_of_head_outputs(family):
    """Qwen3.5 gates its heads between attention and projection: there is no such place to hook."""
    adapter = ours(family)
    inputs = adapter.inputs(REQUESTS[:1])
    found = head_divergence(adapter, inputs, ANSWER)
    tokens = torch.tensor([ANSWER])
    pictured, bare = (
        hooked(adapter, adapter.append_answer(variant, tokens)) for variant in (inputs, adapter.without_image(inputs))
    )
    assert found.values.shape == (len(ANSWER), len(found.layers), adapter.heads)
    for place, layer in enumerate(found.layers):
        wanted = (pictured[layer][-5:-1] - bare[layer][-5:-1]).norm(dim=-1)
        torch.testing.assert_close(found.values[:, place], wanted, rtol=1e-4, atol=1e-4)
    assert found.values.max() > 1e-3


def test_a_token_sums_the_largest_heads_of_each_layer():
    """Heads 1, 3, 2 and 0, 5, 1 of two layers: 3 + 5 for k = 1, 5 + 6 for k = 2."""
    values = torch.tensor([[[1.0, 3.0, 2.0], [0.0, 5.0, 1.0]]])
    divergence = HeadDivergence(values, (0, 1))
    assert divergence.per_token(1).tolist() == [8.0]
    assert divergence.per_token(2).tolist() == [11.0]
    for k in (0, 4, True, 1.5):
        with pytest.raises(OptionError, match="head divergence: k must be an integer from 1 to 3"):
            divergence.per_token(k)


def test_a_person_asks_for_an_answer_in_words(llava, pictures):
    divergence = llava.head_divergence(pictures[0], "What is there?", "a dog and a cup")
    tokens = llava.adapter.tokenizer("a dog and a cup", add_special_tokens=False)["input_ids"]
    own = head_divergence(llava.adapter, llava.adapter.inputs([Request("What is there?", (pictures[0],))]), tokens)
    torch.testing.assert_close(divergence.values, own.values)
    assert divergence.values.shape == (len(tokens), 3, 4)


def test_what_cannot_be_compared_is_refused(llava, pictures):
    with pytest.raises(PromptError, match="give both"):
        llava.head_divergence(None, "What is there?", "a dog")
    with pytest.raises(PromptError, match="give both"):
        llava.head_divergence(pictures[0], "What is there?", "")
    with pytest.raises(PromptError, match="exceed the model's context"):
        llava.head_divergence(pictures[0], "What is there?", "a dog and " * 300)


def test_special_tokens_in_an_answer_stay_text(llava, pictures):
    answer = "a <image> b</s>"
    count = len(llava.score(pictures[0], "What is there?", answer).logprobs)
    assert len(llava.head_divergence(pictures[0], "What is there?", answer).values) == count > 5
