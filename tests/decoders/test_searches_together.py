"""Searches of a batch share their passes, and find what each prompt finds alone."""

from __future__ import annotations

import pytest
import torch

from mmhall.attention import PassCount, count_passes
from mmhall.decoders.opera import Retrospection
from mmhall.errors import CompositionError
from mmhall.generation import Feed, Keep, PromptSearch, Split, run_searches
from mmhall.generation._scheduling import Scheduler
from mmhall.generation._settings import Settings
from mmhall.strategies import Session, strategy
from tests.clip import CLIP
from tests.decoders.test_cgd import dotted
from tests.decoders.test_halc import LETTERS, spec_of, wordy
from tests.generation.reference import QUIET, REQUESTS, cut, ours
from tests.jobs import decode, run

pytestmark = [QUIET, pytest.mark.usefixtures("clip", "detector")]

GOES_BACK = "opera(threshold=1, scale_factor=20, num_attn_candidates=3)"
WILD = f"cgd(clip={str(CLIP)!r}, temperature=1.5, alpha=0.05)"


def counted(adapter, requests, spec, **settings):
    """Answers to requests in one batch, without padding, and the passes over answers."""
    method, count = strategy(spec), PassCount()
    config = Settings(**settings).resolved(adapter.generator, method.beams)
    inputs = adapter.inputs(requests)
    with count_passes(count):
        rows = run(adapter, inputs, method, config).tolist()
    return [cut(row, adapter.generator.generation_config.eos_token_id) for row in rows], count.passes


def check(adapter, spec, **settings):
    """Check that a batch finds what its prompts find alone, and return its passes over those of all prompts."""
    together, passes = counted(adapter, REQUESTS, spec, **settings)
    alone = [counted(adapter, [request], spec, **settings) for request in REQUESTS]
    assert together == [answer for answers, _ in alone for answer in answers]
    return passes / sum(number for _, number in alone)


@pytest.fixture
def gone_back(monkeypatch):
    """Rollbacks, as pairs of prompt and step, and the prompts of each pass that follows one."""
    backs, passes = [], []
    roll_back, feed = Retrospection._roll_back, Scheduler._pass

    def recorded(self, kept):
        backs.append((self.prompt, kept))
        return roll_back(self, kept)

    def passed(self, batches, requests):
        passes.append((len(backs), len(requests)))
        return feed(self, batches, requests)

    monkeypatch.setattr(Retrospection, "_roll_back", recorded)
    monkeypatch.setattr(Scheduler, "_pass", passed)
    return backs, passes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("llava", GOES_BACK),
        ("llava", "opera(threshold=1, scale_factor=20, compat_fp16=True)"),
        ("llava", f"vcd+{GOES_BACK}"),
        ("llava", f"vhr(alpha=4)+{GOES_BACK}"),
        ("llava", f"resdec+{GOES_BACK}"),
        ("qwen2_5_vl", GOES_BACK),
        ("gemma3", GOES_BACK),
        ("gemma3", f"vdd+{GOES_BACK}"),
        ("mllama", GOES_BACK),
        ("mllama", f"vdd+{GOES_BACK}"),
    ],
)
def test_opera_goes_back_in_some_prompts_while_others_go_on(name, spec, gone_back):
    backs, _ = gone_back
    share = check(ours(name), spec, num_beams=3, min_new_tokens=13, max_new_tokens=22, num_return_sequences=2)
    print("BACKS", backs, share)
    assert len({prompt for prompt, _ in backs}) > 1
    assert len({kept for _, kept in backs}) > 1
    assert share < 0.9
