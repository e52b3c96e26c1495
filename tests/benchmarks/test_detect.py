"""Signals of hallucination: read where the words begin, equal to those read by hand, and judged by pairs."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from mmhall.adapters._base import Request
from mmhall.analysis._head_divergence import head_divergence
from mmhall.analysis._modality_dominance import measure_dominance
from mmhall.analysis._score import score
from mmhall.answers import Answer, Usage
from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Item, Source
from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.data.vocabulary import mentions
from mmhall.benchmarks.detect import POSITIONS, SIGNALS, STRATA, Detect, tokens_of
from mmhall.benchmarks.report.page import write_page
from mmhall.benchmarks.report.table import as_data, sections
from mmhall.benchmarks.rules.thoughts import blank_thoughts
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import Part, Run, reopen, start
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import DataError, OptionError
from mmhall.lvlm import LVLM
from mmhall.results.store import Row, Store
from mmhall.strategies import strategy
from tests.zoo import built
from tests.zoo.common import make_tokenizer

PROMPT = "Please describe this image in detail."
BARE = make_tokenizer()  # a token a byte


def answered(tokenizer, text):
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    said = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return Answer(said, tuple(map(str, ids)), ids, "eos", "greedy", {}, Usage(1.0, 9, len(ids), None))


def aligned(tokenizer, text):
    answer = answered(tokenizer, text)
    found = mentions(answer.text)
    return answer, found, tokens_of(tokenizer, answer, found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("There is a dog.", ["dog"]),
        ("A potted plant, a dog, two dogs and a potted plant", ["potted plant", "dog", "dogs", "potted plant"]),
        ("A traffic light near the tennis racket.", ["traffic light", "tennis racket"]),
        ("dog", ["dog"]),
        ("", []),
        ("Nothing is in the image.", []),
    ],
)
def test_words_of_the_embedded_model_are_found_in_its_tokens(processor, text, wanted):
    """Its tokens are words: what they decode to is the mention."""
    answer, _, places = aligned(processor.tokenizer, text)
    read = [processor.tokenizer.decode([answer.token_ids[at] for at in tokens]).strip() for tokens in places]
    assert read == wanted


def test_repeated_words_have_tokens_of_their_own(processor):
    _, _, places = aligned(processor.tokenizer, "a dog and a potted plant and a dog and a potted plant")
    assert places == [(1,), (4, 5), (8,), (11, 12)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Café: a dog", [("dog", 9)]),  # é is two bytes, so d is the tenth token
        ("木木 dog, 🐕 cat", [("dog", 7), ("cat", 17)]),
        ("naïve dogs – hot dog", [("dog", 7), ("hot dog", 16)]),
        ("  a cup  ", [("cup", 4)]),  # the answer's text has lost the white space before it
    ],
)
def test_letters_of_several_bytes_shift_no_word(text, wanted):
    _, found, places = aligned(BARE, text)
    assert [(m.name, tokens[0]) for m, tokens in zip(found, places, strict=True)] == wanted


def test_the_mark_of_thoughts_that_a_run_puts_before_an_answer_shifts_no_word():
    """A template has opened the thoughts, which never end, but the answer is marked."""
    written = answered(BARE, " A cup? <answer>A dog</answer>")
    marked = replace(written, text=f"<think>{written.text}")
    (dog,) = mentions(blank_thoughts(marked.text))
    assert tokens_of(BARE, marked, [dog]) == [(18, 19, 20)]


@given(
    st.lists(st.sampled_from(["dog", "hot dog", "cats", "é", "木", "🐈", "x", ".", ",", "  ", "train tracks", "\n"])),
    st.sampled_from([" ", "", "-"]),
)
def test_tokens_write_what_is_mentioned(words, between):
    """Of bytes, the tokens of a mention decode to it, wherever it stands; and the first is where its text begins."""
    answer, found, places = aligned(BARE, between.join(words))
    for mention, tokens in zip(found, places, strict=True):
        assert BARE.decode([answer.token_ids[at] for at in tokens]) == answer.text[mention.start : mention.end]
        before = BARE.decode(answer.token_ids[: tokens[0]]).lstrip()
        assert before == answer.text[: mention.start]


@pytest.fixture
def scenes(tmp_path):
    list(write_scenes(tmp_path / "scenes", 5, 0))
    return read_coco(tmp_path / "scenes" / "annotations.json", tmp_path / "scenes")


CAPTIONS = ("There is a dog near a potted plant. It is a nice dog.", "Nothing.", "a cup and a traffic light", "")


def asked(pictures, tmp_path):
    made = []
    for number, picture in enumerate((*pictures, pictures[0])):
        path = tmp_path / f"{number}.png"
        picture.save(path)
        made.append((Item(str(number), str(number), PROMPT, ("captions",), {"objects": ["dog"]}), path))
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "token"), [("embedded", "mean"), ("llava", "first"), ("qwen2_5_vl", "mean"), ("gemma3", "first")]
)
def test_signals_are_those_read_by_hand(name, token, pictures, tmp_path, request):
    """Each of a single answer and by its own function, where the batch reads all at once."""
    lvlm = request.getfixturevalue("embedded") if name == "embedded" else LVLM(*built(name))
    tokenizer, adapter = lvlm.adapter.tokenizer, lvlm.adapter
    answers = [answered(tokenizer, text) for text in CAPTIONS]
    kept = Detect(token=token, k=2).measure(lvlm, asked(pictures, tmp_path), answers)
    assert [len(extra["mentions"]) for extra in kept] == [3, 0, 2, 0]
    for extra, told, picture in zip(kept, answers, (*pictures, pictures[0]), strict=True):
        if not extra["mentions"]:
            continue
        inputs = adapter.inputs([Request(PROMPT, (picture,))])
        (sure,), ids = score(adapter, inputs, [told.token_ids]), told.token_ids
        heads = head_divergence(adapter, inputs, ids).per_token(2)
        (shared,) = measure_dominance(adapter, inputs, [ids])
        found = mentions(told.text)
        for entry, mention, places in zip(extra["mentions"], found, tokens_of(tokenizer, told, found), strict=True):
            at = list(places if token == "mean" else places[:1])
            groups = [shared.of([place]).groups() for place in at]
            wanted = [
                at,
                *([part[a] for a in at] for part in (sure.logprobs, sure.entropies, sure.image_gains)),
                *([part[a] for a in at] for part in (sure.image_divergences, sure.image_shares)),
                *(
                    [group[layers][index] for group in groups]
                    for index in ("mdi", "aei_text")
                    for layers in ("early", "middle", "late")
                ),
                heads[at].tolist(),
            ]
            means = [None if None in values else sum(values) / len(values) for values in wanted]
            assert (entry["name"], entry["start"], entry["end"]) == (mention.name, mention.start, mention.end)
            assert entry["token"] == places[0]
            for got, mean in zip(entry["values"], means, strict=True):
                assert (got is None) == (mean is None)
                assert got is None or got == pytest.approx(mean, rel=1e-3, abs=2e-4)
    assert len(SIGNALS) == 13


def test_a_person_finds_the_same_by_asking_for_the_text(embedded, pictures, tmp_path):
    answer = answered(embedded.adapter.tokenizer, CAPTIONS[0])
    (kept,) = Detect().measure(embedded, asked(pictures, tmp_path)[:1], [answer])
    sure = embedded.score(pictures[0], PROMPT, answer.text)
    heads = embedded.head_divergence(pictures[0], PROMPT, answer.text).per_token(8)
    for entry in kept["mentions"]:
        values = dict(zip(SIGNALS, entry["values"], strict=True))
        assert values["position"] == entry["token"]
        assert values["log-probability"] == pytest.approx(sure.logprobs[entry["token"]], abs=1e-4)
        assert values["image divergence"] == pytest.approx(sure.image_divergences[entry["token"]], abs=1e-4)
        assert values["T-VHD"] == pytest.approx(float(heads[entry["token"]]), rel=1e-3)


def test_a_model_with_layers_for_the_picture_lacks_some_signals(pictures, tmp_path):
    lvlm = LVLM(*built("mllama"))
    (kept,) = Detect().measure(lvlm, asked(pictures, tmp_path)[:1], [answered(lvlm.adapter.tokenizer, "a dog")])
    values = dict(zip(SIGNALS, kept["mentions"][0]["values"], strict=True))
    lacking = [name for name, value in values.items() if value is None]
    assert lacking == ["image share", *(name for name in SIGNALS if name.startswith(("MDI", "AEI")))]
    assert values["T-VHD"] > 0


def row(item, strategy, told, **changes):
    """Make an answer whose mentions have (name, position, every other signal)."""
    entries = [
        {"name": name, "start": 0, "end": 1, "token": at, "values": [at, *[value] * (len(SIGNALS) - 1)]}
        for name, at, value in told
    ]
    extra = {"signals": list(SIGNALS), "mentions": entries}
    return Row("detect", item, strategy, "", "eos", 5, 1.0, 0, **{"extra": extra, **changes})


ITEMS = [Item(str(n), str(n), PROMPT, ("captions",), {"objects": ["dog"]}) for n in range(4)]
TOLD = {
    "0": [("dog", 1, 0.3), ("cat", 5, 0.9)],
    "1": [("dog", 2, 0.5), ("dog", 6, 0.1), ("cup", 4, 0.5)],
    "2": [],
    "3": [("cat", 3, 0.2)],
}


def cells(rows, strategies=("greedy",)):
    evaluation = Detect().evaluate(ITEMS, rows, strategies)
    return evaluation, {(c.group, c.metric.name, c.strategy): c.estimate for c in evaluation.cells}


def test_values_by_hand():
    """Hallucinated: 0.9 at 5, 0.5 at 4, 0.2 at 3; supported: 0.3 at 1, 0.5 at 2, 0.1 at 6.

    High is suspect (entropy): 0.9 beats three, 0.5 beats 0.3 and 0.1 and ties, 0.2 beats 0.1: 6.5 of 9; low
    (log-probability): the other 2.5. Position: 5, 4 and 3 beat 1 and 2 each: 6 of 9.
    """
    evaluation, found = cells([row(item, "greedy", told) for item, told in TOLD.items()])
    assert (found["entropy", "AUROC", "greedy"].over, found["entropy", "AUROC", "greedy"].under) == (6.5, 9)
    assert found["log-probability", "AUROC", "greedy"].over == 2.5
    assert found["position", "AUROC", "greedy"].value == pytest.approx(6 / 9)
    assert found["entropy", "minus position", "greedy"].value == pytest.approx(0.5 / 9)
    assert found["position", "minus position", "greedy"].value == 0
    assert found["entropy", "at equal position", "greedy"].value is None  # six positions in ten strata
    assert (found["T-VHD", "hallucinated", "greedy"].over, found["T-VHD", "hallucinated", "greedy"].under) == (3, 6)
    assert evaluation.sizes == dict.fromkeys(SIGNALS, (4, 4))
    assert (evaluation.scored, evaluation.expected, len(evaluation.costs)) == (4, 4, 1)


def test_every_signal_points_the_way_its_card_says():
    suspect_if_low = {"log-probability", "image gain", "image divergence", "image share", "T-VHD"}
    _, found = cells([row(item, "greedy", told) for item, told in TOLD.items()])
    for signal in SIGNALS:
        if signal != "position":
            assert found[signal, "AUROC", "greedy"].over == (2.5 if signal in suspect_if_low else 6.5)


@pytest.mark.slow
def test_equal_positions_are_compared_among_themselves():
    """What rises with position alone is chance at equal position; what differs within positions is not."""
    rng = np.random.default_rng(0)
    items = [Item(str(n), str(n), PROMPT, ("captions",), {"objects": ["dog"]}) for n in range(60)]
    rows = []
    for item in items:
        told = []
        for at in range(POSITIONS):
            absent = rng.random() < at / POSITIONS
            told.append(("cat" if absent else "dog", at, at + 0.5 * absent))
        rows.append(row(item.id, "greedy", told))
    evaluation = Detect().evaluate(items, rows, ["greedy"])
    found = {(c.group, c.metric.name): c.estimate for c in evaluation.cells}
    assert found["position", "AUROC"].value > 0.7
    assert found["position", "at equal position"].value == 0.5
    assert found["entropy", "at equal position"].value == 1.0
    assert found["entropy", "minus position"].low > 0


def test_a_signal_that_knows_only_whether_an_object_was_named_before_is_chance_within():
    """A cat that is not there is named six times, one of five objects that are there twice.

    First mentions: 0.3 of the cat against 0.1, 0.2, 0.4, 0.5, 0.3: 2.5 of 5. Repeated: 0.9, 0.7, 0.8, 0.6, 0.75 of the
    cat against 0.75: 2.5 of 5. All of the cat against all others: 30 of 36.
    """
    there = ["dog", "cup", "bus", "bed", "car"]
    told = [("cat", 0, 0.3), *((name, 0, value) for name, value in zip(there, (0.1, 0.2, 0.4, 0.5, 0.3), strict=True))]
    told += [("cat", 0, value) for value in (0.9, 0.7, 0.8, 0.6, 0.75)] + [("dog", 0, 0.75)]
    item = Item("0", "0", PROMPT, ("captions",), {"objects": there})
    evaluation = Detect().evaluate([item], [row("0", "greedy", told)], ["greedy"])
    found = {c.metric.name: c.estimate for c in evaluation.cells if c.group == "entropy"}
    assert found["AUROC"].value == pytest.approx(0.8333, abs=5e-5)
    assert (found["at equal mention"].over, found["at equal mention"].under) == (5, 10)


def test_objects_that_are_equally_frequent_are_compared_among_themselves():
    """Six objects, in 1 to 6 of seven pictures; thirds are those in 1 and 2, 3 and 4, 5 and 6 pictures.

    Each is named in the first picture, which holds the first, third and fifth. What rises with frequency alone puts the
    hallucinated one of a third above the other: 3 of 3, and 6 of all 9 pairs. What falls within thirds and rises from
    third to third: 0 of 3, and 3 of all 9.
    """
    names = ["dog", "cup", "bus", "bed", "car", "boat"]
    spans = {name: range(1 - count % 2, 1 - count % 2 + count) for count, name in enumerate(names, 1)}
    held = [[name for name in names if picture in spans[name]] for picture in range(7)]
    items = [Item(str(n), str(n), PROMPT, ("captions",), {"objects": objects}) for n, objects in enumerate(held)]
    for values, within, pooled in (([1, 2, 3, 4, 5, 6], 3, 6), ([2, 1, 4, 3, 6, 5], 0, 3)):
        told = [(name, 0, value) for name, value in zip(names, values, strict=True)]
        rows = [row("0", "greedy", told), *(row(item.id, "greedy", []) for item in items[1:])]
        found = {
            c.metric.name: c.estimate for c in Detect().evaluate(items, rows, ["greedy"]).cells if c.group == "entropy"
        }
        assert (found["at equal frequency"].over, found["at equal frequency"].under) == (within, 3)
        assert (found["AUROC"].over, found["AUROC"].under) == (pooled, 9)


def test_confounds_that_hide_each_other_are_held_equal_together():
    """First mentions have 2 where hallucinated, else 1; those repeated at the late position are true and have 3.

    At equal position: early 1 of 1, late 1 of 3. At equal mention: 4 of 4. Alike in all: 1 of 1 early, 1 of 1 late.
    """
    held = [["dog", "cup"]] * 2 + [["cat", "boat"]] * 2  # equally frequent
    items = [Item(str(n), str(n), PROMPT, ("captions",), {"objects": objects}) for n, objects in enumerate(held)]
    first = [("dog", 0, 1.0), ("cat", 0, 2.0)]
    late = [("cup", 9, 1.0), ("boat", 9, 2.0), ("cup", 9, 3.0), ("cup", 9, 3.0)]
    rows = [row(str(n), "greedy", told) for n, told in enumerate((first, late, [], []))]
    found = {
        c.metric.name: c.estimate for c in Detect().evaluate(items, rows, ["greedy"]).cells if c.group == "entropy"
    }
    got = {name: (found[f"at equal {name}"].over, found[f"at equal {name}"].under) for name in STRATA}
    assert got == {"position": (2, 4), "mention": (4, 4), "frequency": (4, 8), "all three": (2, 2)}


def test_a_mention_without_a_signal_counts_for_the_others():
    rows = [row(item, "greedy", told) for item, told in TOLD.items()]
    rows[0].extra["mentions"][1]["values"][2] = None
    _, found = cells(rows)
    assert found["entropy", "AUROC", "greedy"].under == 6
    assert found["entropy", "hallucinated", "greedy"].under == 5
    assert found["image gain", "AUROC", "greedy"].under == 9
    assert found["entropy", "minus position", "greedy"].value == pytest.approx((3.5 - 4) / 6)


def test_strategies_are_judged_on_the_captions_all_have_written():
    rows = [row(item, s, told) for item, told in TOLD.items() for s in ("greedy", "vdd")]
    rows = [r for r in rows if (r.item, r.strategy) != ("3", "vdd")] + [row("3", "vdd", [], error="out of memory")]
    evaluation, found = cells(rows, ("greedy", "vdd"))
    assert found["entropy", "AUROC", "greedy"].under == found["entropy", "AUROC", "vdd"].under == 6
    assert (evaluation.scored, evaluation.failed["vdd"]) == (3, 1)
    assert all(cell.difference is None for cell in evaluation.cells)


def test_without_mentions_or_answers_there_is_nothing_to_divide_by():
    _, found = cells([row(item, "greedy", []) for item in TOLD])
    assert all(estimate.value is None for estimate in found.values())
    evaluation, found = cells([])
    assert (evaluation.scored, found) == (0, {})


@pytest.mark.parametrize(
    "extra",
    [
        None,
        {},
        {"signals": ["position"], "mentions": []},
        {"signals": list(SIGNALS)},
        {"signals": list(SIGNALS), "mentions": [{"name": "dog"}]},
        {"signals": list(SIGNALS), "mentions": [{"name": "dog", "values": [1]}]},
        {"signals": list(SIGNALS), "mentions": [{"name": "dog", "values": ["x"] * 13}]},
        {"signals": list(SIGNALS), "mentions": 3},
        {"signals": list(SIGNALS), "mentions": [None]},
    ],
)
def test_answers_without_signals_are_refused(extra):
    rows = [row(item, "greedy", told) for item, told in TOLD.items()]
    rows[1] = row("1", "greedy", [], extra=extra)
    with pytest.raises(DataError, match="detect: the answer of greedy to item 1 has no signals that can be read"):
        cells(rows)


def test_counts_and_marks_are_those_of_captions():
    item, text = ITEMS[0], "A dog and two cats."
    assert Detect().count(item, text) == {"n": 1, "named": 2, "absent": 1}
    assert Detect().mark(item, text) == [(2, 5, True), (14, 18, False)]


def test_options_are_checked():
    assert benchmark("detect(token='mean', k=4)") == Detect(token="mean", k=4)
    for options in ({"token": "last"}, {"k": 0}, {"rule": "none"}, {"max_new_tokens": 0}):
        with pytest.raises(OptionError):
            Detect(**options)


@pytest.mark.slow
def test_a_run_keeps_signals_and_reports_them(llava, scenes, tmp_path):
    """A random model names whatever it has words for; everything that a run prints can be printed."""
    benchmarks = [(Detect(max_new_tokens=40, k=2), Source(tmp_path / "scenes" / "annotations.json"))]
    made = start(
        tmp_path / "run", llava, benchmarks=benchmarks, strategies=[strategy("greedy"), strategy("vdd")], batch_size=2
    )
    answer(llava, made, made.parts[0], [strategy("greedy"), strategy("vdd")], batch_size=2)
    opened = reopen(tmp_path / "run")
    rows = list(opened.store.rows("detect"))
    assert len(rows) == 10
    for kept in rows:
        named = [(m.name, m.start, m.end) for m in mentions(kept.text)]
        assert [(m["name"], m["start"], m["end"]) for m in kept.extra["mentions"]] == named
    assert sum(len(kept.extra["mentions"]) for kept in rows) > 10
    evaluated = opened.evaluate()
    shown = sections(evaluated)
    assert [section.title.split(":")[0] for section in shown] == [f"detect {signal}" for signal in SIGNALS]
    assert all(len(line.values) == len(Detect.metrics) for section in shown for line in section.lines)
    json.dumps(as_data(evaluated, opened.store.setup()), allow_nan=False)
    write_page([(opened, evaluated)], tmp_path / "page.html")
    assert "T-VHD" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_the_batch_size_changes_no_signal(llava, scenes, tmp_path):
    chosen = Detect(max_new_tokens=24, k=2)
    part = Part(chosen, chosen.items(scenes, 0), {p.id: p.path for p in scenes.pictures})
    found = []
    for size in (1, 5):
        store = Store.create(tmp_path / f"run {size}", {})
        answer(llava, Run(store, (part,), ("greedy",)), part, [strategy("greedy")], batch_size=size)
        found.append({r.item: (r.text, [m["values"] for m in r.extra["mentions"]]) for r in store.rows("detect")})
    for item, (text, values) in found[0].items():
        assert found[1][item][0] == text
        alone, together = (torch.tensor(part, dtype=torch.float64) for part in (values, found[1][item][1]))
        torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)
    assert not any(math.isnan(value) for _, values in found[0].values() for row in values for value in row)
