from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import mmhall
from mmhall.benchmarks.data.pope_wording import question_about
from mmhall.benchmarks.rules.yesno import parse_strict
from mmhall.benchmarks.scenes import make_scene
from mmhall.benchmarks.scenes.world import NAMES, are_partners
from mmhall.demo.probe import COMMON, MOST, as_data, default_objects, probe

pytestmark = pytest.mark.slow

SPECS = ("greedy", "vhr", "opera")


@pytest.fixture(scope="module")
def scene():
    return make_scene(seed=3, index=4)


@pytest.fixture(scope="module")
def present(scene):
    return tuple(seen.name for seen in scene.objects)


@pytest.fixture(scope="module")
def tables(embedded, scene, present):
    objects = default_objects(present)
    return list(probe(embedded, scene.image, objects, list(map(mmhall.strategy, SPECS)), present))


def last(tables):
    *_, table = tables
    return table


def break_at(number):
    """Make a hook that fails like a full GPU, once, at its call of a number."""
    calls = iter(range(10_000))

    def fail(*_):
        if next(calls) == number:
            raise torch.OutOfMemoryError("no room for 24 GiB\nmore than anybody wants to know")

    return fail


def test_the_table_grows_strategy_by_strategy_and_a_few_objects_at_a_time(tables):
    states = [tuple(column.state for column in table.columns) for table in tables]
    count = len(SPECS)
    wanted = [("waiting",) * count]
    for done in range(count):
        wanted += [("done",) * done + (last,) + ("waiting",) * (count - done - 1) for last in ("asking", "done")]
    assert list(dict.fromkeys(states)) == wanted
    for earlier, later in pairwise(tables):
        for before, after in zip(earlier.columns, later.columns, strict=True):
            assert after.cells[: len(before.cells)] == before.cells
            assert len(after.cells) - len(before.cells) <= 4


@pytest.mark.parametrize(("spec", "most"), [("greedy", 4), ("beam(num_beams=8)", 2), ("beam(num_beams=20)", 1)])
def test_batches_are_small_and_say_what_single_objects_say(embedded, scene, present, spec, most):
    count = 5 if most == 4 else 3
    objects, methods = default_objects(present)[:count], [mmhall.strategy(spec)]
    tables = list(probe(embedded, scene.image, objects, methods, present))
    sizes = [len(table.columns[0].cells) for table in tables]
    assert max(b - a for a, b in pairwise(sizes)) == most
    for name, cell in list(zip(objects, tables[-1].columns[0].cells, strict=True))[:2]:
        (alone,) = last(probe(embedded, scene.image, (name,), methods, present)).columns[0].cells
        assert replace(cell, probability=None) == replace(alone, probability=None)
        assert cell.probability == pytest.approx(alone.probability, abs=1e-4)


@pytest.fixture(scope="module")
def whole(embedded, scene, present):
    """A probe that nobody leaves, of two batches a strategy."""
    methods = [mmhall.strategy("greedy"), mmhall.strategy("vdd")]
    return methods, last(probe(embedded, scene.image, default_objects(present)[:6], methods, present))


@pytest.mark.parametrize("batches", [0, 1, 3, 4])
def test_who_leaves_keeps_what_was_said(embedded, scene, present, whole, batches):
    methods, whole = whole
    objects = default_objects(present)[:6]
    asked = iter(range(100))
    *_, table = probe(embedded, scene.image, objects, methods, present, should_stop=lambda: next(asked) >= batches)
    states = {0: ["stopped"] * 2, 1: ["stopped"] * 2, 2: ["done", "stopped"], 3: ["done", "stopped"], 4: ["done"] * 2}
    assert [column.state for column in table.columns] == states[batches]
    assert sum(len(column.cells) for column in table.columns) == (0, 4, 6, 10, 12)[batches]
    for column, other in zip(table.columns, whole.columns, strict=True):
        assert column.cells == other.cells[: len(column.cells)]
    assert json.dumps(as_data(table, embedded.adapter.tokenizer), allow_nan=False)


def test_each_cell_is_what_the_strategy_says_and_chooses_alone(embedded, scene, present, tables):
    table = last(tables)
    for column in table.columns:
        for name, cell in list(zip(table.objects, column.cells, strict=True))[::2]:
            question = question_about(name, "official")
            alone = embedded.generate(scene.image, question, column.strategy, max_new_tokens=8)
            chosen = embedded.choose(scene.image, question, ("yes", "no"), strategy=column.strategy)
            assert cell.text == alone.text
            assert cell.label == parse_strict(alone.text)
            assert cell.probability == pytest.approx(chosen.probabilities[0], abs=1e-4)
            assert cell.right is ((cell.label == "yes") == (name in present))


def test_sums_are_those_of_the_cells(tables, present):
    table = last(tables)
    assert table.present == tuple(name in present for name in table.objects)
    for column in table.columns:
        said = [cell.label for cell in column.cells]
        truth = ["yes" if name in present else "no" for name in table.objects]
        assert column.judged == len(table.objects)
        assert column.right == sum(a == b for a, b in zip(said, truth, strict=True))
        assert column.yes_ratio == said.count("yes") / len(said)


def test_only_searches_are_told_to_be_probed_before_they_search(tables):
    table = last(tables)
    assert [column.searches for column in table.columns] == [False, False, True]


