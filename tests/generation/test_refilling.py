"""Waiting prompts join as others end, and nobody notices: every answer is the one its prompt gets alone.

Answers of very different lengths come from an end that is chosen among what was said (see `test_leaving`), so that
prompts are read, decoded and joined at many steps.
"""

from __future__ import annotations

from itertools import count

import pytest
import torch

from mmhall import LVLM
from mmhall._transformers import caches
from mmhall.adapters import adapter_for
from mmhall.attention import Op, PassCount, count_passes, reuse_features
from mmhall.errors import GenerationError, ImageError, OptionError
from mmhall.generation import _refilling as refilling, _together as together
from mmhall.generation._waiting import queue
from mmhall.strategies import Session, Strategy
from tests.decoders.fitted import with_artifacts
from tests.decoders.test_contract import COMPOSED, PLAIN
from tests.generation.reference import QUIET, REQUESTS, built, ours, picture
from tests.generation.test_leaving import EMPTY, QUICK, rows_of, spread

pytestmark = [QUIET, EMPTY, pytest.mark.usefixtures("clip", "detector")]

LENGTH, ROWS = 9, 3
ORDER = (0, 1, 2, 3, 3, 2, 1, 0, 1, 2)
ASKED = tuple(REQUESTS[at] for at in ORDER)
EACH = [
    pytest.param(spec, {"do_sample": True} if at % 2 else {}, marks=() if quick else pytest.mark.slow)
    for at, spec in enumerate(("greedy", *PLAIN))
    for quick in [spec.startswith(QUICK) and spec not in COMPOSED]
]


@pytest.fixture
def passes(monkeypatch):
    """The main rows of each batch in each pass over answers."""
    seen, step = [], together.step_together

    def spied(batches, tokens):
        seen.append([batch.size for batch in batches])
        step(batches, tokens)

    monkeypatch.setattr(refilling, "step_together", spied)
    return seen


def asked(adapter, requests, spec, rows, *, seeds=None, **settings):
    """The answer to each request, with at most so many rows."""
    lvlm = LVLM(adapter.model, adapter.processor)
    lvlm.adapter = adapter  # with its artifacts
    pairs = [(list(request.images), request.prompt) for request in requests]
    scores = "num_return_sequences" not in settings
    found = lvlm.generate_many(
        pairs, spec, batch_size=rows, seeds=seeds, scores=scores, **{"max_new_tokens": LENGTH, **settings}
    )
    answers = dict(found)
    assert sorted(answers) == list(range(len(requests)))
    return [answers[number] for number in range(len(requests))]


class Ends:
    """Answers end at other tokens inside this context."""

    def __init__(self, adapter, ends):
        self.config, self.ends = adapter.generator.generation_config, ends

    def __enter__(self):
        self.before, self.config.eos_token_id = self.config.eos_token_id, self.ends

    def __exit__(self, *_):
        self.config.eos_token_id = self.before


def check(adapter, spec, passes, *, rows=ROWS, tolerance=5e-3, **settings):
    """Compare prompts that wait with the same prompts alone, each with a seed of its own; return the answers."""
    drawn = settings.get("do_sample")
    with Ends(adapter, None):
        seeds = range(len(REQUESTS)) if drawn else None
        free = [answer.token_ids for answer in asked(adapter, REQUESTS, spec, len(REQUESTS), seeds=seeds, **settings)]
    with Ends(adapter, spread(free)):
        alone = [
            asked(adapter, [request], spec, 1, seeds=[at] if drawn else None, **settings)[0]
            for at, request in enumerate(REQUESTS)
        ]
        passes.clear()
        answers = asked(adapter, ASKED, spec, rows, seeds=ORDER if drawn else None, **settings)
    for one, answer in zip((alone[at] for at in ORDER), answers, strict=True):
        assert answer.token_ids == one.token_ids
        assert answer.stopped_by == one.stopped_by
        torch.testing.assert_close(answer.scores, one.scores, rtol=tolerance, atol=tolerance)
    assert all(sum(sizes) <= rows for sizes in passes)
    return answers


@pytest.mark.parametrize(("spec", "way"), EACH, ids=str)
def test_whatever_strategy_a_waiting_prompt_is_answered_as_alone(spec, way, passes):
    answers = check(with_artifacts(ours("llava")), spec, passes, **way)
    assert max(map(len, passes)) > 1, "nothing has joined"
    copies, read = rows_of(spec), sum(answer.usage.new_tokens - 1 for answer in answers)
    if copies is not None:
        assert round(sum(answer.usage.rows for answer in answers)) == copies * read


