from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mmhall.benchmarks.base import Item
from mmhall.benchmarks.data.pictures import Picture, PictureSet
from mmhall.benchmarks.pope import SETTINGS, Pope, question_about
from mmhall.benchmarks.rules.yesno import METRICS, parse_official, parse_strict, score
from mmhall.errors import DataError, OptionError
from mmhall.results.store import Row

WORLD = {
    "1": ("cat", "dog", "cup"),
    "2": ("dog", "cup", "bed"),
    "3": ("dog", "cat", "car"),
    "4": ("bus", "car", "dog"),
    "5": ("cat",),
    "6": ("cup", "bed", "tv", "dog"),
}


@pytest.fixture
def world() -> PictureSet:
    pictures = tuple(Picture(k, Path(f"{k}.png"), v, {}) for k, v in WORLD.items())
    return PictureSet(pictures, tuple(sorted({n for v in WORLD.values() for n in v})))


def in_setting(items, setting):
    return [item for item in items if setting in item.groups]


@pytest.mark.parametrize(
    ("answer", "official", "strict"),
    [
        ("Yes", "yes", "yes"),
        ("No", "no", "no"),
        ("no.", "no", "no"),
        ("", "yes", None),
        ("NO", "yes", "no"),
        ("No!", "yes", "no"),
        ("**No**", "yes", "no"),
        ("None", "yes", None),
        ("Not visible", "yes", None),
        ("not visible", "no", None),
        ("The image shows a street. There is no truck.", "yes", None),
        ("Yes, there is no doubt", "no", "yes"),
        ("I am not sure.", "no", None),
        ("No, there is no dog.", "no", "no"),
        (". No", "yes", "no"),
        ("yes, it is", "yes", "yes"),
        ("Ja", "yes", None),
    ],
)
def test_rules_read_answers_as_described(answer, official, strict):
    assert (parse_official(answer), parse_strict(answer)) == (official, strict)


@given(st.text(alphabet="NnoYyest., \n!", max_size=20))
def test_official_rule_equals_a_slow_reading(answer):
    before = ""
    for character in answer:
        if character == ".":
            break
        before += "" if character == "," else character
    words, word = [], ""
    for character in before + " ":
        if character == " ":
            words.append(word)
            word = ""
        else:
            word += character
    assert parse_official(answer) == ("no" if any(w in ("No", "no", "not") for w in words) else "yes")


def test_each_picture_gets_three_present_and_three_absent_objects_in_every_setting(world):
    items = Pope().items(world, seed=0)
    for setting in SETTINGS:
        asked = in_setting(items, setting)
        per_picture = Counter((item.picture, item.truth["label"]) for item in asked)
        assert set(per_picture.values()) == {3}
        assert {picture for picture, _ in per_picture} == {"1", "2", "3", "4", "6"}
        for item in asked:
            assert (item.truth["object"] in WORLD[item.picture]) == (item.truth["label"] == "yes")


def test_present_objects_are_the_first_three_listed_and_shared_by_all_settings(world):
    yes = [item for item in Pope().items(world, 0) if item.truth["label"] == "yes"]
    assert all(item.groups == SETTINGS for item in yes)
    assert [item.truth["object"] for item in yes if item.picture == "6"] == ["cup", "bed", "tv"]


def test_popular_asks_for_the_most_frequent_absent_objects(world):
    """Pictures 1, 2, 3, 4, 6 hold dog 5, cup 3, cat 2, bed 2, car 2, bus 1, tv 1; picture 4 holds bus, car, dog."""
    items = in_setting(Pope().items(world, 0), "popular")
    assert {i.truth["object"] for i in items if i.picture == "4" and i.truth["label"] == "no"} == {"cup", "cat", "bed"}


def test_adversarial_asks_for_what_goes_with_the_object_just_asked(world):
    """Picture 3 (dog, cat, car): with dog goes cup, 3 times; with cat only cup again, so a random one; with car bus."""
    items = in_setting(Pope().items(world, 0), "adversarial")
    assert {i.truth["object"] for i in items if i.picture == "3" and i.truth["label"] == "no"} > {"cup", "bus"}


def test_random_draws_repeat_with_the_seed_and_differ_without(world):
    def absent(seed):
        return [i.id for i in in_setting(Pope().items(world, seed), "random") if i.truth["label"] == "no"]

    assert absent(1) == absent(1)
    assert any(absent(1) != absent(seed) for seed in (2, 3, 4))


def test_ids_are_unique(world):
    items = Pope().items(world, 0)
    assert len({item.id for item in items}) == len(items)


