"""VDGD against its formula written out; its worked numbers; what is kept of a description; and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import mmhall
from mmhall.adapters import Batch, Conversation, Request, Turn
from mmhall.decoders.vdgd import FRAME, TEXT, VDGD, Ground, Listener, ground
from mmhall.errors import CompositionError, MmhallWarning, OptionError, PromptError
from mmhall.generation import answer_first
from mmhall.lvlm import LVLM
from mmhall.strategies import CONTRAST, Session, Step
from tests.conftest import make_random_llava
from tests.decoders.rows import check, check_half, family, scored
from tests.generation.reference import QUIET, REQUESTS, in_turn
from tests.jobs import prepared

pytestmark = QUIET

FIRST, SECOND = [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]  # the distributions of two tokens of a description
TOKENS = 3
VARIANTS = {
    "greedy": ("beta=0.01", {"beta": 0.01}),
    "sampled": ("beta=0, temperature=0.5, top_p=0.9, reduction='mean'", {"nucleus": (0.5, 0.9), "join": "mean"}),
    "released": ("beta=0.01, reduction='sum', compat=True", {"beta": 0.01, "join": "sum", "compat": True}),
}


def grounded(logits, distributions, *, beta=0.0, nucleus=None, join="min", compat=False):
    """The scores of one step, (V,), one token after the other."""
    probs, logs = logits.softmax(-1), distributions.log_softmax(-1)
    kept = [bool(p >= beta * probs.max()) for p in probs]
    if nucleus is not None:
        temperature, share = nucleus
        sharp, total = (logits / temperature).softmax(-1), 0.0
        for token in sharp.argsort(descending=True, stable=True).tolist():
            kept[token] = kept[token] and total < share
            total += float(sharp[token])
    divisor = len(logits) if compat else 1
    scores = torch.full_like(logits, -math.inf)
    for token, keep in enumerate(kept):
        parts = logs[:, token]
        joined = {"min": parts.max(), "mean": parts.mean(), "sum": parts.sum()}[join]
        scores[token] = joined / divisor if keep else -math.inf
    return scores.log_softmax(-1)


@pytest.mark.parametrize(("name", "variant"), in_turn(("llava", "qwen2_5_vl", "gemma3"), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    """The description is written one token at a time, with no cache; its distributions are all kept here."""
    given, options = VARIANTS[variant]

    def reference(adapter, reader, request, answer):
        asked, description = adapter.inputs([Request(TEXT, request.images)]), []
        for _ in range(TOKENS):
            distributions = reader.logits(asked, description)
            description.append(int(distributions[-1].argmax()))
        text = adapter.tokenizer.decode(description, skip_special_tokens=True).strip()
        prompt = FRAME.replace("{description}", text).replace("{question}", request.prompt)
        logits = reader.logits(adapter.inputs([Request(prompt, request.images)]), answer[:-1])
        return torch.stack([grounded(step, distributions, **options) for step in logits])

    check(name, f"vdgd(tokens={TOKENS}, {given})", reference)


def support(reduction, *distributions):
    """What a listener keeps of some distributions, (V,)."""
    listener = Listener(reduction, [])
    for t, probabilities in enumerate(distributions):
        listener(Step(torch.tensor([probabilities]).log(), (), torch.zeros(1, t, dtype=torch.long)))
    return listener.support()


def test_the_worked_example():
    """min: (.6, .3, .6) / 1.5; mean: square roots of .12, .06, .06; sum: .12, .06, .06; divided by 32 000: uniform."""
    main, kept = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    for reduction, divisor, wanted in (
        ("min", 1, [0.4, 0.2, 0.4]),
        ("mean", 1, [0.4142, 0.2929, 0.2929]),
        ("sum", 1, [0.5, 0.25, 0.25]),
        ("min", 32_000, [1 / 3, 1 / 3, 1 / 3]),
    ):
        got = ground(main, support(reduction, FIRST, SECOND), kept, divisor).exp()
        torch.testing.assert_close(got, torch.tensor([wanted]), rtol=0, atol=1e-4)


def test_after_one_token_all_reductions_are_its_distribution():
    """On the kept tokens 0 and 2: .6 and .1 of .7."""
    main, kept = torch.tensor([[0.5, 0.01, 0.4]]).log(), torch.tensor([[True, False, True]])
    for reduction in ("min", "mean", "sum"):
        got = ground(main, support(reduction, FIRST), kept).exp()
        torch.testing.assert_close(got, torch.tensor([[6 / 7, 0.0, 1 / 7]]), rtol=0, atol=1e-6)


def test_of_equally_supported_tokens_the_models_own_best_comes_first():
    """Tokens 0 and 2 are supported by .6 each; also where the support is certainty, a log-probability of 0."""
    kept = torch.ones(2, 3, dtype=torch.bool)
    main = torch.tensor([[0.2, 0.5, 0.3], [0.3, 0.5, 0.2]]).log()
    for each in (support("min", FIRST, SECOND), torch.tensor([[0.0, -1.0, 0.0]])):
        scores = ground(main, each.expand(2, 3), kept)
        assert scores.argmax(-1).tolist() == [2, 0]
        torch.testing.assert_close(scores[0, 0], scores[0, 2])


def test_a_listener_follows_rows_whose_descriptions_go_on():
    """Row 0 has left after the first step: what follows counts for row 1."""
    listener = Listener("min", [])
    said = torch.zeros(2, 1, dtype=torch.long)
    listener(Step(torch.tensor([FIRST, FIRST]).log(), (), said[:, :0]))
    listener(Step(torch.tensor([SECOND]).log(), (), said[1:], owners=torch.tensor([1])))
    torch.testing.assert_close(listener.support().exp(), torch.tensor([FIRST, [0.6, 0.3, 0.6]]))


def test_a_listener_holds_two_numbers_a_token_at_most_whatever_the_length_and_stops_at_each_rows_end():
    """Row 1 ends with the token 7 at step 3: the 60 distributions after it count for row 0 alone."""
    torch.manual_seed(0)
    logs = torch.randn(64, 2, 50).log_softmax(-1)
    said = torch.zeros(2, 64, dtype=torch.long)
    said[1, 3] = 7
    for reduction, join in (("min", lambda part: part.amax(0)), ("mean", lambda part: part.mean(0))):
        listener = Listener(reduction, [7])
        for t, step in enumerate(logs):
            assert listener(Step(step, (), said[:, :t])) is step
            held = [value for value in vars(listener).values() if isinstance(value, torch.Tensor)]
            assert sum(value.numel() for value in held) <= 2 * 2 * 50
        wanted = torch.stack([join(logs[:, 0]), join(logs[:4, 1])])
        torch.testing.assert_close(listener.support(), wanted)


def test_rows_of_several_prompts_and_beams_find_their_own_description():
    """Owners say which prompt a row belongs to; prompt 1 has no description, and keeps the model's scores."""
    main = torch.tensor([FIRST, SECOND, FIRST]).log()
    supports = torch.tensor([[0.1, 0.1, 0.9], [1.0, 1.0, 1.0]]).log()
    step = Step(main, (), torch.zeros(3, 0), levels=(torch.full((3, 1), 5.0),), owners=torch.tensor([1, 0, 0]))
    combine = Ground(VDGD(beta=0.0), supports, torch.tensor([True, False]))
    wanted = torch.tensor([FIRST, [0.1 / 1.1, 0.1 / 1.1, 0.9 / 1.1], [0.1 / 1.1, 0.1 / 1.1, 0.9 / 1.1]])
    torch.testing.assert_close(combine(step).exp(), wanted)
    assert combine.level(step).tolist() == [[5.0], [0.0], [0.0]]


