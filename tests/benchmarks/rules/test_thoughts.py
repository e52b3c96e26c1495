"""What a reasoning model thinks is no part of its answer, by every rule of every benchmark."""

from __future__ import annotations

import pytest

import mmhall
from mmhall.answers import DecodedTokens
from mmhall.benchmarks import amber, benchmark, hallusion, mme
from mmhall.benchmarks.base import Item, Source
from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.data.vocabulary import mentions
from mmhall.benchmarks.report.table import as_data, remarks
from mmhall.benchmarks.rules import yesno
from mmhall.benchmarks.rules.thoughts import blank_thoughts, is_thoughts_only, remove_thoughts
from mmhall.benchmarks.run.inputs import BatchInputs
from mmhall.benchmarks.run.runner import answers
from mmhall.benchmarks.run.runs import Part
from mmhall.benchmarks.scenes import write_scenes
from mmhall.benchmarks.tune.objective import Sheet
from mmhall.words import token_spans
from tests.benchmarks.conftest import answered

QUESTION = {"label": "yes", "category": "count", "object": "bench", "visibility": None}
THOUGHT = "<think>No dog is here, no cat; a car? No.</think>\n\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("<think>No.</think>\nYes", "Yes"),
        ("Let me look. No.</think>\n\nYes.", "Yes."),
        ("<THINKING>no idea</THINKING>Yes", "Yes"),
        ("[THINK]no[/THINK]Yes", "Yes"),
        ("◁think▷no◁/think▷Yes", "Yes"),
        ("<seed:think>no</seed:think>Yes", "Yes"),
        ("<|begin_of_thought|>no<|end_of_thought|><|begin_of_solution|>Yes<|end_of_solution|>", "Yes"),
        ("<think>no</think><answer><|begin_of_box|>Yes<|end_of_box|></answer>", "Yes"),
        ("<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>Yes", "Yes"),
        ("<REASONING>no</REASONING>\n<CONCLUSION>Yes</CONCLUSION>", "Yes"),
        ("<think>no <answer>no</answer> wait</think><answer>Yes</answer>", "Yes"),
        ("<think>it is there <answer>Yes</answer>", "Yes"),  # never closed, but answered
        ("<think>a <think>b</think> no</think>Yes", "Yes"),
        ("Yes<think>no</think>", "Yes"),
        ("<answer>Yes", "Yes"),
        ("<think>Yes, or <answer>Yes</answer>? Look again", ""),
        ("<think>No, wait", ""),
        ("<think>Yes</think>", ""),
        ("<reason>no</reason>Yes", "Yes"),
        ("< think >no</ think >Yes", "Yes"),
        ("<longcat_think>no</longcat_think>Yes", "Yes"),
        ("<|START_THINKING|>no<|END_THINKING|><|START_RESPONSE|>Yes<|END_RESPONSE|>", "Yes"),
        ("<|channel>thought\nno<channel|>Yes", "Yes"),
        ("<unused94>thought\nno<unused95>Yes", "Yes"),
        ("<|channel>thought\nYes, but", ""),
        ("No dog at first, but then: \\boxed{\\text{Yes}}.", "\\text{Yes}"),
        ("<think>no</think><answer> $\\boxed{Yes}$ </answer>", "Yes"),
        ("Two: \\boxed{2}. So \\boxed{\\textbf{No}, none}, as \\boxed{2} is even.", "\\textbf{No}, none"),
        ("No. The count is \\boxed{0}.", "No. The count is \\boxed{0}."),
        ("A man at a \\boxed{\\text{note}}, \\boxed{} no", "A man at a \\boxed{\\text{note}}, \\boxed{} no"),
        ("  Yes, <b>there</b> is. \n", "  Yes, <b>there</b> is. \n"),  # no marks: to the letter
    ],
)
def test_only_what_stands_behind_the_thoughts_is_read(answer, said):
    assert remove_thoughts(answer) == said
    assert is_thoughts_only(answer) == (said == "")
    kept = blank_thoughts(answer)
    assert len(kept) == len(answer)
    assert all(new in (" ", old) for new, old in zip(kept, answer, strict=True))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Answer: Yes", "yes"),
        ("**Final Answer:** No", "no"),
        ("There is a cat and a dog. The final answer is yes.", "yes"),
        ("No cat. Final answer: Yes", "no"),  # the first word says it
        ("### Reasoning\nNo cat.\n### Answer\nYes", "yes"),
        ("A cat. The answer is: **Yes**, on the mat.", "yes"),
        ("Answer: Yes? I look again. Answer: No.", "no"),
        ("No\n\nQuestion: Is there a cat in the image?\nAnswer: Yes", "no"),
        ("A dog.\n\nQuestion: Is there a cat in the image?\nAnswer: Yes", None),
        ("A dog, so the answer: No. USER: Is there a cat? Answer: Yes", "no"),
        ("Question: Is there a cat?\nAnswer: Yes\n\nQuestion: Is there a dog?\nAnswer: No", "yes"),
        ("I cannot answer: no image was given.", None),
        ("I can't answer: no.", None),
        ("I was asked to answer: yes or no", None),
        ("The answer: yes/no", None),
        ("The answer: yes, and no", None),
        ("<think>The answer: no.</think>Answer: Yes", "yes"),
        ("No. You asked to answer: yes or no", "no"),
        ("The final answer is not clear", None),
    ],
)
def test_what_is_called_the_answer_is_read(answer, said):
    assert yesno.parse_strict(answer) == said


