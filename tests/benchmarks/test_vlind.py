"""VLind-Bench: the authors' files and words, the scores of a worked example, and drawn instances."""

from __future__ import annotations

import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.data.scene_priors import draw_instances
from mmhall.benchmarks.scenes import write_scenes
from mmhall.benchmarks.scenes.companions import COMPANIONS
from mmhall.benchmarks.scenes.render import render
from mmhall.benchmarks.vlind import SAME, Vlind, parse_both, parse_official
from mmhall.errors import DataError
from mmhall.results.store import Row
from tests.benchmarks.conftest import answered, picture, write_json

CONTEXT, USUAL = "A car is in a lake.", "A car is on a road."


def record(number, votes):
    return {
        "global_id": number, "concept": "location", "context_id": number, "context": CONTEXT, "factual_context": USUAL,
        "true_statement": "The car is in a lake.", "false_statement": "The car is on a road.", "existent_noun": "a car",
        "non-existent_noun": "a horse", "best_img_id": "4", "aggregated_human_label_good_images": votes,
    }  # fmt: skip


@pytest.fixture
def published(tmp_path):
    """Three instances with two good pictures each, and one without any."""
    for number in (1, 2, 3):
        picture(tmp_path / f"images/factual/location/{number}_{USUAL}/0.jpg")
        for image in (4, 7, 9):
            picture(tmp_path / f"images/counterfactual/location/{number}_{CONTEXT}/{image}.jpg")
    records = [record(n, {"4": 3, "7": 2, "9": 1}) for n in (1, 2, 3)]
    write_json(tmp_path / "data.json", [*records, record(4, {"4": 1})])
    return tmp_path


def figures(made, items, texts, group="all"):
    cells = made.evaluate(items, answered(made, items, texts), ["greedy"]).cells
    return {cell.metric.name: cell.estimate for cell in cells if cell.group == group}


def right(items):
    return ["True" if item.truth["label"] == "true" else "False" for item in items]


def wrong(items, texts, *starts):
    """Turn the answers to items whose ids begin so."""
    return [("Unsure" if i.id.startswith(starts) else t) for i, t in zip(items, texts, strict=True)]


def test_the_authors_files(published):
    material = Vlind().material(Source(published))
    assert material.remarks == ("1 instances are left out: they have no good picture.",)
    first = material.items[:10]
    assert [item.id for item in first] == [
        f"1/{stage}/{label}" for stage in ("CK", "VP", "CB", "LP/4", "LP/7") for label in ("true", "false")
    ]
    folder = f"counterfactual/location/1_{CONTEXT}"
    assert [item.picture for item in first[::2]] == [
        f"factual/location/1_{USUAL}/0.jpg", f"{folder}/4.jpg", f"{folder}/4.jpg", f"{folder}/4.jpg", f"{folder}/7.jpg",
    ]  # fmt: skip
    assert all(path.is_file() for path in material.pictures.values())
    assert {item.cluster for item in first} == {"1"}
    assert len({i.cluster for i in Vlind().material(Source(published, limit=2)).items}) == 2
    unchecked = Vlind().material(Source(published, pictures=False))
    assert unchecked.items == material.items
    (published / "images/factual/location" / f"1_{USUAL}").rename(published / "images/factual/location/1_another")
    assert Vlind().material(Source(published)).items[0].picture == "factual/location/1_another/0.jpg"


def test_the_authors_words(published):
    only, tail = "Only respond in True or False.", "is the given statement true or false?"
    forget = "Forget real-world common sense and just follow the information provided in the"
    items = {item.id: item.prompt for item in Vlind().material(Source(published)).items}
    assert items["1/CK/true"] == f"Statement: The car is on a road.\nBased on common sense, {tail} {only}"
    assert items["1/CK/false"].startswith("Statement: The car is in a lake.\n")
    assert items["1/VP/true"] == f"Statement: There is a car in the given image.\nBased on the image, {tail} {only}"
    assert items["1/VP/false"].startswith("Statement: There is a horse in the given image.\n")
    assert items["1/CB/true"] == (
        f"Context: {CONTEXT}\nStatement: The car is in a lake.\nBased on the context, {tail} {forget} context. {only}"
    )
    assert items["1/LP/4/true"] == (
        f"Statement: The car is in a lake.\nBased on the image, {tail} {forget} image. {only}"
    )
    assert items["1/LP/7/false"].startswith("Statement: The car is on a road.\n")
    lines = {i.id: i.prompt for i in benchmark("vlind(prompt='official-newline')").material(Source(published)).items}
    assert lines["1/LP/4/true"] == items["1/LP/4/true"].replace(f" {only}", f"\n{only}")
    first = {i.id: i.prompt for i in benchmark("vlind(prompt='official-reversed')").material(Source(published)).items}
    assert first["1/CB/true"] == (
        f"{only}\nContext: {CONTEXT}\nStatement: The car is in a lake.\nBased on the context, {tail}"
    )
    assert Vlind(prompt="plain").material(Source(published)).items[0].prompt.endswith("True or False.")
    with pytest.raises(DataError, match="prompt 'question' is for drawn instances"):
        Vlind(prompt="question").material(Source(published))


@pytest.mark.parametrize(
    ("answer", "official", "both"),
    [
        ("True", True, True),
        ("FALSE.", False, False),
        ("It is true, not false.", True, None),
        ("The statement\nis false", False, False),
        ("**True**", None, True),
        ("(false)", None, False),
        ("Untrue", None, None),
        ("Yes", None, True),
        ("No, there is not.", None, False),
        ("", None, None),
    ],
)
def test_rules(answer, official, both):
    assert (parse_official(answer), parse_both(answer)) == (official, both)


