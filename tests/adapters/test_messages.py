"""Conversations: how messages are read, and that the model is asked what they say, in every family."""

from __future__ import annotations

import copy

import pytest

import mmhall
from mmhall.adapters._messages import Conversation, Request, Turn, read_messages
from mmhall.analysis._saliency import mark_informative
from mmhall.errors import ModelError, PromptError
from mmhall.generation._shared_prefix import split_prefixes
from mmhall.lvlm import LVLM
from tests.zoo import ZOO, built

FORMATLESS = ("paligemma", "blip_2", "instructblip")
CHATTING = [name for name in ZOO if name not in FORMATLESS]
IMAGE = {"type": "image"}


def text(words):
    return {"type": "text", "text": words}


def user(*parts):
    return {"role": "user", "content": [part if isinstance(part, dict) else text(part) for part in parts]}


PLACED = [
    {"role": "system", "content": [text("Be brief.")]},
    user("First:", IMAGE, "Second:", IMAGE, "Differences?"),
]
TURNS = [
    user(IMAGE, "What is it?"),
    {"role": "assistant", "content": [text("A cat.")]},
    user("And here?", IMAGE),
    {"role": "assistant", "content": [text("A dog.")]},
    user("Which of them is <s> larger?"),
]


def asked_by_hand(lvlm, messages, pictures, spec, **settings):
    """What custom_generate makes of what the processor's own template and reader make of messages."""
    processor = lvlm.processor
    written = processor.apply_chat_template(messages, add_generation_prompt=True)
    images = {"images": [list(pictures)]} if pictures else {}
    inputs = processor(text=[written], **images, return_tensors="pt", add_special_tokens=False)
    inputs = {key: v.to(lvlm.model.dtype) if v.is_floating_point() else v for key, v in inputs.items()}
    way = mmhall.custom_generate(spec, processor=processor)
    told = lvlm.model.generate(**inputs, max_new_tokens=5, do_sample=False, custom_generate=way, **settings)
    return tuple(told[0, inputs["input_ids"].shape[1] :].tolist())


@pytest.mark.slow
@pytest.mark.parametrize("name", CHATTING)
def test_messages_ask_what_the_processors_own_template_asks(name, lvlm, wide, tall):
    spec = ("greedy", "vdd")[CHATTING.index(name) % 2]
    plain = [*TURNS[:-1], user("Which of them is larger?")]
    for messages in (PLACED, plain):
        own = lvlm.generate([wide, tall], messages, spec, max_new_tokens=5).token_ids
        assert own == asked_by_hand(lvlm, messages, (wide, tall), spec)[: len(own)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHATTING)
def test_a_batch_of_conversations_is_each_alone(name, lvlm, wide, tall):
    requests, spec = [([wide, tall], m) for m in (PLACED, "Which?", TURNS)], ("vdd", "greedy")[CHATTING.index(name) % 2]
    together = lvlm.generate_batch(requests, spec, max_new_tokens=3)
    alone = [lvlm.generate(*request, spec, max_new_tokens=3) for request in requests]
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]


@pytest.mark.parametrize("name", CHATTING)
def test_a_single_message_with_pictures_first_is_a_prompt(adapter, wide, tall):
    conversation, sources = read_messages([user(IMAGE, IMAGE, "What has changed?")])
    assert sources == [None, None]
    own, other = (adapter.inputs([Request(prompt, (wide, tall))]) for prompt in (conversation, "What has changed?"))
    assert own.keys() == other.keys()
    assert all(own[key].equal(other[key]) for key in own)


@pytest.mark.parametrize("name", CHATTING)
def test_the_words_of_the_last_message_are_the_users(adapter, wide, tall):
    for messages, words in ((PLACED, "First:Second:Differences?"), (TURNS, "Which of them is <s> larger?")):
        inputs = adapter.inputs([Request(read_messages(messages)[0], (wide, tall))])
        assert adapter.tokenizer.decode(inputs["input_ids"][adapter.query_mask(inputs)]) == words


@pytest.mark.parametrize("name", CHATTING)
def test_the_same_words_in_several_places_are_found_in_each(adapter, wide, tall):
    """Whatever the processor writes between the tiles of a picture, the words are those at the texts' own places."""
    asked = [user("a", IMAGE, "a\n", IMAGE, "a")]
    inputs = adapter.inputs([Request(read_messages(asked)[0], (wide, tall))])
    at = adapter.query_mask(inputs)[0].nonzero()[:, 0].tolist()
    assert adapter.tokenizer.decode(inputs["input_ids"][0, at]) == "aa\na"
    image = adapter.placeholders(inputs["input_ids"])[0].nonzero()[:, 0].tolist()
    assert at[0] < image[0] < at[1] < at[2] < image[-1] < at[3]
    assert not any(at[1] < position < at[2] for position in image)


