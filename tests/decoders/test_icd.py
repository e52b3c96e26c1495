"""ICD against its formula written out, in each kind of family; where the instruction stands; and what is neutral."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters import Conversation, Request, Turn
from mmhall.decoders.icd import ICD, INSTRUCTION, has_system_message
from mmhall.errors import CompositionError, ModelError, OptionError
from mmhall.strategies import CONTRAST, neutral_text
from tests.decoders.rows import check, check_half, family
from tests.generation.reference import QUIET, REQUESTS, in_turn
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

VARIANTS = {
    "ours": ("alpha=2, beta=0.02", {"alpha": 2.0, "beta": 0.02, "text": INSTRUCTION}),
    "own": ("alpha=3, beta=0.01, text='Say less.', place='image'", {"alpha": 3.0, "beta": 0.01, "text": "Say less."}),
    "twin": ("alpha=2, beta=0.02, twin=5", {"alpha": 2.0, "beta": 0.02, "text": None}),
}


def disturbed(main, other, *, alpha, beta):
    """The scores of one step, (V,), from logits without and with the instruction."""
    main, other = main.log_softmax(-1), other.log_softmax(-1)
    return torch.where(main.exp() < beta * main.exp().max(), -math.inf, (1 + alpha) * main - alpha * other)


def contrasting(write, options):
    """Return what gives the scores of every step; `write` makes a request with the instruction of one without."""

    def reference(adapter, reader, request, answer):
        other = reader.logits(adapter.inputs([write(adapter, request)]), answer[:-1])
        main = reader.logits(adapter.inputs([request]), answer[:-1])
        return torch.stack([disturbed(*pair, **options) for pair in zip(main, other, strict=True)])

    return reference


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    """Requests of a picture and a question: before the question is after the picture."""
    given, options = VARIANTS[variant]
    options = dict(options)
    text = options.pop("text")

    def write(adapter, request):
        return Request(f"{text or neutral_text(adapter.tokenizer, INSTRUCTION, 5)} {request.prompt}", request.images)

    check(name, f"icd({given})", contrasting(write, options))


SYSTEM = ("llava", "qwen2_5_vl", "mllama", "gemma3")


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] if at else []) for at, one in enumerate(SYSTEM)]
)
def test_the_system_message_is_the_templates_own(name):
    """The released behaviour: alpha falls back to 0.5 where a script passes none, the text stands before all else."""

    def write(adapter, request):
        messages = (Turn("system", ("Say less.",)), Turn("user", (None, request.prompt)))
        return Request(Conversation(messages), request.images)

    spec = "icd(alpha=0.5, beta=0.1, text='Say less.', place='system')"
    check(name, spec, contrasting(write, {"alpha": 0.5, "beta": 0.1}))


ASKED = Conversation(
    (Turn("system", ("Be kind.",)), Turn("user", ("Look:", None)), Turn("user", ("Well?", None, "So?")))
)


@pytest.mark.parametrize(
    ("place", "conversation", "wanted"),
    [
        ("question", ASKED, (("Be kind.",), ("Look:", None), ("X Well?", None, "So?"))),
        ("image", ASKED, (("Be kind.",), ("Look:", None), ("Well?", None, "X So?"))),
        ("system", ASKED, (("X",), ("Look:", None), ("Well?", None, "So?"))),
        ("question", Conversation.from_prompt("So?", 2), ((None, None, "X So?"),)),
        ("image", Conversation.from_prompt("So?", 2), ((None, None, "X So?"),)),
        ("system", Conversation.from_prompt("So?", 1), (("X",), (None, "So?"))),
        (
            "question",
            Conversation((Turn("user", ("Look:", None)), Turn("user", (None,)))),
            (("Look:", None), (None, "X")),
        ),
        (
            "image",
            Conversation((Turn("user", ("Look:", None)), Turn("user", ("So?",)))),
            (("Look:", None, "X"), ("So?",)),
        ),
    ],
)
def test_where_the_instruction_stands(place, conversation, wanted):
    changed = conversation.with_instruction("X", place)
    assert tuple(turn.parts for turn in changed.turns) == wanted
    assert changed.pictures == conversation.pictures


def test_a_model_without_a_system_message_is_refused_in_words():
    adapter = family("paligemma")[0]
    assert not has_system_message(adapter)
    assert has_system_message(family("llava")[0])
    method = mmhall.strategy("icd(place='system')").fitted(adapter)
    with pytest.raises(OptionError, match=r'^icd: place must be "question" or "image" for this model, .* got .system'):
        method.prepare(adapter, adapter.inputs(REQUESTS[:1]))


def test_inputs_of_another_processor_are_refused_in_words():
    adapter = family("llava")[0]
    bare = dict(adapter.inputs(REQUESTS[:1]))
    for spec in ("icd", "icd(twin=1)", "icd(place='system')"):
        with pytest.raises(ModelError, match=r"tensors from another processor, without messages to change"):
            mmhall.strategy(spec).fitted(adapter).prepare(adapter, bare)


def test_the_twins_text_is_as_long_says_nothing_about_pictures_and_depends_on_the_seed():
    for name in REPRESENTATIVES:
        tokenizer = family(name)[0].tokenizer
        drawn = [neutral_text(tokenizer, INSTRUCTION, twin) for twin in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        counts = {len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (INSTRUCTION, *drawn)}
        assert len(counts) == 1, (name, drawn)
        assert not any(word in text for text in drawn for word in ("picture", "image", "see"))


def test_a_twins_branch_has_the_neutral_text():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    for spec, text in (("icd", INSTRUCTION), ("icd(twin=5)", neutral_text(adapter.tokenizer, INSTRUCTION, 5))):
        (branch,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch).branches
        wanted = adapter.inputs([Request(f"{text} {one.prompt}", one.images) for one in REQUESTS[:2]])
        assert torch.equal(branch.inputs["input_ids"], wanted["input_ids"]), spec


def test_the_place_is_the_system_message_where_the_authors_have_it():
    for model, options in ICD.published.items():
        assert options["place"] == "system", model
    assert mmhall.strategy("icd").fitted(family("llava")[0]).place == "question"


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = family("llava")[0]
    neutral = (("icd(alpha=0, beta=0)", REQUESTS[0]), ("icd(alpha=0, beta=0, twin=1)", REQUESTS[0]))
    for spec, request in (*neutral, ("icd", Request("What?"))):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert (session.combine, list(session.branches)) == (None, []), spec
    session = mmhall.strategy("icd(alpha=0)").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))
    assert (session.combine is None, list(session.branches)) == (False, [])


def test_in_half_precision():
    check_half("icd(alpha=4)", "icd(alpha=0, beta=0)")


def test_what_it_claims_and_what_it_cannot_do_is_refused():
    assert mmhall.strategy("icd").claims == {CONTRAST}
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("icd+m3id")
    wrong = (("alpha", -0.1), ("beta", math.nan), ("text", "  "), ("text", "\ud800 x"), ("place", "end"), ("twin", -1))
    for option, value in wrong:
        with pytest.raises(OptionError, match=rf"^icd: {option} must be .*, got"):
            mmhall.strategy("icd", **{option: value})