def test_scores_by_hand(published):
    """Instance 1 passes all but one good picture, 2 fails CB, 3 fails CK.

    S_CK 2/3, S_VP 3/3. Past CK come 1 and 2, of which 1 passes CB: S_CB 1/2; CB of all 2/3. To LP comes 1: S_LP 1/2.
    LP of all: (1/2 + 1 + 1) / 3.
    """
    made = Vlind()
    items = made.material(Source(published)).items
    texts = wrong(items, right(items), "1/LP/7/true", "2/CB/false", "3/CK/true")
    got = figures(made, items, texts)
    want = {"S_CK": 2 / 3, "S_VP": 1, "S_CB": 1 / 2, "CB": 2 / 3, "S_LP": 1 / 2, "in S_LP": 1 / 3, "LP": 2.5 / 3}
    assert {name: got[name].value for name in want} == pytest.approx(want)
    assert (got["S_CB"].under, got["S_LP"].under) == (2, 1)
    assert got["accuracy LP"].value == pytest.approx(11 / 12)
    assert got["unparsed"].value == pytest.approx(3 / 30)
    assert made.reading_remarks(items, answered(made, items, texts)) == (
        "greedy: S_CB rests on 2 and S_LP on 1 of 3 instances.",
    )
    always = figures(made, items, ["True"] * 30)
    assert (always["LP"].value, always["S_CK"].value, always["S_LP"].value, always["by chance"].value) == (
        0,
        0,
        None,
        0.25,
    )
    assert always["true ratio"].value == 1


def test_strategies_are_compared_on_the_instances_that_both_reach(published):
    """The baseline reaches LP with 1 and 2 and passes 1 there; the other with 1 and 3, and passes 3.

    Of instance 1, which both reach, the baseline passes both pictures, the other one none: S_LP 0 against 1, although
    each has 1/2 alone.
    """
    made = Vlind()
    items = made.material(Source(published)).items
    base = wrong(items, right(items), "2/LP", "3/CB")
    other = wrong(items, right(items), "1/LP", "2/CB")
    rows = answered(made, items, base) + answered(made, items, other, "other")
    cells = made.evaluate(items, rows, ["greedy", "other"]).cells
    got = {(c.group, c.strategy): c for c in cells if c.metric.name == "S_LP"}
    assert got["all", "other"].estimate.value == got["all", "greedy"].estimate.value == 0.5
    shared = got[SAME, "other"]
    assert (shared.estimate.value, shared.estimate.under, shared.difference.value) == (0, 1, -1)
    assert all(c.difference is None for c in cells if c.metric.fixed)


def test_an_instance_without_all_answers_does_not_count(published):
    made = Vlind()
    items = made.material(Source(published)).items
    rows = [Row("vlind", i.id, "greedy", t, "eos", 1, 0.1, 0) for i, t in zip(items, right(items), strict=True)]
    cells = made.evaluate(items, rows[1:], ["greedy"]).cells
    assert {c.metric.name: c.estimate.under for c in cells if c.group == "all"}["S_CK"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aggregated_human_label_good_images": {"4": "x"}}, "must be votes by picture"),
        ({"best_img_id": "5"}, r"5\.jpg: no such picture; check --images"),
        ({"context_id": 9}, r"has no folder named 9_"),
        ({"context": None}, "'context' must be a text"),
    ],
)
def test_unsuitable_files_are_refused(published, change, message):
    write_json(published / "data.json", [record(1, {"4": 3}) | change])
    with pytest.raises(DataError, match=message):
        Vlind().material(Source(published))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 4, seed=5))
    return folder / "annotations.json"


@pytest.mark.slow
def test_drawn_instances_are_true(scenes):
    """The statements, and what only the companion's place differs in."""
    instances, plans = draw_instances(scenes, 0, 2)
    assert len(instances) == 4
    for one in instances:
        unusual, usual, name, absent = (
            text.split(" a ", 1)[-1].split(" an ", 1)[-1].removesuffix(" in the image?") for text in one.questions
        )
        shown = {each: {o.name for o in render(plans[each]).objects} for each in (one.factual, *one.good)}
        assert COMPANIONS[name] == usual
        assert {name, usual} <= shown[one.factual]
        assert not {unusual, absent} & shown[one.factual]
        for each in one.good:
            assert {name, unusual} <= shown[each]
            assert not {usual, absent} & shown[each]
        assert one.best == one.good[0]
        before, after = plans[one.factual].objects, plans[one.best].objects
        assert [a.name for a, b in zip(before, after, strict=True) if a != b] == [usual]
        assert (usual in one.false, unusual in one.true, name in one.existent, absent in one.absent) == (True,) * 4
        assert f"and no {usual}." in one.context


@pytest.mark.slow
def test_drawn_instances_as_questions(scenes):
    made = Vlind(prompt="question")
    material = made.material(Source(scenes, limit=2))
    assert all(path.is_file() for path in material.pictures.values())
    assert len(material.items) == 2 * 10
    texts = ["Yes" if item.truth["label"] == "true" else "No" for item in material.items]
    got = figures(made, material.items, texts)
    assert [got[name].value for name in ("S_CK", "S_VP", "S_CB", "S_LP", "LP")] == [1] * 5
    assert material.items[0].prompt.startswith("Is there ")
    assert Vlind(pictures=1).material(Source(scenes, limit=1)).items[-1].id.count("/") == 3
    assert material.digest == made.material(Source(scenes, limit=2)).digest