def test_absent_objects_come_from_the_file_when_the_pictures_show_no_others():
    lone = (Picture("1", Path("1.png"), ("cat", "dog", "cup"), {}),)
    known = ("bed", "bus", "cat", "cup", "dog", "tv")
    absent = {i.truth["object"] for i in Pope().items(PictureSet(lone, known), 0) if i.truth["label"] == "no"}
    assert absent == {"bed", "bus", "tv"}
    with pytest.raises(DataError, match="every picture shows so many of the 5 categories"):
        Pope().items(PictureSet(lone, known[1:]), 0)


def test_crowded_pictures_are_left_out_and_told(world):
    """Of seven categories, five are in picture 7: two are absent where three are needed."""
    crowd = Picture("7", Path("7.png"), ("bed", "bus", "car", "cat", "cup"), {})
    more = PictureSet((*world.pictures, crowd), world.categories)
    assert len(world.categories) == 7
    assert Pope().complete_pictures(world)[1] == []
    assert Pope().complete_pictures(more)[1] == [
        "1 of 7 pictures are left out: fewer than 3 of the 7 categories are absent from them."
    ]
    assert [i.id for i in Pope().items(more, 0)] == [i.id for i in Pope().items(world, 0)]
    assert "7" in {i.picture for i in Pope(per_picture=2).items(more, 0)}
    with pytest.raises(DataError, match=r"only 5 pictures have 3 objects and as many absent categories \(1 do not\)"):
        Pope(draw=6).items(more, 0)


def test_pictures_with_too_few_objects_are_an_error_when_there_are_no_others():
    alone = PictureSet((Picture("1", Path("1.png"), ("cat",), {}),), ("cat",))
    with pytest.raises(DataError, match="no picture has 3 objects"):
        Pope().items(alone, 0)


@pytest.mark.parametrize(
    ("name", "question"), [("apple", "Is there an apple in the image?"), ("tv", "Is there a tv in the image?")]
)
def test_article(name, question):
    assert question_about(name) == question


@given(
    st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no", None])), min_size=1, max_size=30)
)
def test_metrics_equal_a_slow_confusion_table(pairs):
    counts = [score(label, answered) for label, answered in pairs]
    got = {
        m.name: (
            sum(c[k] * w for c in counts for k, w in m.over.items()),
            sum(c[k] * w for c in counts for k, w in m.under.items()),
        )
        for m in METRICS
    }
    tp = sum(pair == ("yes", "yes") for pair in pairs)
    fp = sum(pair == ("no", "yes") for pair in pairs)
    missed = sum(label == "yes" and answered != "yes" for label, answered in pairs)
    assert got["accuracy"] == (sum(a == b for a, b in pairs), len(pairs))
    assert got["precision"] == (tp, tp + fp)
    assert got["recall"] == (tp, tp + missed)
    assert got["F1"] == (2 * tp, 2 * tp + fp + missed)
    assert got["yes ratio"] == (tp + fp, len(pairs))
    assert got["unparsed"] == (sum(a is None for _, a in pairs), len(pairs))


def test_random_world_never_asks_for_a_present_object_as_absent():
    rng = random.Random(0)
    names = list("abcdefghij")
    for seed in range(20):
        pictures = tuple(Picture(str(i), Path("x"), tuple(rng.sample(names, rng.randint(3, 6))), {}) for i in range(12))
        for item in Pope().items(PictureSet(pictures, tuple(names)), seed):
            present = next(p.objects for p in pictures if p.id == item.picture)
            assert (item.truth["label"] == "yes") == (item.truth["object"] in present)


def test_items_go_by_picture_so_that_a_partial_run_is_balanced(world):
    pictures = [item.picture for item in Pope().items(world, 0)]
    assert pictures == sorted(pictures)


@pytest.mark.parametrize(
    ("prompt", "end"),
    [
        ("llava", "?\nAnswer the question using a single word or phrase."),
        ("lmms-eval", "?\nAnswer the question using a single word or phrase."),
        ("vcd", "? Please answer this question with one word."),
        ("clearsight", "? Please just answer yes or no."),
        ("opera", "in the image?"),
        ("vlmevalkit", "in the image?"),
    ],
)
def test_prompt_profiles(world, prompt, end):
    items = Pope(prompt=prompt).items(world, 0)
    assert all(item.prompt.endswith(end) for item in items)
    assert [i.id for i in items] == [i.id for i in Pope().items(world, 0)]


