"""DASH-B: its questions from a copy of the hub's files, and its figures by hand."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.dash import DashB
from mmhall.benchmarks.data import hub
from mmhall.errors import DataError
from tests.benchmarks.conftest import answered, picture, write_lines

THINGS = (("n1", "no"), ("n2", "no"), ("n3", "no"), ("y1", "yes"), ("y2", "yes"), ("y3", "yes"))


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A folder with the hub's Parquet file: the columns of YanNeu/DASH-B, pictures without the object first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [
        {
            "dataset": "laion",
            "object": "leopard",
            "question": "Can you see a leopard in this image. Please answer only with yes or no.",
            "answer": label,
            "image_path": f"images/{name}.png",
            "img_id": name,
            "question_id": n,
            "image": {"bytes": picture(tmp_path / f"{name}.png", (9 * n, 0, 0)).read_bytes(), "path": None},
        }
        for n, (name, label) in enumerate(THINGS)
    ]
    (tmp_path / "DASH-B" / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "DASH-B" / "data" / "test-00000-of-00001.parquet")
    return tmp_path / "DASH-B"


def test_a_copy_of_the_hubs_files_is_read_and_labels_take_turns(copy):
    data = hub.data_path(str(copy), "dash-b")
    material = DashB().material(Source(data))
    assert [item.picture for item in material.items] == ["n1.png", "y1.png", "n2.png", "y2.png", "n3.png", "y3.png"]
    assert material.items[1].prompt == "Can you see a leopard in this image. Please answer only with yes or no."
    assert material.items[1].truth == {"label": "yes", "object": "leopard"}
    assert material.pictures["y2.png"].read_bytes() == (copy.parent / "y2.png").read_bytes()
    assert [item.truth["label"] for item in DashB().material(Source(data, limit=2)).items] == ["no", "yes"]
    with pytest.raises(DataError, match=r"no hub dataset is known for it, only for pope, .*dash-b"):
        hub.data_path("hub:", "clip")


def test_figures_by_hand(copy):
    """2 of 3 objects found, 1 of 3 rejected, one answer neither: accuracy 3/6, harmonic mean 2 * 2/9 / (2/3 + 1/3)."""
    items = DashB().material(Source(hub.data_path(str(copy), "dash-b"))).items
    said = {"n1.png": "No.", "n2.png": "Yes", "n3.png": "?", "y1.png": "Yes", "y2.png": "yes!", "y3.png": "No"}
    for rule in ("strict", "contains"):
        made = benchmark(f"dash-b(rule={rule!r})")
        rows = answered(made, items, [said[item.picture] for item in items])
        got = {c.metric.name: c.estimate.value for c in made.evaluate(items, rows, ["greedy"]).cells}
        assert got["accuracy"] == pytest.approx(1 / 2)
        assert (got["TPR"], got["TNR"]) == pytest.approx((2 / 3, 1 / 3))
        assert got["harmonic mean"] == pytest.approx(4 / 9)
        assert (got["precision"], got["yes ratio"], got["unparsed"]) == pytest.approx((2 / 3, 1 / 2, 1 / 6))
        assert [made.mark(item, said[item.picture])[0][2] for item in items] == [True, True, False, True, False, False]


def test_unsuitable_files_are_refused(tmp_path):
    entry = {"question_id": 1, "image": "a.png", "object": "ox", "question": "?", "answer": "yes"}
    path = write_lines(tmp_path / "questions.jsonl", [entry])
    with pytest.raises(DataError, match=r"a\.png: is not in .* check --images"):
        DashB().material(Source(path))
    picture(tmp_path / "a.png")
    assert len(DashB().material(Source(tmp_path)).items) == 1
    for wrong, message in (
        ([{**entry, "answer": "maybe"}], "'answer' must be 'yes' or 'no', got 'maybe'"),
        ([entry, entry], "question '1' is there already"),
        ([{k: v for k, v in entry.items() if k != "object"}], "'object' must be a text"),
    ):
        path.write_text("".join(json.dumps(each) + "\n" for each in wrong))
        with pytest.raises(DataError, match=message):
            DashB().material(Source(path))
