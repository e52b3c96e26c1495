"""A prompt that asks for a short answer: the plain model asked differently."""

from __future__ import annotations

import pytest

import mmhall
from mmhall.decoders.brief import Brief
from mmhall.errors import CompositionError, OptionError
from mmhall.generation import make_requests
from tests.conftest import make_random_llava
from tests.generation.reference import QUIET

pytestmark = QUIET

QUESTION = "Please describe this image in detail."


def test_it_is_the_plain_model_asked_differently(processor, pictures):
    """A request that is reworded already, and one without a picture, stay as they are."""
    llava = mmhall.LVLM(make_random_llava(processor), processor, "random")
    plain = llava.generate(pictures[0], f"{QUESTION} Be brief.", "greedy", max_new_tokens=4)
    assert llava.generate(pictures[0], QUESTION, "brief", max_new_tokens=4).token_ids == plain.token_ids
    asked, bare = make_requests([(pictures[0], QUESTION), (None, QUESTION)])
    once = Brief().rewrite(asked)
    assert once.conversation.question == f"{QUESTION} Be brief."
    assert Brief().rewrite(once) is once
    assert Brief().rewrite(bare) is bare
    with pytest.raises(CompositionError, match="brief: these inputs are of the question as it was before"):
        mmhall.strategy("brief").prepare(llava.adapter, llava.adapter.inputs([asked]))
    sure = mmhall.strategy("brief(text='Mention only what you are sure of.')")
    assert sure.reword(QUESTION) == f"{QUESTION} Mention only what you are sure of."
    with pytest.raises(OptionError, match="brief: text must be a text without white space around it"):
        mmhall.strategy("brief(text=' a')")