def test_sampling_is_a_setting():
    assert Pope().settings == {"max_new_tokens": 8}
    assert Pope(sample=True, sample_seed=55).settings == {
        "max_new_tokens": 8,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "seed": 55,
    }
    with pytest.raises(OptionError, match="sample_seed must be 0 unless sample=True"):
        Pope(sample_seed=1)


def test_sampled_answers_repeat_with_their_seed(llava, pictures):
    def said(seed):
        asked = [(picture, "Is there a dog in the image?") for picture in pictures]
        answers = llava.generate_batch(asked, "greedy", **Pope(sample=True, sample_seed=seed).settings)
        return [answer.text for answer in answers]

    assert said(1) == said(1)
    assert any(said(1) != said(seed) for seed in (2, 3, 4))


@pytest.mark.parametrize(
    ("name", "official", "proper"),
    [
        ("hour glass", "Is there a hour glass in the image?", "Is there an hour glass in the image?"),
        ("unicycle", "Is there an unicycle in the image?", "Is there a unicycle in the image?"),
        ("ukulele", "Is there an ukulele in the image?", "Is there a ukulele in the image?"),
        ("one-way sign", "Is there an one-way sign in the image?", "Is there a one-way sign in the image?"),
        ("potted_plant ", "Is there a potted plant in the image?", "Is there a potted plant in the image?"),
        ("umbrella", "Is there an umbrella in the image?", "Is there an umbrella in the image?"),
        ("skis", "Is there a skis in the image?", "Are there any skis in the image?"),
        ("Sun glasses", "Is there a Sun glasses in the image?", "Are there any Sun glasses in the image?"),
        ("bus", "Is there a bus in the image?", "Is there a bus in the image?"),
    ],
)
def test_wording(name, official, proper):
    assert (question_about(name), question_about(name, "proper")) == (official, proper)


def test_generated_questions_can_have_the_typo_and_proper_english():
    made = (Picture("1", Path("1.png"), ("apple", "skis", "tv"), {}),)
    known = PictureSet(made, ("apple", "bed", "bus", "cat", "skis", "tv"))

    def texts(**options):
        return [i.truth["question"] for i in Pope(**options).items(known, 0) if i.truth["label"] == "yes"]

    assert texts(text="legacy_typo") == [
        "Is there an apple in the imange?",
        "Is there a skis in the image?",
        "Is there a tv in the image?",
    ]
    assert texts(wording="proper")[1] == "Are there any skis in the image?"


def test_pictures_are_drawn_by_seed_and_count_alone(world):
    items = Pope(draw=3).items(world, 0)
    drawn = {i.picture for i in items}
    assert len(drawn) == 3
    assert [i.id for i in items] == [i.id for i in Pope(draw=3).items(world, 0)]
    assert any({i.picture for i in Pope(draw=3).items(world, seed)} != drawn for seed in range(1, 5))
    chosen = PictureSet(tuple(p for p in world.pictures if p.id in drawn), world.categories)
    assert [i.id for i in items] == [i.id for i in Pope().items(chosen, 0)]
    with pytest.raises(DataError, match="draw=6, but only 5 pictures have 3 objects"):
        Pope(draw=6).items(world, 0)


def test_fewer_objects_a_picture_let_more_pictures_in(world):
    items = in_setting(Pope(per_picture=1).items(world, 0), "popular")
    assert Counter((i.picture, i.truth["label"]) for i in items) == {(k, v): 1 for k in WORLD for v in ("yes", "no")}


def test_random_positives_are_shared_by_all_settings_and_move_with_the_seed(world):
    def asked(seed):
        items = Pope(positives="random").items(world, seed)
        yes = [i for i in items if i.truth["label"] == "yes"]
        assert all(i.groups == SETTINGS for i in yes)
        assert all(i.truth["object"] in WORLD[i.picture] for i in yes)
        return sorted(i.id for i in yes if i.picture == "6")

    assert asked(1) == asked(1)
    assert len({tuple(asked(seed)) for seed in range(12)}) > 1


def test_frequency_can_be_counted_on_the_whole_file():
    """Among pictures with three objects all are as frequent; four pictures with a z alone make z the most frequent."""
    big = (Picture("1", Path("1"), ("p", "q", "r"), {}), Picture("2", Path("2"), ("a", "b", "c"), {}))
    small = tuple(Picture(f"{n}", Path("x"), ("z",), {}) for n in range(3, 7))
    known = PictureSet((*big, *small), tuple("abcpqrz"))

    def popular(**options):
        items = in_setting(Pope(**options).items(known, 0), "popular")
        return [i.truth["object"] for i in items if i.picture == "1" and i.truth["label"] == "no"]

    assert popular() == ["a", "b", "c"]
    assert sorted(popular(frequency="whole")) == ["a", "b", "z"]


