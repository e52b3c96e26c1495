"""The list of strategies that read a picture again for each question about it."""

from __future__ import annotations

import re

import pytest

from mmhall.adapters import Request
from mmhall.generation import why_not_shared
from mmhall.strategies import strategy
from tests.decoders.test_contract import SINGLE, named, ours
from tests.generation.reference import QUIET, picture
from tests.jobs import prepared
from tests.sources import ROOT


@QUIET
@pytest.mark.usefixtures("clip", "detector")
def test_the_page_lists_the_strategies_that_read_a_picture_again():
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^- Again for each question: (.*?)^- ", text, re.MULTILINE | re.DOTALL)
    adapter, again = ours("llava"), set()
    for spec in SINGLE:
        asked = adapter.inputs([Request("Is there a dog?", (picture(40, 40, 4),))])
        inputs, session = prepared(adapter, asked, strategy(spec))
        if why_not_shared(adapter, inputs, session) or any(branch.ops for branch in session.decoded):
            again |= named(spec)
    assert set(re.findall(r"`([^`]*)`", listed)) == again