def test_half_precision(passes):
    """Up to its rounding, as long as the same is said."""
    model, processor = built("llava")
    adapter = adapter_for(model.to(torch.bfloat16), processor)
    with Ends(adapter, spread([answer.token_ids for answer in asked(adapter, REQUESTS, "vcd", 1)])):
        alone = asked(adapter, ASKED, "vcd", 1)
        answers = asked(adapter, ASKED, "vcd", ROWS)
    assert max(map(len, passes)) > 1
    for one, answer in zip(alone, answers, strict=True):
        pairs = zip(one.token_ids, answer.token_ids, strict=False)
        same = next(
            (at for at, pair in enumerate(pairs) if len(set(pair)) > 1), min(len(one.scores), len(answer.scores)) - 1
        )
        both = one.scores[: same + 1].isfinite() & answer.scores[: same + 1].isfinite()
        own, its = (part.scores[: same + 1][both] for part in (answer, one))
        torch.testing.assert_close(own, its, rtol=0.1, atol=1.0)


@pytest.mark.slow
def test_several_draws_of_a_prompt(passes):
    adapter, settings = ours("llava"), {"do_sample": True, "num_return_sequences": 2}
    seeds = range(len(ASKED))
    with Ends(adapter, None):
        free = asked(adapter, ASKED, "vdd", 1, seeds=seeds, **settings)
    with Ends(adapter, spread([answer.token_ids for answer in free])):
        alone = [asked(adapter, [request], "vdd", 2, seeds=[at], **settings)[0] for at, request in enumerate(ASKED)]
        answers = asked(adapter, ASKED, "vdd", 6, seeds=seeds, **settings)
    assert max(map(len, passes)) > 1
    for one, answer in zip(alone, answers, strict=True):
        assert answer.token_ids == one.token_ids
        assert [other.token_ids for other in answer.others] == [other.token_ids for other in one.others]


def test_pictures_none_one_and_several(passes):
    adapter = ours("llava")
    first, second = REQUESTS[0].images[0], REQUESTS[1].images[0]
    kinds = ("Is there a dog?", ()), ("What is on the left?", (first,)), ("What differs?", (first, second))
    requests = [type(REQUESTS[0])(prompt, images) for prompt, images in (*kinds, *kinds[::-1], *kinds)]
    with Ends(adapter, None):
        free = [answer.token_ids for answer in asked(adapter, requests, "kvsmooth", 1)]
    with Ends(adapter, spread(free)):
        alone = asked(adapter, requests, "kvsmooth", 1)
        passes.clear()
        answers = asked(adapter, requests, "kvsmooth", ROWS)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in alone]
    assert max(map(len, passes)) > 1


def test_padding_that_nobody_needs_any_more_is_dropped(monkeypatch):
    """Rows that came last are as long as their own prompts and answers once the others have left."""
    adapter, lengths, step = ours("llava"), [], together.step_together

    def spied(batches, tokens):
        step(batches, tokens)
        ((state, _),) = batches[0].parts
        padding = min(block.padding for group in state.groups for block in group.blocks)
        lengths.append((padding, state.cache.get_seq_length() - state.ids.shape[1]))

    monkeypatch.setattr(refilling, "step_together", spied)
    with Ends(adapter, None):
        free = [answer.token_ids for answer in asked(adapter, ASKED, "greedy", 1)]
    lengths.clear()
    with Ends(adapter, spread(free)):
        asked(adapter, ASKED, "greedy", ROWS)
    assert set(lengths) == {(0, 0)}


class Sick(Strategy):
    """Has no score to choose from where the prompt is of some length."""

    name = "sick"

    def prepare(self, adapter, inputs):
        sick = (inputs["attention_mask"].sum(dim=1) == SICK)[:, None]
        return Session(combine=lambda step: step.main.masked_fill(step.each(sick) & (step.t == 2), torch.nan))


def test_a_prompt_that_fails_fails_alone(passes, tmp_path):
    global SICK
    adapter = ours("llava")
    lvlm = LVLM(adapter.model, adapter.processor)
    pairs = [(request.images[0], request.prompt) for request in ASKED]
    SICK = int(adapter.inputs(REQUESTS[1:2])["attention_mask"].sum())
    pairs[2] = (tmp_path / "none.png", "What?")
    with Ends(adapter, None):
        answers = dict(lvlm.generate_many(pairs, Sick(), batch_size=4, max_new_tokens=5))
        alone = dict(lvlm.generate_many([pairs[0]], max_new_tokens=5))[0]
    assert answers[0].token_ids == alone.token_ids
    failed = {number: type(each) for number, each in answers.items() if isinstance(each, Exception)}
    sick = {at: GenerationError for at, request in enumerate(ASKED) if request is REQUESTS[1]}
    assert failed == {2: ImageError, **sick}
    assert str(answers[1]).startswith("sick: step 2: the next-token scores hold")