def test_questions_are_numbered_through_each_setting(world):
    for setting in SETTINGS:
        items = in_setting(Pope().items(world, 0), setting)
        numbered = sorted((i.truth["ids"][setting][0], i.truth["label"]) for i in items)
        assert [number for number, _ in numbered] == list(range(1, 31))
        assert [label for _, label in numbered] == ["yes", "no"] * 15


def answered(items, texts, strategy="greedy"):
    return [Row("pope", i.id, strategy, texts[i.id], "eos", 1, 1.0, 0) for i in items]


def test_pooled_counts_a_question_in_every_setting(world):
    benchmark = Pope(pooled=True)
    items = benchmark.items(world, 0)
    evaluation = benchmark.evaluate(items, answered(items, {i.id: "Yes" for i in items}), ["greedy"])
    assert evaluation.sizes["pooled"] == (90, 5)
    assert evaluation.sizes["random"] == (30, 5)
    pooled = {c.metric.name: c.estimate for c in evaluation.cells if c.group == "pooled"}
    assert (pooled["accuracy"].over, pooled["accuracy"].under) == (45, 90)
    assert "pooled" not in Pope().evaluate(items, [], ["greedy"]).sizes
    assert str(benchmark) == "pope(pooled=True)"


def test_recall_by_visibility_and_false_yes():
    """Clear dog and car, one found; a faint cup, unparsed; a bed that is not there, claimed."""
    items = [
        Item("1", "1", "", ("random",), {"label": "yes", "visibility": "clear"}),
        Item("2", "1", "", ("random",), {"label": "yes", "visibility": "clear"}),
        Item("3", "1", "", ("random",), {"label": "yes", "visibility": "faint"}),
        Item("4", "2", "", ("random",), {"label": "no", "visibility": ""}),
    ]
    rows = answered(items, {"1": "Yes", "2": "No", "3": "?", "4": "Yes"})
    cells = {c.metric.name: c for c in Pope().evaluate(items, rows, ["greedy"]).cells}
    got = {name: (c.estimate.over, c.estimate.under) for name, c in cells.items() if c.metric.table}
    assert got["recall, clear"] == (1, 2)
    assert got["recall, faint"] == (0, 1)
    assert got["recall, small"] == got["recall, covered"] == (0, 0)
    assert cells["recall, small"].estimate.value is None
    assert got["false yes"] == (1, 1)
    assert {c.metric.table for c in cells.values()} == {"", "yes bias", "by visibility"}


def test_d_prime_has_an_interval_and_a_paired_test():
    """All 8 yes found and all 8 no claimed: z(8.5 / 9) - z(8.5 / 9) = 0. All right: 2 z(8.5 / 9) = 3.1864."""
    items = [
        Item(f"{n}{label}", f"{n}", "", ("random",), {"label": label}) for n in range(8) for label in ("yes", "no")
    ]
    rows = answered(items, {i.id: "Yes" for i in items})
    rows += answered(items, {i.id: i.truth["label"] for i in items}, "other")
    cells = Pope().evaluate(items, rows, ["greedy", "other"]).cells
    greedy, other = (c for c in cells if c.metric.name == "d'")
    assert (greedy.estimate.value, greedy.difference) == (0.0, None)
    assert other.estimate.value == pytest.approx(3.1864, abs=1e-4)
    assert other.estimate.low == other.estimate.high == pytest.approx(other.estimate.value)
    assert other.difference.value == pytest.approx(3.1864, abs=1e-4)
    assert other.difference.p < 0.02


def test_one_label_alone_has_no_d_prime():
    items = [Item("1", "1", "", ("random",), {"label": "yes"})]
    cells = Pope().evaluate(items, answered(items, {"1": "Yes"}), ["greedy"]).cells
    assert [c.estimate.value for c in cells if c.metric.table == "yes bias"] == [None, None, None]


@pytest.mark.parametrize("rule", ["official", "vcd", "lmms-eval"])
def test_marks_follow_the_rule(rule):
    """ "Yes and no" to a no question: official reads no; vcd finds its no; lmms-eval finds neither."""
    item = Item("1", "1", "", ("random",), {"label": "no"})
    assert Pope(rule=rule).mark(item, "Yes and no") == [(0, 10, rule != "lmms-eval")]
    assert Pope(rule=rule).count(item, "Yes and no")["right"] == (rule != "lmms-eval")
