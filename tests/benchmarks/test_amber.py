from __future__ import annotations

import importlib.util
import json
import shutil

import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.amber import AmberD, AmberG, find_nouns, find_official_nouns
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.data.amber import read_similarities
from mmhall.benchmarks.report.table import sections
from mmhall.benchmarks.run.runs import Part
from mmhall.errors import DataError, OptionError
from tests.benchmarks.conftest import answered, totals, write_json


def test_questions_go_by_picture_with_their_dimensions(amber):
    items = AmberD().material(Source(amber)).items
    assert [i.picture for i in items] == ["AMBER_1.jpg"] * 6 + ["AMBER_2.jpg"] * 6
    assert [i.groups for i in items[:6]] == [
        ("overall", "attribute", "state"),
        ("overall", "attribute", "number"),
        ("overall", "attribute", "action"),
        ("overall", "existence"),
        ("overall", "relation"),
        ("overall", "relation"),
    ]
    assert [i.truth["label"] for i in items[:6]] == ["Yes", "No", "Yes", "No", "Yes", "No"]
    assert items[0].prompt == "Is it discriminative-attribute-state?\nPlease answer yes or no."
    assert AmberD(prompt="official").material(Source(amber)).items[3].prompt == "Is it discriminative-hallucination?"


def test_captions(amber):
    material = AmberG().material(Source(amber, limit=1))
    (item,) = material.items
    assert (item.id, item.picture, item.prompt) == ("1", "AMBER_1.jpg", "Describe this image.")
    assert item.truth["vocabulary"] == ["boy", "car", "leave", "man", "person", "sky", "tire", "tree", "woman"]
    assert item.truth["associations"] == {"person": ["man", "woman"], "sky": [], "car": ["tire"]}
    assert json.loads(json.dumps(dict(item.truth))) == item.truth
    assert material.remarks == (
        "not the authors' figures: nouns are found by our own rule, and only equal words are similar.",
    )
    assert benchmark("amber-g(prompt='lmms-eval')").material(Source(amber)).items[0].prompt == "Describe this image"


def test_a_query_file_and_another_picture_folder(amber, tmp_path):
    shutil.move(amber / "image", tmp_path / "elsewhere")
    (amber / "query").mkdir()
    shutil.move(amber / "query_all.json", amber / "query" / "query_discriminative.json")
    source = Source(amber / "query" / "query_discriminative.json", tmp_path / "elsewhere")
    assert len(AmberD().material(source).items) == 12
    assert len(AmberD().material(Source(amber, tmp_path / "elsewhere")).items) == 12


CAPTION = "Two women under trees near cars; a light. The tires of a man's car."


def test_a_caption_by_hand(amber):
    """Nouns: women, trees, cars, tires, man, car ("light" is neutral, but no word of the vocabulary).

    truth person (man, woman), sky; hallu car (tire): women -> person; trees absent; cars, tires, car absent and
    all car's; man -> person. 4 of 6 hallucinated, 1 of 2 covered, 1 of 1 foreseen.
    """
    made = AmberG()
    items = made.material(Source(amber, limit=1)).items
    got = totals(made, items, answered(made, items, [CAPTION]))
    assert got == {"CHAIR": (4, 6), "Cover": (1, 2), "Hal": (1, 1), "Cog": (1, 1), "words": (14, 1)}
    marked = made.mark(items[0], CAPTION)
    assert [(CAPTION[a:b], right) for a, b, right in marked] == [
        ("women", True), ("trees", False), ("cars", False), ("tires", False), ("man", True), ("car", False),
    ]  # fmt: skip


def test_an_empty_caption_is_clean(amber):
    made = AmberG()
    items = made.material(Source(amber, limit=1)).items
    got = totals(made, items, answered(made, items, [""]))
    assert (got["CHAIR"], got["Hal"], got["Cover"]) == ((0, 0), (0, 1), (0, 2))