class Hungry(Op):
    """Needs more memory than there is for more than two rows."""

    layers = frozenset({0})

    def rows(self, call):
        if len(call.query) > 2:
            raise RuntimeError("CUDA out of memory")


class Large(Strategy):
    name = "large"

    def prepare(self, adapter, inputs):
        return Session(ops=[Hungry()])


def test_without_memory_for_all_rows_there_are_fewer(passes):
    adapter = ours("llava")
    alone, answers = (asked(adapter, ASKED, spec, rows) for spec, rows in (("greedy", 1), (Large(), 8)))
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in alone]


def test_without_memory_to_join_all_are_asked_again(passes, monkeypatch):
    adapter, join, refused = ours("llava"), caches.join, []

    def full(several, *places):
        if sum(len(cache.layers[0].keys) for cache in several) > 2:
            refused.append(several[0].layers[0].keys.zero_())  # half done
            raise RuntimeError("CUDA out of memory")
        return join(several, *places)

    with Ends(adapter, None):
        free = [answer.token_ids for answer in asked(adapter, ASKED, "greedy", 1)]
    with Ends(adapter, spread(free)):
        alone = asked(adapter, ASKED, "greedy", 1)
        monkeypatch.setattr(caches, "join", full)
        passes.clear()
        answers = asked(adapter, ASKED, "greedy", ROWS)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in alone]
    assert refused
    assert max(map(len, passes)) > 1


@pytest.mark.parametrize("order", [(0, 5, 6, 7), (4, 1, 2, 3)], ids=["picture first", "text first"])
def test_without_memory_for_both_prompts_with_and_without_pictures_are_asked_apart(order):
    """The batches that were decoded together must not become one."""
    adapter = ours("llava")
    pairs = [(request.images[0], request.prompt) for request in REQUESTS]
    pairs = [(pairs + [(None, prompt) for _, prompt in pairs])[number] for number in order]
    lvlm = LVLM(adapter.model, adapter.processor)

    def hungry(model, given, named):
        rows, tokens = next(
            named[name] for name in ("input_ids", "inputs_embeds") if named.get(name) is not None
        ).shape[:2]
        if rows > 2 and tokens == 1:
            raise RuntimeError("CUDA out of memory")

    with Ends(adapter, None):
        alone = [lvlm.generate(*pair, max_new_tokens=6).token_ids for pair in pairs]
        hook = adapter.model.register_forward_pre_hook(hungry, with_kwargs=True)
        try:
            answers = dict(lvlm.generate_many(pairs, batch_size=8, max_new_tokens=6))
        finally:
            hook.remove()
    assert [answers[number].token_ids for number in range(4)] == alone


def test_without_memory_features_of_other_pictures_are_freed(monkeypatch):
    """Of four pictures there is room for the features of one, so that each is asked alone, twice."""
    adapter, features = ours("llava"), {}
    lvlm = LVLM(adapter.model, adapter.processor)
    pairs = [(picture(40 + number, 40, 4), "Is there a dog?") for number in range(4)]

    def hungry(*_):
        if sum(len(kept._known) for kept in features.values()) > 1:
            raise RuntimeError("CUDA out of memory")

    hook = adapter.model.lm_head.register_forward_pre_hook(hungry)
    try:
        with reuse_features(features):
            found = [answer for _, answer in lvlm.generate_many(pairs, max_new_tokens=3)]
    finally:
        hook.remove()
    assert not [answer for answer in found if isinstance(answer, Exception)]


def test_without_memory_for_one_row_it_is_an_error(monkeypatch):
    adapter = ours("llava")
    lvlm = LVLM(adapter.model, adapter.processor)
    monkeypatch.setattr(Hungry, "rows", lambda self, call: (_ for _ in ()).throw(MemoryError("no room")))
    pairs = [(request.images[0], request.prompt) for request in REQUESTS]
    found = dict(lvlm.generate_many(pairs, Large()))
    assert {str(error) for error in found.values()} == {"out of memory: no room"}