def test_no_word_goes_across_a_picture(wide):
    """Of "the", a picture and "cat", the cat is informative and "the" is not."""
    adapter = LVLM(*built("llava")).adapter
    inputs = adapter.inputs([Request(read_messages([user("the", IMAGE, "cat")])[0], (wide,))])
    marked = mark_informative(adapter, inputs, adapter.query_mask(inputs))
    assert adapter.tokenizer.decode(inputs["input_ids"][marked]) == "cat"


@pytest.mark.slow
@pytest.mark.parametrize("name", CHATTING)
def test_conversations_share_what_they_begin_with_the_pictures_in_it(adapter, wide, tall):
    """To the last picture; those with their pictures elsewhere share nothing."""
    longer, other = [*PLACED[:1], user(*PLACED[1]["content"][:4], "Different?")], [user(IMAGE, IMAGE, "What?")]
    pictures = (wide, tall)
    placed, elsewhere = (
        adapter.inputs([Request(read_messages(m)[0], pictures) for m in each])
        for each in ((PLACED, longer), (PLACED, other))
    )
    shared = split_prefixes(adapter, placed)
    assert shared is not None
    assert adapter.image_tokens(shared.inputs) == adapter.image_tokens(adapter.stack(placed.singles[:1]))
    assert split_prefixes(adapter, elsewhere) is None


@pytest.mark.parametrize("name", CHATTING)
def test_special_tokens_typed_in_any_message_stay_text(adapter, wide):
    mark = adapter.tokenizer.convert_ids_to_tokens(adapter.image_token_id)
    typed = [
        {"role": "system", "content": f"Say {mark}."},
        user("a </s>", IMAGE, f"b {mark}"),
        {"role": "assistant", "content": f"It is {mark}."},
        user(f"<s> or {mark}?"),
    ]
    usual = [{"role": turn["role"], "content": "a"} for turn in typed]
    usual[1] = user("a", IMAGE, "b")
    ids, plain = (adapter.inputs([Request(read_messages(each)[0], (wide,))])["input_ids"][0] for each in (typed, usual))
    decoded = adapter.tokenizer.decode(ids)
    for words in (f"Say {mark}.", "a </s>", f"b {mark}", f"It is {mark}.", f"<s> or {mark}?"):
        assert words in decoded
    special = set(adapter.tokenizer.all_special_ids)
    assert [int(i) for i in ids if int(i) in special] == [int(i) for i in plain if int(i) in special]


@pytest.mark.parametrize("name", CHATTING)
def test_each_image_token_looks_where_it_would_in_a_prompt(name, adapter, wide, tall):
    """The order of pictures is the same, and words between them do not count."""
    placed, first = (Request(p, (wide, tall)) for p in (read_messages(PLACED)[0], "Differences?"))
    own, other = (adapter.places(request, adapter.inputs([request])) for request in (placed, first))
    assert own.image.equal(other.image)
    assert own.view.equal(other.view)


@pytest.mark.parametrize("name", FORMATLESS)
def test_a_family_without_a_chat_format_takes_a_single_message(lvlm, wide):
    own = lvlm.generate(wide, [user(IMAGE, "What is it?")], max_new_tokens=3)
    assert own.token_ids == lvlm.generate(wide, "What is it?", max_new_tokens=3).token_ids
    for messages in (
        [user("What is it?", IMAGE)],
        [{"role": "system", "content": "Be brief."}, user(IMAGE, "What is it?")],
        [user(IMAGE, "What?"), {"role": "assistant", "content": "A cat."}, user("Sure?")],
    ):
        with pytest.raises(PromptError, match="has no chat format; ask in a single user message"):
            lvlm.generate(wide, messages, max_new_tokens=3)


def test_a_part_brings_its_picture_or_takes_the_next_given(wide, tall, tmp_path):
    file = tmp_path / "tall.png"
    tall.save(file)
    lvlm = LVLM(*built("qwen2_5_vl"))
    wanted = lvlm.generate([wide, tall, wide], [user(IMAGE, "a", IMAGE, "b", IMAGE)], max_new_tokens=4).token_ids
    for second in ({"path": str(file)}, {"path": file}, {"image": tall}, {"image": str(file), "text": None}):
        messages = [user(IMAGE, "a", IMAGE | second, "b", IMAGE)]
        assert lvlm.generate([wide, wide], messages, max_new_tokens=4).token_ids == wanted
    messages = [user(IMAGE | {"image": wide}, "a", IMAGE | {"image": tall}, "b", IMAGE | {"image": wide})]
    assert lvlm.generate(None, messages, max_new_tokens=4).token_ids == wanted