@pytest.mark.parametrize("rule", list(yesno.RULES))
def test_every_yes_no_rule_reads_behind_the_thoughts(rule):
    assert yesno.read(rule, "yes", "<think>No bench? no, not one.</think>\nYes") == "yes"
    assert yesno.read(rule, "yes", "<think>No, wait") is None
    assert yesno.tally(rule, "yes", "<think>Yes, it is there. Yes")["unparsed"] == 1


@pytest.mark.parametrize("rule", ["strict", "official", "opera", "vcd"])
def test_a_box_around_something_else_than_the_answer_is_text(rule):
    assert yesno.read(rule, "no", "No. The count is \\boxed{0}.") == "no"


@pytest.mark.parametrize(
    "spec",
    [
        *(f"pope(rule={rule!r})" for rule in yesno.RULES),
        *(f"mme(rule={rule!r})" for rule in mme.RULES),
        *(f"hallusion(rule={rule!r})" for rule in hallusion.RULES),
    ],
)
def test_benchmarks_of_questions_read_behind_the_thoughts(spec):
    made, item = benchmark(spec), Item("1", "p", "q", ("count",), QUESTION)
    assert made.count(item, "<think>no, none</think>\nYes")["right"] == 1
    assert made.count(item, "<think>Yes, yes")["unparsed"] == 1
    assert made.mark(item, "<think>no</think>Yes")[0][2]
    assert not made.mark(item, "<think>yes")[0][2]


@pytest.mark.parametrize("rule", list(amber.RULES))
def test_amber_questions_are_read_behind_the_thoughts(rule):
    made, item = benchmark(f"amber-d(rule={rule!r})"), Item("1", "p", "q", ("overall",), {"label": "No"})
    assert made.count(item, "<think>Yes, a cloud.</think>No")["both"] == 1
    assert made.count(item, "<think>No, no")["unparsed"] == 1


def test_captions_are_counted_and_marked_behind_the_thoughts():
    text = THOUGHT + "A dog and a cup."
    chair, item = benchmark("chair"), Item("1", "1", "", ("captions",), {"objects": ["dog"]})
    counts = chair.count(item, text)
    assert (counts["named"], counts["absent"], counts["words"]) == (2, 1, 5)
    assert [(text[a:b], right) for a, b, right in chair.mark(item, text)] == [("dog", True), ("cup", False)]
    assert benchmark("detect").count(item, text) == {"n": 1, "named": 2, "absent": 1}
    assert benchmark("chair(words=2)").count(item, text)["named"] == 1  # the first two words said, not thought
    assert benchmark("clip(model='x/y')").count(item, text) == {"n": 1, "sentences": 1, "words": 5}


def test_captions_are_cut_to_equal_length_without_their_thoughts():
    chair, item = benchmark("chair"), Item("1", "1", "", ("captions",), {"objects": ["dog"]})
    own, base = answered(chair, [item], [THOUGHT + "A dog and a cup."]), answered(chair, [item], ["A dog"])
    (cut,), (whole,) = chair.paired([item], own, base)
    assert (cut["words"], cut["named"], whole["words"]) == (2, 1, 2)


