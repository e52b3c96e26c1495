"""The decoder's passes are counted: prompts and tokens, branches, beams, shared prefixes."""

from __future__ import annotations

import pytest

PROMPT = "Please describe this image in detail."
TOKENS = 6


def usage(lvlm, strategy, requests, **settings):
    answers = lvlm.generate_batch(requests, strategy, max_new_tokens=TOKENS, **settings)
    longest = max(answer.usage.new_tokens for answer in answers) - 1
    used = answers[0].usage
    return used.rows / longest, used.passes / longest, used.prompt_reads / used.prompt_tokens


@pytest.mark.parametrize(
    ("strategy", "rows", "passes", "prompts"),
    [
        ("greedy", 1, 1, 1),
        ("vcd", 2, 1, 2),  # a second picture: each prompt is read twice, each token has two rows
        ("beam", 5, 1, 1),
        ("vhr+vcd", 2, 1, None),
    ],
)
def test_passes_and_rows_are_those_of_the_method(embedded, pictures, strategy, rows, passes, prompts):
    found = usage(embedded, strategy, [(picture, PROMPT) for picture in pictures[:2]])
    assert found[:2] == (rows, passes)
    assert prompts is None or found[2] == prompts


def test_what_explain_states_is_what_is_counted(embedded, pictures):
    for strategy in ("greedy", "vcd", "vdd", "vista", "only"):
        stated = embedded.explain(strategy, pictures[0], PROMPT).cost
        counted = usage(embedded, strategy, [(pictures[0], PROMPT)])
        assert counted[:2] == (stated.token_rows, stated.token_passes), strategy


def test_a_shared_prefix_is_read_once(embedded, pictures):
    """Three questions about one picture: it is read once, 64 tokens, and three short questions."""
    asked = [(pictures[0], f"Is there a {name} in the image?") for name in ("dog", "cat", "car")]
    shared = usage(embedded, "greedy", asked)[2]
    alone = usage(embedded, "greedy", asked, shared_prefix=False)[2]
    assert alone == pytest.approx(1, abs=0.1)
    assert shared < 0.6


def test_streams_that_take_turns_count_their_own_passes(embedded, pictures):
    streams = {name: embedded.stream(pictures[0], PROMPT, name, max_new_tokens=4) for name in ("greedy", "vcd")}
    while [name for name, stream in streams.items() if stream.step() is not None]:
        pass
    for name, stream in streams.items():
        alone = embedded.generate(pictures[0], PROMPT, name, max_new_tokens=4).usage
        told = stream.answer.usage
        assert (told.passes, told.rows, told.prompt_reads) == (alone.passes, alone.rows, alone.prompt_reads)