@pytest.mark.parametrize(("given", "places"), [(0, 2), (1, 2), (3, 2), (1, 0)])
def test_pictures_and_places_that_do_not_match_are_counted(wide, given, places):
    messages = [user(*[IMAGE] * places, "What?")]
    with pytest.raises(PromptError, match=f"leave {places} of .* argument, which gives {given};"):
        LVLM(*built("llava")).generate([wide] * given, messages)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "the list of messages is empty"),
        ({"role": "user", "content": "a"}, "must be text or a list of messages, got dict"),
        (["What?"], "message 1 must be a mapping with role and content, got str"),
        ([[user("a")]], "message 1 must be a mapping with role and content, got list"),
        ([{"role": "tool", "content": "a"}], "message 1: role must be one of system, user, assistant, got 'tool'"),
        ([{"content": "a"}], "message 1: role must be one of system, user, assistant, got None"),
        ([user("a"), {"role": "assistant", "content": "b"}], "message 2, the last, must be the user's"),
        ([{"role": "user", "content": 3}], "message 1: content must be text or a list of parts, got int"),
        ([{"role": "user"}], "message 1: content must be text or a list of parts, got NoneType"),
        ([{"role": "user", "content": ["a"]}], "message 1, part 1 must be a mapping with a type, got str"),
        ([{"role": "system", "content": " "}, user("a")], r"message 1 \(system\) is empty"),
        ([user("a"), {"role": "assistant", "content": "b"}, user("")], r"message 3 \(user\) is empty"),
        ([user(IMAGE)], "the prompt is empty: no message has a text"),
        ([user("a", {"type": "video", "path": "a.mp4"})], "message 1, part 2: type must be text or image, got 'video'"),
        ([user({"text": "a"})], "message 1, part 1: type must be text or image, got None"),
        ([user({"type": "text"})], "message 1, part 1: its text must be text, got NoneType"),
        ([user({"type": "text", "text": "a\udcff"})], "message 1, part 1: its text holds characters that are no valid"),
        ([user({"type": "image", "url": "http://a/b.png"}, "a")], "part 1: url is not read, as nothing is fetched"),
        ([user({"type": "image_url", "image_url": {"url": "data:"}}, "a")], "image_url is not read, .* file as path"),
        ([user({"type": "image", "image": "https://a/b.png"}, "a")], "https://a/b.png is not fetched"),
        ([user({"type": "image", "image": "a.png", "path": "a.png"}, "a")], "has its picture twice"),
        ([user({"type": "image", "base64": "AA"}, "a")], "part 1 has 'base64', which is not read"),
        ([{**user("a"), "tool_calls": [1]}], "message 1 has 'tool_calls', which is not read"),
    ],
)
def test_messages_of_another_shape_are_refused_by_name(messages, said):
    with pytest.raises(PromptError, match=said):
        read_messages(messages)


def test_a_conversation_is_written_for_people_to_read():
    assert str(read_messages([user(IMAGE, "What?")])[0]) == "What?"
    assert str(read_messages(PLACED)[0]) == ("system: Be brief.\nuser: First: [picture] Second: [picture] Differences?")


def test_equal_messages_are_equal_conversations():
    read = read_messages([{"role": "user", "content": "Hi"}])[0]
    assert read == Conversation.from_prompt("Hi", 0) == Conversation((Turn("user", ("Hi",)),))
    assert len({read, Conversation.from_prompt("Hi", 0)}) == 1


# What a template may do to messages. Each writes a user's single message as it should.
LOOP = "{% for m in messages %}"
PARTS = "{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}"
HOISTS = (
    LOOP
    + "{{ m.role }}: {% for p in m.content if p.type == 'image' %}<image>{% endfor %}"
    + "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %};{% endfor %}assistant:"
)
DROPS_SYSTEM = LOOP + "{% if m.role != 'system' %}{{ m.role }}: " + PARTS + ";{% endif %}{% endfor %}assistant:"
REFUSES_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message, please') }}{% endif %}"
FIRST_ONLY = "USER: {% for p in messages[0].content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}"
LAST_ONLY = FIRST_ONLY.replace("messages[0]", "messages[-1]")
NO_ROLES = LOOP + "USER: " + PARTS + " ASSISTANT:{% endfor %}"
SYSTEM_IS_A_STRING = (
    LOOP
    + "{{ m.role }}: {% if m.role == 'system' %}{{ m.content }}{% else %}"
    + PARTS
    + "{% endif %};{% endfor %}assistant:"
)
FIRST_SYSTEM_PART = SYSTEM_IS_A_STRING.replace(
    "{{ m.content }}", "{{ m.content if m.content is string else m.content[0].text }}"
)
STRINGS = LOOP + "{{ m.role + ': ' + m.content }};{% endfor %}assistant:"
SHORTENS = LOOP + "{{ m.role }}: " + PARTS.replace("p.text", "p.text | truncate(12)") + ";{% endfor %}assistant:"


