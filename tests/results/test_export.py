from __future__ import annotations

import csv
import json

import pytest
from hypothesis import given, strategies as st
from pyarrow import parquet

from mmhall.errors import OptionError, RunError
from mmhall.results.export import escape_formula, write_records

COLUMNS = {"item": str, "answer": str, "seconds": float, "error": str}
RECORDS = [
    {"item": "1", "answer": "=HYPERLINK(1)", "seconds": 0.5, "error": None, "doc": {"a": [1]}, "right": 1, "share": 1},
    {"item": "2", "answer": 'two\r\nlines, "quoted"\u2028 naïve', "seconds": -1.5, "error": None, "share": 0.5},
    {"item": "@3", "answer": "torn \ud800", "seconds": 2, "error": "-no", "right": -1},
]


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_json_lines_hold_what_went_in_one_line_each(tmp_path):
    write_records(RECORDS, tmp_path / "a.jsonl", COLUMNS)
    content = (tmp_path / "a.jsonl").read_bytes()
    assert [json.loads(line) for line in content.decode("utf-8").splitlines()] == RECORDS
    assert content.endswith(b"}\n")


def test_csv_cells_are_text_no_spreadsheet_computes(tmp_path):
    write_records(RECORDS, tmp_path / "a.csv", COLUMNS)
    first, second, third = read_csv(tmp_path / "a.csv")
    assert list(first) == ["item", "answer", "seconds", "error", "doc", "right", "share"]
    assert (first["answer"], first["doc"], first["error"]) == ("'=HYPERLINK(1)", '{"a": [1]}', "")
    assert (second["answer"], second["seconds"], second["right"]) == (RECORDS[1]["answer"], "-1.5", "")
    assert (third["item"], third["answer"], third["error"], third["right"]) == ("'@3", "torn \\ud800", "'-no", "-1")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_every_beginning_of_a_formula_is_covered(start):
    assert escape_formula(f"{start}1") == f"'{start}1"
    assert escape_formula(f"1{start}") == f"1{start}"


@pytest.mark.slow
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00")), min_size=1, max_size=5))
def test_any_text_comes_back_from_csv(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write_records([{"item": text} for text in texts], path, {"item": str, "answer": str}, force=True)
    back = [row["item"] for row in read_csv(path)]
    assert [cell[1:] if cell[:1] == "'" and cell != text else cell for cell, text in zip(back, texts, strict=True)] == (
        texts
    )
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in back)


def test_parquet_columns_have_types(tmp_path):
    write_records(RECORDS, tmp_path / "a.parquet", COLUMNS)
    table = parquet.read_table(tmp_path / "a.parquet")
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds == {
        "item": "string",
        "answer": "string",
        "seconds": "double",
        "error": "string",
        "doc": "string",
        "right": "int64",
        "share": "double",
    }
    assert table["answer"].to_pylist() == ["=HYPERLINK(1)", RECORDS[1]["answer"], "torn \\ud800"]
    assert table["right"].to_pylist() == [1, None, -1]
    assert table["share"].to_pylist() == [1.0, 0.5, None]
    assert table["seconds"].to_pylist() == [0.5, -1.5, 2.0]


def test_an_empty_list_is_a_file_of_its_columns(tmp_path):
    for ending in ("jsonl", "csv", "parquet"):
        write_records([], tmp_path / f"a.{ending}", COLUMNS)
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    assert (
        tmp_path / "a.csv"
    ).read_text() == "item,answer,seconds,error\n"  # as text: the lines of RFC 4180 end in CRLF
    assert parquet.read_table(tmp_path / "a.parquet").schema.names == list(COLUMNS)


def test_a_file_that_exists_is_overwritten_on_demand_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("mine")
    with pytest.raises(RunError, match="exists already; give another name, or --force"):
        write_records(RECORDS, path, COLUMNS)
    assert path.read_text() == "mine"
    write_records(RECORDS[:1], path, COLUMNS, force=True)
    assert len(path.read_text().splitlines()) == 1


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("mine")
    with pytest.raises(TypeError):
        write_records([*RECORDS, {"item": object()}], path, COLUMNS, force=True)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.txt", "a", "jsonl", "a.jsonl.gz"])
def test_another_ending_is_refused_with_what_is_possible(tmp_path, name):
    with pytest.raises(OptionError, match=r"ends in \.jsonl, \.parquet, \.csv"):
        write_records([], tmp_path / name, COLUMNS)


def test_folders_are_refused(tmp_path):
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(RunError, match="is a folder"):
        write_records([], tmp_path / "a.csv", COLUMNS, force=True)
    with pytest.raises(RunError, match="its folder does not exist"):
        write_records([], tmp_path / "none" / "a.csv", COLUMNS)