def test_what_cannot_join_one_batch_joins_another(passes, monkeypatch):
    """Prompts with and without a picture have no cache in common where layers attend to pictures only."""
    adapter, tried, join = ours("mllama"), [], together.join_batches

    def spied(batches):
        tried.append(join(batches))
        return tried[-1]

    monkeypatch.setattr(refilling, "join_batches", spied)
    bare = [type(REQUESTS[0])(f"Is there a {name}?", ()) for name in ("dog", "cat on the table", "cup")]
    requests = [*REQUESTS[:2], *bare, *REQUESTS[:3], *bare]
    with Ends(adapter, None):
        free = [answer.token_ids for answer in asked(adapter, requests, "greedy", 1)]
    with Ends(adapter, spread(free)):
        alone = asked(adapter, requests, "greedy", 1)
        passes.clear()
        tried.clear()
        answers = asked(adapter, requests, "greedy", 2)
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in alone]
    assert tried.count(False) == 1
    assert True in tried[tried.index(False) :]


def test_a_part_of_the_questions_about_a_picture_is_taken_if_it_is_half():
    def waiting():
        return queue([("a.png", str(number)) for number in range(6)] + [("b.png", "6")], None, 16)

    def numbers(taken):
        return [one.number for one in taken]

    assert numbers(waiting().take(2)) == []
    assert numbers(waiting().take(2, alone=True)) == [0, 1]
    rest = waiting()
    assert numbers(rest.take(3)) == [0, 1, 2]
    assert rest.pictures == 1
    assert numbers(rest.take(4)) == [3, 4, 5, 6]
    assert rest.pictures == 0


def test_questions_about_one_picture_are_read_together_and_their_prefix_once():
    adapter = ours("llava")
    lvlm = LVLM(adapter.model, adapter.processor)
    image = REQUESTS[0].images[0]
    questions = [f"Is there a {name} in the image?" for name in ("dog", "cup", "cat", "bus")]
    pairs = [(REQUESTS[3].images[0], "What?"), *((image, question) for question in questions)]
    alone = dict(lvlm.generate_many(pairs, batch_size=1, max_new_tokens=4))
    answers = dict(lvlm.generate_many(pairs, batch_size=4, max_new_tokens=4))
    assert [answers[number].token_ids for number in range(5)] == [alone[number].token_ids for number in range(5)]
    assert answers[1].usage.prompt_reads < 0.7 * alone[1].usage.prompt_reads


def test_requests_are_taken_as_they_are_needed():
    lvlm, taken = LVLM(ours("llava").model, ours("llava").processor), []

    def endless():
        for number in count():
            taken.append(number)
            yield REQUESTS[number % 4].images[0], "What?"

    found = lvlm.generate_many(endless(), batch_size=4, max_new_tokens=3)
    assert not taken
    assert {next(found)[0] for _ in range(4)} == {0, 1, 2, 3}
    assert len(taken) < 12


def test_a_search_is_answered_batch_by_batch(passes):
    adapter = ours("llava")
    alone, answers = (asked_plain(adapter, REQUESTS, "opera", rows) for rows in (1, 2))
    assert answers == alone
    assert not passes


def asked_plain(adapter, requests, spec, rows):
    lvlm = LVLM(adapter.model, adapter.processor)
    pairs = [(request.images[0], request.prompt) for request in requests]
    found = dict(lvlm.generate_many(pairs, spec, batch_size=rows, max_new_tokens=LENGTH))
    return [found[number].token_ids for number in range(len(requests))]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"seeds": [1]}, "one for each request"),
        ({"seeds": [1, -2, 3]}, "seeds"),
    ],
)
def test_what_cannot_be_is_refused(more, words):
    lvlm = LVLM(ours("llava").model, ours("llava").processor)
    pairs = [(request.images[0], request.prompt) for request in REQUESTS[:3]]
    with pytest.raises(OptionError, match=words):
        list(lvlm.generate_many(pairs, max_new_tokens=2, **more))


def test_passes_and_reads_are_counted_whoever_asks():
    adapter, counted = ours("llava"), PassCount()
    with count_passes(counted):
        answers = asked_plain(adapter, REQUESTS, "greedy", 2)
    assert answers
    assert counted.passes == 0  # they are the answers' own


def test_several_answers_have_no_scores():
    adapter = ours("llava")
    settings = {"num_return_sequences": 2, "do_sample": True, "scores": True}
    with pytest.raises(OptionError, match="num_return_sequences"):
        LVLM(adapter.model, adapter.processor).generate_many([], **settings)


def test_what_is_no_pair_is_an_error_of_its_own():
    lvlm = LVLM(ours("llava").model, ours("llava").processor)
    pairs = [(request.images[0], request.prompt) for request in REQUESTS]
    pairs[2] = (pairs[2][0],)
    found = dict(lvlm.generate_many(pairs, max_new_tokens=2))
    assert [type(found[number]).__name__ for number in range(4)] == ["Answer", "Answer", "PromptError", "Answer"]
    assert "pairs (picture, prompt)" in str(found[2])