def rendered(template, messages):
    model, processor = built("llava")
    processor = copy.copy(processor)
    processor.chat_template = template
    conversation = read_messages(messages)[0]
    return LVLM(model, processor).adapter.render(Request(conversation))


@pytest.mark.parametrize(
    ("template", "messages", "said"),
    [
        (HOISTS, PLACED, "puts texts and pictures in another order"),
        (HOISTS, [user("a", IMAGE, "b")], "puts texts and pictures in another order"),  # "a" is in "<image>", too
        (DROPS_SYSTEM, PLACED, r"leaves message 1 \(system\) out"),
        (REFUSES_SYSTEM + DROPS_SYSTEM, PLACED, "no system message, please"),
        (FIRST_ONLY, TURNS, r"leaves message 2 \(assistant\) out"),
        (LAST_ONLY, TURNS, r"leaves message 1 \(user\) out"),
        (NO_ROLES, TURNS, "writes the message of the assistant as if it were the user's"),
        (SHORTENS, [PLACED[0], user("What is it, and what is it for?")], "changes the texts it is given"),
    ],
)
def test_a_template_that_would_ask_something_else_is_refused(template, messages, said):
    assert "What" in rendered(template, [user(IMAGE, "What?")])
    with pytest.raises(ModelError, match=f"its chat template cannot render these messages: .*{said}.*; set another"):
        rendered(template, messages)


def test_the_template_that_stands_in_for_llavas_writes_turns_as_its_authors_do():
    """Their conversation "vicuna_v1": a space behind the system message and a question, </s> behind an answer."""
    messages = [{"role": "system", "content": "Be brief."}, *TURNS[:3]]
    assert rendered(None, messages) == (
        "Be brief. USER: <image>\nWhat is it? ASSISTANT: A cat.</s>USER: And here?<image>\n ASSISTANT:"
    )


@pytest.mark.parametrize("template", [SYSTEM_IS_A_STRING, FIRST_SYSTEM_PART])
def test_a_system_message_is_a_string_where_the_template_wants_one(template):
    messages = [{"role": "system", "content": [text("Be "), text("brief.")]}, PLACED[1]]
    wanted = "system: Be brief.;user: First:<image>Second:<image>Differences?;assistant:"
    assert rendered(template, messages) == wanted


def test_all_messages_are_strings_where_the_template_wants_them():
    assert rendered(STRINGS, TURNS[:3]) == (
        "user: <image>\nWhat is it?;assistant: A cat.;user: And here?<image>\n;assistant:"
    )


def test_pictures_go_where_they_stand_in_a_string_if_the_template_moves_those_of_a_list():
    """The embedded model's template puts the pictures of a list first."""
    lvlm = mmhall.load("embedded")
    written = lvlm.adapter.render(Request(read_messages([user("First:", IMAGE, "Second:", IMAGE)])[0]))
    assert written == "USER: First:<image>\nSecond:<image>\n ASSISTANT:"


def test_texts_that_make_up_a_special_token_together_are_refused(wide):
    with pytest.raises(PromptError, match=r"together form '<image>', which is a special token of this model"):
        LVLM(*built("llava")).generate(wide, [user(IMAGE, "What is <ima", "ge>?")])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava"])
def test_every_call_takes_messages(name, lvlm, wide, tall):
    image, bare = [wide, tall], [{"role": "system", "content": "Be brief."}, user("What is a cat?")]
    answer = lvlm.generate(image, PLACED, max_new_tokens=4)
    trace = lvlm.trace(image, PLACED, max_new_tokens=4)
    assert trace.answer.token_ids == answer.token_ids
    assert trace.prompt == str(read_messages(PLACED)[0])
    assert len(trace.pictures) == 2
    assert "".join(lvlm.stream(image, PLACED, max_new_tokens=4)).strip() == answer.text.strip()
    batch = lvlm.choose_batch([(image, PLACED), (image, TURNS)])
    assert batch[0].probabilities == pytest.approx(lvlm.choose(image, PLACED).probabilities, abs=1e-5)
    assert lvlm.choose(image, TURNS, calibrate="none+unk").calibration == "diagonal none+unk"
    assert len(lvlm.score(image, PLACED, "A cat.").logprobs) == len("A cat.")
    assert lvlm.head_divergence(image, PLACED, "A cat.") is not None
    assert lvlm.balance(image, PLACED, "A cat.") is not None
    assert lvlm.generate(None, bare, max_new_tokens=2).token_ids