@pytest.fixture(scope="module")
def llava(processor):
    return LVLM(make_random_llava(processor), processor, "random")


def test_what_is_asked_and_told(llava, pictures):
    """A system message and earlier turns stay; the description may itself hold the word in braces."""
    asked = Conversation((Turn("system", ("Be kind.",)), Turn("user", (None, "Which {question}?"))))
    method = VDGD(text="{question} Describe.", frame="So: {description} {question}")
    request = Request(asked, (pictures[0],))
    assert method._ask(request).conversation.turns[1].parts == (None, "Which {question}? Describe.")
    told = method._tell(request, "A {question}.").conversation
    assert told.turns == (Turn("system", ("Be kind.",)), Turn("user", (None, "So: A {question}. Which {question}?")))


def test_a_trace_shows_the_description_and_how_much_it_supports_each_token(llava, pictures):
    trace = llava.trace(pictures[0], "Is there a dog?", "vdgd(tokens=4, beta=0.01)", max_new_tokens=3)
    described = llava.generate(pictures[0], TEXT, max_new_tokens=4).text
    assert trace.prompt == FRAME.replace("{description}", described).replace("{question}", "Is there a dog?")
    support = trace.findings["support"]
    assert support.shape == (len(trace.answer.token_ids), 1, 1)
    assert ((support > 0) & (support <= 1)).all()


def test_the_description_alone_is_a_control(llava, pictures):
    (control,) = VDGD.controls
    described = llava.trace(pictures[0], "Is there a dog?", "vdgd(tokens=4)", max_new_tokens=1).prompt
    plain = llava.generate(pictures[0], described, max_new_tokens=4)
    asked = llava.generate(
        pictures[0], "Is there a dog?", mmhall.strategy("vdgd", tokens=4, **control), max_new_tokens=4
    )
    assert asked.token_ids == plain.token_ids


