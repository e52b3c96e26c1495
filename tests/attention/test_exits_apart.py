"""Early exits read the pass they were asked for, and the embeddings are one of them."""

from __future__ import annotations

import threading

import pytest
import torch

from mmhall.attention import Exit
from mmhall.errors import ModelError
from tests.generation.reference import QUIET, REQUESTS, ours

pytestmark = QUIET


@pytest.mark.parametrize("name", ["llava", "gemma3", "blip_2", "qwen3_5", "mllama"])
def test_the_embeddings_are_what_enters_the_first_layer(name):
    adapter, entered = ours(name), []
    inputs = adapter.inputs(REQUESTS[:2])
    noted = adapter.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    one = Exit(-1, norm=False)
    with torch.no_grad():
        with adapter.exits([one]).read(slice(2)) as read:
            main, (early,) = read.split(adapter.model(**inputs).logits)
        noted.remove()
        instead = adapter.model.get_output_embeddings().register_forward_pre_hook(lambda *call: (entered[0],))
        wanted = adapter.model(**inputs).logits
        instead.remove()
        torch.testing.assert_close(main, adapter.model(**inputs).logits)
    assert len(entered) == 1
    torch.testing.assert_close(early[one], wanted[:, -1:], rtol=1e-5, atol=1e-4)


def test_the_pass_of_another_thread_is_left_alone():
    """It is made in the middle of the pass whose exits are read."""
    adapter = ours("llava")
    here, there = (adapter.inputs([request]) for request in REQUESTS[:2])
    wanted, got, one = {}, {}, Exit(1)
    with torch.no_grad():
        for key, inputs in (("here", here), ("there", there)):
            wanted[key] = adapter.model(**inputs).logits
        with adapter.exits([one]).read(slice(1)) as read:
            _, (early,) = read.split(adapter.model(**here).logits)

    def work():
        with torch.no_grad():
            got["there"] = adapter.model(**there).logits

    def interrupt(*call):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    hook = adapter.layers[2].register_forward_hook(interrupt)
    try:
        with torch.no_grad(), adapter.exits([one]).read(slice(1)) as read:
            got["here"], (again,) = read.split(adapter.model(**here).logits)
    finally:
        hook.remove()
    for key, logits in wanted.items():
        torch.testing.assert_close(got[key], logits, rtol=0, atol=0 if key == "there" else 1e-5)
    torch.testing.assert_close(again[one], early[one], rtol=0, atol=1e-5)


def test_a_layer_that_is_not_there_is_refused():
    adapter = ours("llava")
    for layer in (-2, len(adapter.layers)):
        with pytest.raises(
            ModelError, match=rf"no layer {layer} for an early exit: .* 0 to 2, and the embeddings are -1"
        ):
            adapter.exits([Exit(layer)])
