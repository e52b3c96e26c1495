"""Rivals do the same work as mmhall, token by token, or the table says that they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmhall.benchmarks.timing import model, peers

TINY = model.Size(2, 128, torch.float32)


@pytest.fixture
def few(monkeypatch):
    """A function that leaves these rivals, by module."""
    return lambda **rivals: monkeypatch.setattr(peers, "RIVALS", rivals)


@pytest.mark.slow
def test_transformers_writes_the_same_tokens_alone_in_a_batch_and_with_beams(few):
    rivals = peers.RIVALS["transformers"]
    few(transformers=tuple(replace(rival, prompts=min(rival.prompts, 3)) for rival in rivals))
    reported = []
    compared = peers.measure(TINY, "cpu", turns=1, new_tokens=4, progress=reported.append)
    assert len(reported) == peers.runs(turns=1) == 2 * len(compared)
    assert [(one.strategy, one.prompts, one.tokens, one.differing) for one in compared] == [
        ("greedy", 1, 4, 0),
        ("greedy", 3, 12, 0),
        ("beam", 1, 4, 0),
        ("opera", 1, 4, None),
    ]
    for one in compared:
        assert len(one.time) == len(one.cpu_time) == 1
        assert all(value > 0 for value in (*one.time, *one.cpu_time, *one.seconds))
    header, *rows = peers.table(compared)
    assert {len(header), *map(len, rows)} == {7}
    assert [row[-1] for row in rows] == ["same", "same", "same", "another method"]


@pytest.mark.slow
def test_other_tokens_are_counted_and_named(few):
    """A rival that decodes greedily where mmhall contrasts, and one that stops a token early."""
    (plain, *_) = peers.RIVALS["transformers"]
    other = replace(plain, strategy="m3id(start=9)")

    def prepare(asked):
        answer = plain.prepare(asked)
        return lambda: [tokens[:-1] for tokens in answer()]

    few(transformers=(other, replace(plain, prepare=prepare)))
    contrasted, shorter = peers.measure(TINY, "cpu", turns=1, new_tokens=4)
    assert 0 < contrasted.differing <= 4
    assert shorter.differing == 1
    assert peers.table([contrasted, shorter])[2][-1] == "1 of 4 differ"


def test_differing_tokens_are_counted_place_by_place():
    assert peers.count_differing([[1, 2], [3]], [[1, 2], [3]]) == 0
    assert peers.count_differing([[1, 2], [3]], [[1, 5], [3, 4]]) == 2
    assert peers.count_differing([[1, 2]], [[1, 2], [3]]) == 1


def test_only_what_is_installed_is_timed_and_the_rest_is_named(few):
    rivals = peers.RIVALS["transformers"]
    few(transformers=rivals[:1], a_toolkit_of_nobody=rivals[1:])
    assert peers.installed() == list(rivals[:1])
    assert peers.runs(turns=2) == 3
    import transformers

    assert peers.describe_toolkits() == f"transformers {transformers.__version__}, a_toolkit_of_nobody not installed"


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated")  # of transformers, to mitigv
def test_mitigv_writes_the_same_tokens(few):
    pytest.importorskip("mitigv")
    few(mitigv=peers.RIVALS["mitigv"])
    assert [one.differing for one in peers.measure(TINY, "cpu", turns=1, new_tokens=4)] == [0, 0]