def test_unknown_truth_makes_nothing_right_or_wrong(embedded, scene):
    table = last(probe(embedded, scene.image, ("cup", "dog"), [mmhall.strategy("greedy")], None))
    assert table.present == (None, None)
    assert [cell.right for cell in table.columns[0].cells] == [None, None]
    assert (table.columns[0].judged, table.columns[0].right) == (0, 0)


def test_a_synonym_is_as_good_as_the_name_and_what_is_no_word_of_coco_is_not_known(embedded, scene):
    objects = ("sofa", "Couch", "couch cover", "toy sofa")
    table = last(probe(embedded, scene.image, objects, [mmhall.strategy("greedy")], ("couch",)))
    assert table.present == (True, True, None, None)
    assert [cell.right is None for cell in table.columns[0].cells] == [False, False, True, True]


def test_what_nobody_was_asked_about_is_neither_there_nor_absent(embedded, scene):
    objects = ("sofa", "dog", "cup")
    table = last(probe(embedded, scene.image, objects, [mmhall.strategy("greedy")], ("couch",), ("Dog",)))
    assert table.present == (True, False, None)
    assert [cell.right is None for cell in table.columns[0].cells] == [False, False, True]
    assert last(probe(embedded, scene.image, objects, [], None, ("dog",))).present == (None, False, None)


def test_words_that_the_model_cannot_write_are_told(embedded, scene):
    objects = ("dog", "traffic light", "helicopter", "zxqv")
    data = as_data(last(probe(embedded, scene.image, objects, [], ())), embedded.adapter.tokenizer)
    assert data["unknown_words"] == ["helicopter", "zxqv"]
    assert [entry["present"] for entry in data["objects"]] == [False, False, None, None]


def test_a_failing_strategy_leaves_its_reason_and_the_others_go_on(embedded, scene):
    methods = [mmhall.strategy("cgd"), mmhall.strategy("greedy")]
    broken, whole = last(probe(embedded, scene.image, ("cup", "dog"), methods, ("cup",))).columns
    assert (broken.state, broken.cells, broken.judged, broken.yes_ratio) == ("failed", (), 0, None)
    assert broken.error.startswith("cgd: clip must be")
    assert whole.state == "done"


def test_a_model_that_fails_fails_its_column_only(scene):
    model = mmhall.load("embedded", device="cpu")
    model.model.get_output_embeddings().register_forward_pre_hook(break_at(2))
    methods = [mmhall.strategy("greedy"), mmhall.strategy("vcd")]
    broken, whole = last(probe(model, scene.image, ("cup", "dog"), methods, None)).columns
    assert broken.state == "failed"
    assert broken.error == "out of memory or another failure of the model: no room for 24 GiB"
    assert whole.state == "done"


def test_neither_yes_nor_no_is_wrong(llava, pictures):
    table = last(probe(llava, pictures[0], ("cup", "dog"), [mmhall.strategy("greedy")], ("cup",)))
    cells = table.columns[0].cells
    assert [cell.label for cell in cells] == [None, None]
    assert [cell.right for cell in cells] == [False, False]


def test_no_probability_where_a_strategy_lets_neither_be_said(llava, pictures):
    cut = mmhall.strategy("vcd", beta=1.0)  # leaves nothing but the likeliest token, which is some other word
    table = last(probe(llava, pictures[0], ("cup",), [cut], ("cup",)))
    (cell,) = table.columns[0].cells
    assert cell.probability is None


def test_data_is_what_the_table_holds(tables, embedded):
    table = last(tables)
    data = json.loads(json.dumps(as_data(table, embedded.adapter.tokenizer), allow_nan=False))
    assert [entry["name"] for entry in data["objects"]] == list(table.objects)
    for told, column in zip(data["strategies"], table.columns, strict=True):
        assert told["strategy"] == column.strategy
        assert [a["says"] for a in told["answers"]] == [cell.label for cell in column.cells]
        assert [a["yes_probability"] for a in told["answers"]] == [cell.probability for cell in column.cells]
        assert (told["right"], told["known"], told["yes_ratio"]) == (column.right, column.judged, column.yes_ratio)
    assert [entry["answers"] for entry in as_data(tables[0], embedded.adapter.tokenizer)["strategies"]] == [[]] * len(
        SPECS
    )


class TestDefaults:
    def test_half_is_there_and_half_likes_to_be(self, present):
        objects = default_objects(present)
        there = [name for name in objects if name in present]
        absent = [name for name in objects if name not in present]
        assert there == list(present)[:5]
        assert len(absent) == max(3, len(there))
        assert any(are_partners(name, other) for name in absent for other in there)
        assert set(absent) <= set(NAMES) | set(COMMON)

    def test_made_up_objects_come_first(self):
        objects = default_objects(("cup",), named=("cup", "spoon", "zebra"))
        assert objects == ("cup", "spoon", "zebra", "book")

    @pytest.mark.parametrize("count", range(0, 12, 3))
    def test_never_too_many_none_twice(self, count):
        objects = default_objects(NAMES[:count], NAMES[10:30])
        assert 0 < len(objects) <= MOST
        assert len(set(objects)) == len(objects)

    def test_where_nothing_is_known_common_objects_are_asked_about(self):
        assert default_objects(None) == COMMON[:6]
        assert default_objects(None, ("zebra", "cup", "kite", "dog"))[:5] == ("zebra", "cup", "kite", "dog", "person")

    def test_an_empty_picture_has_absent_objects_only(self):
        assert default_objects(()) == COMMON[:3]