def test_an_empty_description_leaves_the_plain_model_with_a_remark(llava, pictures, monkeypatch):
    """The model is made to end with the token that descriptions begin with."""
    asked = llava.adapter.inputs([Request(TEXT, (pictures[0],))])
    first = int(llava.model.generate(**asked, max_new_tokens=1, do_sample=False)[0, -1])
    monkeypatch.setattr(llava.model.generation_config, "eos_token_id", [first])
    request = pictures[0], "Is there a dog?"
    plain = llava.generate(*request, max_new_tokens=4, scores=True)
    with pytest.warns(MmhallWarning, match="^vdgd: the description is empty, so that the plain model is decoded"):
        answer = llava.generate(*request, "vdgd(tokens=4)", max_new_tokens=4, scores=True)
    assert answer.token_ids == plain.token_ids
    assert torch.equal(answer.scores, plain.scores)


def test_other_strategies_act_on_the_answer_but_not_on_the_description():
    adapter, _ = family("llava")
    batch, spec = adapter.inputs(REQUESTS[:2]), "vdgd(tokens=3, beta=0.01)"
    alone, session = prepared(adapter, batch, mmhall.strategy(spec))
    together, composed = prepared(adapter, batch, mmhall.strategy(f"vaf(alpha=3, layers=':')+{spec}"))
    assert torch.equal(alone["input_ids"], together["input_ids"])
    answers = torch.tensor([[11, 12, 13, 14]] * 2)
    steered, usual = scored(adapter, together, composed, answers), scored(adapter, alone, session, answers)
    assert not torch.equal(steered, usual)
    vaf = mmhall.strategy("vaf(alpha=3, layers=':')").fitted(adapter).prepare(adapter, alone)
    wanted = scored(adapter, alone, replace(vaf, combine=session.combine), answers)
    torch.testing.assert_close(steered, wanted, rtol=1e-5, atol=1e-5)


def test_questions_about_one_picture_share_its_description(monkeypatch):
    adapter, _ = family("llava")
    first, other = REQUESTS[0], REQUESTS[1]
    batch = adapter.inputs([first, other, Request("What?", first.images)])
    counts = []

    def count(adapter, inputs, *rest):
        counts.append(len(inputs["input_ids"]))
        return answer_first(adapter, inputs, *rest)

    monkeypatch.setattr("mmhall.decoders.vdgd.answer_first", count)
    described = mmhall.strategy("vdgd(tokens=3)").ask_first(adapter, batch)
    mmhall.strategy("vdgd(tokens=3, text='{question} Well?')").ask_first(adapter, batch)
    assert counts == [2, 3]
    support = described.found["vdgd support"]
    assert torch.equal(support[0], support[2])
    assert not torch.equal(support[0], support[1])
    last, again = (
        described.requests[2].prompt,
        mmhall.strategy("vdgd(tokens=3)").ask_first(adapter, adapter.inputs([Request("What?", first.images)])),
    )
    assert last == again.requests[0].prompt


def test_it_asks_once_and_neutral_options_and_no_picture_ask_nothing():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    method = mmhall.strategy("vdgd(tokens=2)").fitted(adapter)
    described = method.ask_first(adapter, batch)
    assert method.ask_first(adapter, described) is described is not batch
    assert described.found["vdgd support"].shape == (2, adapter.decoder.config.vocab_size)
    for spec, request in (("vdgd(tokens=0)", REQUESTS[0]), ("vdgd", Request("What?"))):
        inputs = adapter.inputs([request])
        assert prepared(adapter, inputs, mmhall.strategy(spec)) == (inputs, Session())


def test_a_prompt_without_room_for_the_description_is_refused_in_words():
    adapter, _ = family("llava")
    with pytest.raises(PromptError, match=r"exceed the model's context of \d+; have vdgd ask for less before it"):
        prepared(adapter, adapter.inputs(REQUESTS[:1]), mmhall.strategy("vdgd(tokens=1000000)"))


def test_inputs_that_were_not_asked_about_are_refused_in_words():
    adapter, _ = family("llava")
    batch, method = adapter.inputs(REQUESTS[:1]), mmhall.strategy("vdgd").fitted(adapter)
    assert isinstance(batch, Batch)
    with pytest.raises(CompositionError, match=r"^vdgd: nothing was described for these inputs; make them with"):
        method.prepare(adapter, batch)
    with pytest.raises(CompositionError, match=r"^vdgd: .* inputs made elsewhere hold only its tokens; use LVLM"):
        method.prepare(adapter, dict(batch))


def test_in_half_precision():
    check_half("vdgd(tokens=3, beta=0.01)", "vdgd(tokens=0)")


def test_what_it_claims_and_what_it_cannot_do_is_refused():
    assert CONTRAST in mmhall.strategy("vdgd").claims
    for other, claim in (("vcd", "the contrast"), ("brief", "the wording of the prompt")):
        with pytest.raises(CompositionError, match=f"both want {claim}"):
            mmhall.strategy(f"vdgd+{other}")
    wrong = (("beta", 1.1), ("temperature", 0.0), ("top_p", 0.0), ("reduction", "max"), ("tokens", -1), ("text", " "))
    for option, value in (*wrong, ("frame", "{question}"), ("ground", 1), ("twin", -1)):
        with pytest.raises(OptionError, match=rf"^vdgd: {option} must be .*, got"):
            mmhall.strategy("vdgd", **{option: value})
