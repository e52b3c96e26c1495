from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from mmhall.benchmarks.amber import AmberD, AmberG
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.data.reading import Record, find_pictures, read_records, read_text
from mmhall.benchmarks.hallusion import Hallusion
from mmhall.benchmarks.mme import Mme
from mmhall.benchmarks.mmhal import MmHal
from mmhall.errors import DataError
from tests.benchmarks.conftest import picture, write_json, write_lines
from tests.benchmarks.test_hallusion import RECORDS

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture
def loaders(amber, tmp_path):
    """Each file with who reads it."""
    for each in RECORDS:
        if each["filename"]:
            picture(tmp_path / each["filename"])
    picture(tmp_path / "a.png")
    asked = [{"image": "a.png", "question": q, "answer": "Yes", "category": "color"} for q in "ab"]
    rated = [{"question": "?", "gt_answer": "!", "image_content": ["Cat"], "image": "a.png"}]
    return [
        (AmberG(), amber, amber / "query_all.json"),
        (AmberG(), amber, amber / "annotations.json"),
        (AmberG(), amber, amber / "relation.json"),
        (AmberD(), amber, amber / "annotations.json"),
        (Mme(), tmp_path / "m.jsonl", write_json(tmp_path / "m.jsonl", asked)),
        (Hallusion(), tmp_path / "h.json", write_json(tmp_path / "h.json", RECORDS)),
        (MmHal(), tmp_path / "r.json", write_json(tmp_path / "r.json", rated)),
    ]


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(value=ANYTHING, seed=st.integers(0, 2**32))
def test_whatever_a_file_holds_it_is_read_or_refused(loaders, value, seed):
    """One value somewhere in a file becomes anything at all, or the file ends early."""
    rng = random.Random(seed)
    made, data, file = rng.choice(loaders)
    whole = file.read_text()
    told = json.loads(whole)
    at = rng.choice(told) if isinstance(told, list) else told
    at[rng.choice(list(at))] = value
    text = json.dumps(told)
    file.write_text(text[: rng.randrange(len(text))] if rng.random() < 0.2 else text)
    refused = ""
    try:
        material = made.material(Source(data))
        assert material.digest
        json.dumps([dict(item.truth) for item in material.items]).encode()
    except DataError as error:
        refused = str(error)
    finally:
        file.write_text(whole)
    assert "\n" not in refused


def test_halves_of_characters_are_refused(tmp_path):
    (tmp_path / "a").write_text('{"x": "\\ud800", "y": ["\\udfff"], "n": 1' + "0" * 5000 + "}")
    with pytest.raises(DataError, match="is no JSON"):
        read_records(tmp_path / "a", "x")
    (tmp_path / "a").write_text('{"x": "\\ud800", "y": ["\\udfff"]}')
    (record,) = read_records(tmp_path / "a", "x")
    with pytest.raises(DataError, match=r"'x' must be a text, got \"\\ud800\""):
        record.text("x")
    with pytest.raises(DataError, match="'y' must be a list of texts"):
        record.texts("y")


def test_records_come_as_an_array_or_as_lines_with_any_line_ends(tmp_path):
    entries = [{"a": "x\u2028y"}, {"a": 2}]
    lines = "\r\n".join(json.dumps(e, ensure_ascii=False) for e in entries)
    for text in (json.dumps(entries), "\ufeff" + json.dumps(entries, indent=1), lines, lines + "\r\n\r\n"):
        (tmp_path / "f").write_bytes(text.encode())
        assert [dict(r.fields) for r in read_records(tmp_path / "f", "x")] == entries


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "", "folder"])
def test_names_no_file_has(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="pictures are missing"):
        find_pictures([name], [tmp_path])


def test_pictures_that_need_not_be_there_are_named_where_they_would_be(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    second.mkdir()
    (second / "2.png").write_bytes(b"")
    found = find_pictures(["1.png", "2.png"], [first, second], required=False)
    assert found == {"1.png": first / "1.png", "2.png": second / "2.png"}


def test_a_file_that_may_not_be_read_and_one_in_no_folder(tmp_path):
    write_lines(tmp_path / "f", [])
    with pytest.raises(DataError, match=r"cannot be read: Not a directory; expected words"):
        read_text(tmp_path / "f" / "g", "words")


def test_a_choice_is_told_in_its_own_case():
    assert Record("here", {"a": " YES "}).choice("a", ("Yes", "No")) == "Yes"
    assert Record("here", {"b": 1}).text("a", "b") == "1"