@pytest.mark.parametrize("form", ["json", "csv"])
def test_similar_words_count_above_08(amber, tmp_path, form):
    """tree is like sky (0.81), which is there; leave like sky only 0.8; boy like tire, which is car's."""
    table = [["tree", "sky", 0.81], ["sky", "leave", 0.8], ["tire", "boy", 0.9]]
    path = tmp_path / f"alike.{form}"
    path.write_text(json.dumps(table) if form == "json" else "\n".join(",".join(map(str, row)) for row in table))
    made = benchmark(f"amber-g(similarities={str(path)!r})")
    material = made.material(Source(amber, limit=1))
    got = totals(made, material.items, answered(made, material.items, ["tree leaves boys"]))
    assert got == {"CHAIR": (2, 3), "Cover": (1, 2), "Hal": (1, 1), "Cog": (1, 1), "words": (3, 1)}
    assert material.remarks == ("not the authors' figures: nouns are found by our own rule.",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("[]", "is empty"),
        ("[", "is no JSON"),
        ("a,b", "row 1: must be word, word, number"),
        ("a,b,x", 'row 1: must be word, word, number, got \\["a", "b", "x"\\]'),
        ("a,b,nan", "row 1: must be"),
        ('[["a", 2, 0.5]]', "row 1: must be"),
        ("[3]", "row 1: must be"),
        ("a,b,0.5\nb,a,0.6", "row 2: 'b' and 'a' have similarity 0.5 in an earlier row"),
    ],
)
def test_unfit_similarities_are_refused(tmp_path, text, message):
    (tmp_path / "alike").write_text(text)
    with pytest.raises(DataError, match=message):
        read_similarities(tmp_path / "alike")


@pytest.mark.parametrize(
    ("text", "nouns"),
    [
        ("Dogs and a dog, DOG", ["dog", "dog", "dog"]),
        ("leaves, wolves, buses", ["leave", "bus"]),
        ("an e-book; TVs on a TV", ["e-book", "TV", "TV"]),
        ("men and man", ["man", "man"]),
        ("people", ["people"]),
        ("doghouse dog-house dog's", ["dog"]),
        ("", []),
    ],
)
def test_nouns_of_the_closed_vocabulary(text, nouns):
    vocabulary = ["dog", "leave", "bus", "e-book", "TV", "man", "person", "people"]
    found = find_nouns(text, vocabulary)
    assert [noun for noun, _, _ in found] == nouns
    assert all(text[a:b].lower().startswith(noun[0].lower()) for noun, a, b in found)


@pytest.mark.skipif(importlib.util.find_spec("nltk") is not None, reason="nltk is installed")
def test_the_official_extraction_says_what_to_install(amber):
    with pytest.raises(DataError, match=r"needs nltk with its data .*pip install nltk && .*; or take rule='mmhall'"):
        AmberG(rule="official").material(Source(amber))
    with pytest.raises(DataError, match="needs nltk"):
        find_official_nouns("A dog.", ["dog"])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("annotations.json", None, "holds no annotations.json; give AMBER's data folder"),
        ("query_all.json", None, "holds no query_all.json or query_generative.json"),
        ("relation.json", None, "holds no relation.json"),
        ("safe_words.txt", None, "holds no safe_words.txt"),
        ("query_all.json", [], "query_all.json: is empty"),
        ("query_all.json", {"id": 1}, "'image' must be a text|'query' must be|is not in annotations"),
        ("query_all.json", [{"id": 1, "image": "AMBER_1.jpg"}], "entry 1: 'query' must be a text, got null"),
        ("query_all.json", [{"id": 99, "image": "a", "query": "b"}], "entry 1: query 99 is not in annotations.json"),
        (
            "query_all.json",
            [{"id": 1, "image": "AMBER_1.jpg", "query": "b"}] * 2,
            "entry 2: query '1' is there already",
        ),
        ("query_all.json", [{"id": 1, "image": "AMBER_9.jpg", "query": "b"}], "AMBER_9.jpg: is not in"),
        ("query_all.json", [{"id": 3, "image": "AMBER_1.jpg", "query": "b"}], "holds no queries for captions"),
        ("annotations.json", [{"id": 1, "type": "generative", "truth": "sky"}], "'truth' must be a list|is not in"),
        ("relation.json", {"sky": []}, "'person' is not in relation.json; both must match"),
        ("relation.json", {"sky": "cloud"}, "'sky' must be a list of texts"),
        ("relation.json", [], "relation.json: is no JSON object with entries"),
    ],
)
def test_unfit_files_are_refused(amber, file, content, message):
    if content is None:
        (amber / file).unlink()
    else:
        write_json(amber / file, content)
    with pytest.raises(DataError, match=message):
        AmberG().material(Source(amber))


