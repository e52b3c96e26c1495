"""Llama 4 runs also where transformers alone cannot run it."""

from __future__ import annotations

import pytest
import transformers
from PIL import Image

from mmhall.adapters._base import Request
from mmhall.lvlm import LVLM
from tests.zoo import ZOO


def as_loaded():
    """A model without what the tests' models have so that transformers can run them."""
    model, processor = ZOO["llama4"]()
    model.language_model._forward_hooks.clear()
    return model, processor


def test_it_answers_and_is_given_back_as_it_was():
    model, processor = as_loaded()
    lvlm, picture = LVLM(model, processor), Image.new("RGB", (40, 40), (90, 20, 160))
    assert len(lvlm.generate(picture, "What is this?", "vdd", max_new_tokens=4).token_ids) > 0
    lvlm.close()
    assert not model.language_model._forward_hooks


@pytest.mark.skipif(transformers.__version__ != "5.24.0", reason="other versions can run it")
def test_transformers_alone_cannot_run_it():
    """Once this fails, `add_missing_outputs` has done its work and can go, with the version that needs it."""
    model, _ = as_loaded()
    inputs = LVLM(*ZOO["llama4"]()).adapter.inputs([Request("What?", (Image.new("RGB", (40, 40)),))])
    with pytest.raises(AttributeError, match="image_outputs"):
        model(**inputs)