def test_a_judge_is_shown_the_answer_alone():
    truth = {"question": "q", "reference": "r", "contents": "c"}
    for spec in ("mmhal", "hallusion(rule='judge')"):
        assert benchmark(spec).judge_fields(Item("1", "p", "q", (), truth), THOUGHT + "Two.")["answer"] == "Two."


def test_answers_that_are_thoughts_alone_are_told():
    pope = benchmark("pope")
    items = [Item(str(n), "p", "q", ("random",), QUESTION) for n in range(3)]
    rows = answered(pope, items, ["<think>Yes", "<think>no</think>", "<think>no</think>Yes"])
    evaluated = [(Part(pope, items, {}), pope.evaluate(items, rows, ["greedy"]))]
    assert evaluated[0][1].thoughts_only == {"greedy": 2}
    told = [line for line in remarks(evaluated, {"greedy": "greedy"}) if "thoughts alone" in line]
    assert len(told) == 1
    assert "2 answers" in told[0]
    data = as_data(evaluated, {"strategies": ["greedy"]})
    assert data["items"][0]["thoughts_only"] == {"greedy": 2}
    assert told[0] in data["remarks"]


@pytest.fixture
def thinking():
    """The embedded model with a template that opens thoughts."""
    lvlm = mmhall.load(device="cpu")
    lvlm.processor.chat_template = lvlm.processor.chat_template + "<think>\n"
    return lvlm


@pytest.fixture
def scenes(tmp_path):
    list(write_scenes(tmp_path / "scenes", 2, 0))
    return tmp_path / "scenes" / "annotations.json"


@pytest.mark.parametrize("name", ["chair", "clip", "detect"])
def test_thoughts_that_the_template_opens_and_nothing_ends_are_no_answer(thinking, scenes, clip, name):
    """A caption cut off by its length would else be read, measured and counted as one."""
    made = benchmark(f"clip(model={str(clip)!r}, max_new_tokens=6)" if name == "clip" else f"{name}(max_new_tokens=6)")
    material = made.material(Source(scenes))
    part = Part(made, list(material.items), material.pictures)
    (rows,) = answers(BatchInputs(thinking, part, part.items), [mmhall.strategy("greedy")], 0, set())
    for item, row in zip(part.items, rows, strict=True):
        assert row.text.startswith("<think>")
        assert mentions(row.text)
        assert is_thoughts_only(row.text)
        if name == "clip":
            assert (row.extra["similarity"], row.extra["caption"], made.count(item, row.text)["words"]) == ([], 0.0, 0)
        if name == "detect":
            assert len(row.extra["mentions"]) == made.count(item, row.text)["named"] == 0


@pytest.mark.slow
def test_tuning_counts_thoughts_as_a_benchmark_does(thinking, scenes):
    pictures = read_coco(scenes, scenes.parent)
    sheet = Sheet(pictures, [picture.id for picture in pictures.pictures], 0, max_new_tokens=6)
    scored = sheet.answer(thinking, mmhall.strategy("greedy"), 8, lambda count: None)
    assert all(map(is_thoughts_only, scored.texts))
    assert sheet.figures(scored, scored).words == 0


def test_marks_of_thoughts_that_are_special_tokens_are_kept():
    """Gemma 4's are; dropped with the end mark, they would leave thoughts and answer as one text."""
    lvlm = mmhall.load(device="cpu")
    tokenizer = lvlm.processor.tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|channel>", "<channel|>"]})
    opened, closed = tokenizer.convert_tokens_to_ids(["<|channel>", "<channel|>"])
    ids = [opened, *tokenizer("A dog", add_special_tokens=False)["input_ids"], closed]
    ids += tokenizer("A cat", add_special_tokens=False)["input_ids"]
    said = DecodedTokens.from_row([*ids, tokenizer.eos_token_id], tokenizer, [tokenizer.eos_token_id], [])
    assert remove_thoughts(said.text) == "A cat"
    text, spans = token_spans(tokenizer, ids)
    assert text.strip() == said.text
    assert max(span.end for span in spans) == len(text)
