"""LQCD against its formula written out; which query is taken as neutral, and where; and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters import Conversation, Request, Turn
from mmhall.benchmarks.data.pope_maker import Question
from mmhall.benchmarks.data.pope_wording import PROMPTS
from mmhall.benchmarks.sycophancy import Sycophancy
from mmhall.decoders import lqcd
from mmhall.decoders._neutral import is_hint, neutralise, question_of
from mmhall.decoders.lqcd import REWRITE, shift
from mmhall.errors import CompositionError, MmhallWarning, OptionError, PromptError
from mmhall.generation._settings import Settings
from mmhall.objects import LEADS
from mmhall.strategies import CONTRAST, Session, neutral_text
from tests.decoders.rows import check, check_half, family, scored, written
from tests.generation.reference import QUIET, REQUESTS, in_turn
from tests.jobs import prepared, run
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

NEUTRAL = ("Is there a dog?", "Please describe this image in detail. Answer with one word.")
LED = (f"I can see a dog in the image, right? {NEUTRAL[0]}", f"I think that it is blue. {NEUTRAL[1]}")
LEADING = [Request(query, request.images) for query, request in zip(LED, REQUESTS[:2], strict=True)]
VARIANTS = {
    "rule": ("", lambda query: query, None),
    "text": (", neutral='Look. {question}'", lambda query: f"Look. {query}", None),
    "scaled": (", scaler='shift'", lambda query: query, "shift"),
}


def against(main, other, *, alpha, beta):
    """The scores of one step, (V,), from log-probabilities after the neutral and the leading query."""
    return torch.where(main.exp() < beta * main.exp().max(), -math.inf, (1 + alpha) * main - alpha * other)


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    more, ask, scaler = VARIANTS[variant]
    neutral = dict(zip(LED, map(ask, NEUTRAL), strict=True))

    def reference(adapter, reader, request, answer):
        asked = Request(neutral[request.prompt], request.images)
        main, other = (reader.logits(adapter.inputs([one]), answer[:-1]).log_softmax(-1) for one in (asked, request))
        moved = float((main[0].exp() - other[0].exp()).abs().sum() / 2) if scaler else 1.0
        return torch.stack([against(*pair, alpha=2 * moved, beta=0.02) for pair in zip(main, other, strict=True)])

    check(name, f"lqcd(alpha=2, beta=0.02{more})", reference, LEADING)


def test_queries_without_a_hint_are_plain_to_the_last_bit_also_beside_leading_ones():
    adapter, _ = family("llava")
    plain, mixed = adapter.inputs(REQUESTS[:2]), adapter.inputs([LEADING[0], REQUESTS[1]])
    method, usual = mmhall.strategy("lqcd(alpha=4, beta=0.5)"), Session()
    inputs, session = prepared(adapter, plain, method)
    assert (session.combine, list(session.branches)) == (None, [])
    answers = written(adapter, plain, "greedy")
    assert torch.equal(scored(adapter, inputs, session, answers), scored(adapter, plain, usual, answers))
    assert torch.equal(written(adapter, plain, str(method)), answers)
    inputs, session = prepared(adapter, mixed, method)
    asked = adapter.inputs([Request(NEUTRAL[0], LEADING[0].images), REQUESTS[1]])
    both = [scored(adapter, *one, answers) for one in ((inputs, session), (asked, usual))]
    torch.testing.assert_close(both[0][1], both[1][1], rtol=1e-5, atol=1e-5)
    assert not torch.equal(both[0][0], both[1][0])


def test_without_strength_and_cut_off_the_neutral_query_is_answered_plainly():
    adapter, _ = family("llava")
    asked = adapter.inputs([Request(query, one.images) for query, one in zip(NEUTRAL, LEADING, strict=True)])
    wanted = written(adapter, asked, "greedy")
    assert torch.equal(written(adapter, adapter.inputs(LEADING), "lqcd(alpha=0, beta=0)"), wanted)
    assert torch.equal(written(adapter, adapter.inputs(LEADING), "lqcd(alpha=0)"), wanted)
    assert not torch.equal(written(adapter, adapter.inputs(LEADING), "greedy"), wanted)


@pytest.mark.parametrize("label", ["yes", "no"])
def test_every_leading_question_of_the_benchmark_becomes_its_neutral_one(label):
    """For all leads, wordings of the answer, and names; also through the strategy, which asks one prompt for all."""
    names = {"dog": "a dog", "ox": "an ox", "dining table": "a dining table", "skis": "skis"}
    for suffix in {*PROMPTS.values()}:
        for it in names.values():
            question = f"Is there {it} in the image?{suffix}"
            assert neutralise(question) == question.strip() == question
            for lead in (lead for leads in LEADS.values() for lead in leads):
                assert neutralise(f"{lead.format(it=it)} {question}") == question
    asked = Question("1", "dog", "Is there a dog in the image?", label, {"random": (1,)})
    adapter, _ = family("llava")
    for seed in range(3):
        items = Sycophancy().phrase([asked], seed)
        assert len({item.prompt for item in items}) == len(items) == 3
        batch = adapter.inputs([Request(item.prompt, REQUESTS[0].images) for item in items])
        found = mmhall.strategy("lqcd").ask_first(adapter, batch)
        assert {request.prompt for request in found.requests} == {items[0].prompt}


@pytest.mark.parametrize(
    ("query", "neutral"),
    [
        ("I think the dog is black. What colour is the dog?", "What colour is the dog?"),
        (
            "I'm sure it is a cat. Which animal is it?\nAnswer with one word.",
            "Which animal is it?\nAnswer with one word.",
        ),
        ("My best friend said that it is a cat. What is it?", "What is it?"),
        ("Everyone says it is Paris. Where was this taken?", "Where was this taken?"),
        ("Is there a dog? I believe the answer is no.", "Is there a dog?"),
        ("What is it? It is a cat, isn't it?", "What is it?"),
        ("There is a dog in the image, isn't there?", "Is there a dog in the image?"),
        ("There is no dog, is there? Please answer yes or no.", "Is there any dog? Please answer yes or no."),
        ("Obviously the man is not running, don't you agree?", "Is the man running?"),
        ("Isn't there a dog in the image?", "Is there a dog in the image?"),
        ("Can't you see a dog?", "Can you see a dog?"),
        (
            "I see a dog.\nWhat is on the sign?\n  A. I see you\n  B. Of course not, right?\n\nAnswer with one word.",
            "What is on the sign?\n  A. I see you\n  B. Of course not, right?\n\nAnswer with one word.",
        ),
        ("There is a dog, isn't there?\n(A) yes\n(B) no", "Is there a dog?\n(A) yes\n(B) no"),
    ],
)
def test_generic_hints_are_taken_out_and_claims_become_questions(query, neutral):
    assert neutralise(query) == neutral
    assert neutralise(neutral) == neutral


@pytest.mark.parametrize(
    "query",
    [
        "Is there a dog in the image?",
        "Please describe this image in detail.",
        " What is on the left of it, and what is behind that? Please describe both in detail. ",
        "The image shows a python code. Is the output of the code 'Hello'? Please answer yes or no.",
        "Is this taken indoors, right after rain?",
        "According to the sign, what is the price?",
        "Can you see a dog?",
        "What is written on the sign?\nA. I see you\nB. Of course not\nC. stop\n",
        "I can see a dog.\nA. yes\nB. no",
        "I can see a dog, right? Please answer yes or no.",  # no question would be left
        "It's a dog.",
        "?",
        "",
    ],
)
def test_a_query_that_suggests_nothing_or_only_suggests_stays_as_it_is(query):
    assert neutralise(query) is query


def test_a_claim_without_a_verb_to_turn_is_no_question():
    assert question_of("I can see a dog, right?") is None
    assert (is_hint("I want to know what it is."), is_hint("Do you see a dog?")) == (False, False)


def test_of_messages_the_last_text_is_rewritten():
    turns = (Turn("user", (None, LED[0])), Turn("assistant", ("Yes.",)), Turn("user", ("So:", LED[1])))
    adapter, _ = family("llava")
    batch = adapter.inputs([Request(Conversation(turns), REQUESTS[0].images)])
    method = mmhall.strategy("lqcd")
    found = method.ask_first(adapter, batch)
    assert found.requests[0].conversation.turns == (*turns[:2], Turn("user", ("So:", NEUTRAL[1])))
    assert found.requests[0].images is batch.requests[0].images
    assert method.ask_first(adapter, found) is found


def test_the_model_itself_rewrites_the_query_but_not_how_to_answer(monkeypatch):
    """What it writes is what it answers to our prompt without the picture; a random model says anything."""
    monkeypatch.setattr(lqcd, "_LONGEST", 3)
    adapter, _ = family("llava")
    found = mmhall.strategy("lqcd(neutral='model')").ask_first(adapter, adapter.inputs(LEADING))
    queries = [LED[0], "I think that it is blue. Please describe this image in detail."]
    bare = adapter.inputs([Request(REWRITE.format(question=query)) for query in queries])
    config = Settings(max_new_tokens=3).resolved(adapter.generator)
    rows = run(adapter, bare, mmhall.strategy("greedy"), config)
    texts = [adapter.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
    assert [request.prompt for request in found.requests] == [texts[0], f"{texts[1]} Answer with one word."]
    _, session = prepared(adapter, adapter.inputs(LEADING), mmhall.strategy("lqcd(neutral='model')"))
    assert session.prepared_passes == 3
    every = list(range(adapter.decoder.config.vocab_size))
    monkeypatch.setattr(adapter.generator.generation_config, "eos_token_id", every)
    with pytest.warns(
        MmhallWarning, match="the model rewrote the query of prompt . of 2 to nothing, so it is asked as"
    ):
        found = mmhall.strategy("lqcd(neutral='model')").ask_first(adapter, adapter.inputs(LEADING))
    assert [request.prompt for request in found.requests] == list(LED)


def test_a_picked_prompt_keeps_its_leading_query():
    adapter, _ = family("llava")
    inputs, session = prepared(adapter, adapter.inputs(LEADING), mmhall.strategy("lqcd"))
    picked = adapter.picked(inputs, [1, 1])
    assert picked.found.keys() == inputs.found.keys()
    assert all(len(values) == 2 for values in (*inputs.found.values(), *picked.found.values()))
    again = mmhall.strategy("lqcd").fitted(adapter).prepare(adapter, picked)
    assert [branch.inputs.requests for branch in again.branches] == [[LEADING[1]] * 2]
    assert again.prepared_passes == session.prepared_passes == 0


def test_the_leading_query_needs_room_for_the_answer_too(embedded, pictures):
    """The neutral query, which is answered, is short; the leading one and its answer are longer than the context."""

    def led(times):
        query = "I can see a dog in the image, right? " * times + "Is there a dog in the image?"
        return query, embedded.adapter.inputs([Request(query, (pictures[0],))])["input_ids"].shape[1]

    times = (511 - led(0)[1]) // (led(1)[1] - led(0)[1])
    query, size = led(times)
    assert 512 - 20 < size < 512
    for name, way in (("greedy", "lower max_new_tokens"), ("lqcd", ".*shorten what lqcd reads beside the prompt")):
        with pytest.raises(PromptError, match=rf"{size} prompt tokens and 20 new ones exceed .* of 512; {way}$"):
            embedded.generate(pictures[0], query, name, max_new_tokens=20)
    assert embedded.generate(pictures[0], query, "lqcd(alpha=0, beta=0)", max_new_tokens=20).text


def test_a_trace_shows_the_neutral_query_and_the_strength_that_was_chosen(embedded, pictures, tmp_path):
    query = "I can see a dog in the image, right? Is there a dog in the image?"
    trace = embedded.trace(pictures[0], query, "lqcd(scaler='shift')", max_new_tokens=2)
    assert trace.notes == {"neutral query": "Is there a dog in the image?"}
    assert trace.prompt == "Is there a dog in the image?"
    strength = trace.findings["contrast strength"].flatten()
    assert (len(strength) == len(trace.answer.token_ids), len(strength.unique())) == (True, 1)
    assert 0 < float(strength[0]) < 1
    trace.save(tmp_path / "trace.safetensors")
    assert mmhall.Trace.load(tmp_path / "trace.safetensors").notes == trace.notes
    plain = embedded.trace(pictures[0], "Is there a dog in the image?", "lqcd", max_new_tokens=2)
    assert plain.notes == {"neutral query": "no hint was found; the query is asked as it is"}
    assert plain.findings == {}


def test_a_hint_moves_a_prediction_by_the_total_variation_distance():
    neutral, leading = (
        torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]]),
        torch.tensor([[0.4, 0.5, 0.1], [0.0, 0.0, 1.0]]),
    )
    torch.testing.assert_close(shift(neutral.log(), leading.log()), torch.tensor([[0.3], [1.0]]))


def test_a_twins_text_has_no_hint_and_takes_its_place():
    adapter, _ = family("llava")
    inputs, session = prepared(adapter, adapter.inputs(LEADING), mmhall.strategy("lqcd(twin=5)"))
    (branch,) = session.branches
    tokens = [adapter.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (LED[0], NEUTRAL[0])]
    size = adapter.tokenizer.decode(tokens[0][: len(tokens[0]) - len(tokens[1])])
    wanted = f"{neutral_text(adapter.tokenizer, size, 5)} {NEUTRAL[0]}"
    assert branch.inputs.requests[0].prompt == wanted
    assert [request.prompt for request in inputs.requests] == list(NEUTRAL)


def test_in_half_precision():
    check_half("lqcd(alpha=4, neutral='Look at it.', scaler='shift')", "lqcd(alpha=0, beta=0)")


def test_what_it_claims_and_what_it_cannot_do_is_refused():
    adapter, _ = family("llava")
    batch, method = adapter.inputs(LEADING), mmhall.strategy("lqcd").fitted(adapter)
    with pytest.raises(
        CompositionError, match=r"hold the queries as they were asked; make them with strategy\.ask_first"
    ):
        method.prepare(adapter, batch)
    with pytest.raises(CompositionError, match=r"inputs made elsewhere hold only its tokens; use LVLM\.generate"):
        method.prepare(adapter, dict(batch))
    assert method.prepare(adapter, adapter.inputs([Request(LED[0])])) == Session()
    assert method.claims == {CONTRAST, "the wording of the prompt"}
    for other in ("vcd", "yes-prompt", "brief"):
        with pytest.raises(CompositionError, match="both want the"):
            mmhall.strategy(f"lqcd+{other}")
    wrong = {"alpha": -0.1, "beta": 1.1, "neutral": "  ", "scaler": "sentiment", "twin": -1}
    for option, value in wrong.items():
        with pytest.raises(OptionError, match=rf"^lqcd: {option} must be .*, got"):
            mmhall.strategy("lqcd", **{option: value})