def test_a_query_file_in_a_folder_of_its_own_with_pictures_beside_it(amber):
    (amber / "query").mkdir()
    shutil.move(amber / "query_all.json", amber / "query" / "mine.json")
    assert len(AmberG().material(Source(amber / "query" / "mine.json")).items) == 2


def test_the_table_of_words_may_lie_elsewhere_but_must_be_there(amber, tmp_path):
    (tmp_path / "words").mkdir()
    for name in ("relation.json", "safe_words.txt"):
        shutil.move(amber / name, tmp_path / "words" / name)
    assert len(AmberG(words=str(tmp_path / "words")).material(Source(amber)).items) == 2
    with pytest.raises(DataError, match="nowhere: is no folder; amber-g looks there for relation"):
        AmberG(words="nowhere").material(Source(amber))


def test_options_are_checked():
    for spec in ("amber-g(rule='spacy')", "amber-g(similarities=3)", "amber-d(rule='official')", "amber-d(prompt='x')"):
        with pytest.raises(OptionError, match="amber-"):
            benchmark(spec)


def test_yes_no_metrics_by_hand(amber):
    """Labels Yes No Yes No Yes No; answers yes, no, no, "not", yes, no: right 4 of 6; no said 3 times, 2 rightly."""
    made = AmberD()
    items = made.material(Source(amber, limit=1)).items
    got = totals(made, items, answered(made, items, ["Yes", "No", "No", "not", "yes", "no."]))
    assert got == {
        "accuracy": (4, 6), "F1 of no": (4, 6), "precision": (2, 3), "recall": (2, 3), "no ratio": (3, 6),
        "unparsed": (1, 6),
    }  # fmt: skip


def test_the_report_has_the_authors_figures_and_the_amber_score(amber):
    """All twelve answered No, six of them rightly: 6 / 12.001, 6 / 12.001, 6 / 6.001, 2 * 0.5 * 1 / 1.5001.

    The caption by hand: 4 / 6.001, 1 / 2.001, 100 - 0 / 1.001, 1 / 1.001.
    """
    questions, captions = AmberD(), AmberG()
    asked = questions.material(Source(amber)).items
    found = questions.evaluate(asked, answered(questions, asked, ["No"] * 12), ["greedy"])
    assert found.official["greedy"]["overall"] == (50.0, 50.0, 100.0, 66.7)
    shown = captions.material(Source(amber, limit=1)).items
    described = captions.evaluate(shown, answered(captions, shown, [CAPTION]), ["greedy"])
    assert described.official == {"greedy": {"CHAIR": (66.7,), "Cover": (50.0,), "Hal": (100.0,), "Cog": (99.9,)}}
    tables = sections([(Part(questions, list(asked), {}), found), (Part(captions, list(shown), {}), described)])
    figures = {table.title: dict(zip(table.metrics, table.lines[0].values, strict=True)) for table in tables}
    by_question = "amber-d, figures of the authors' script, accuracy/precision/recall/F1, rule first-word"
    assert figures[by_question]["overall"] == "50.0/50.0/100.0/66.7"
    by_caption = {"CHAIR": "66.7", "Cover": "50.0", "Hal": "100.0", "Cog": "99.9"}
    assert figures["amber-g, figures of the authors' script, rule mmhall"] == by_caption
    assert tables[-1].lines[0].values == ("50.0",)  # the AMBER score: (100 - 66.7 + 66.7) / 2
