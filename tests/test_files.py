from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmhall import files, load
from mmhall.analysis._trace import Trace
from mmhall.benchmarks.base import Source
from mmhall.errors import MmhallError
from mmhall.files import atomic_path, file_name, read_text, why_not_a_file
from mmhall.images import open_image
from mmhall.results.export import write_records
from mmhall.results.imports import read_answers
from mmhall.results.store import Store
from mmhall.strategies import tuned


def test_what_a_path_stands_for_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert why_not_a_file(tmp_path / "file") is None
    assert why_not_a_file(tmp_path) == "is a folder"
    assert why_not_a_file(tmp_path / "pipe") == "is a pipe"
    assert why_not_a_file(tmp_path / "gone") == why_not_a_file(tmp_path / "file" / "gone") == "does not exist"
    assert why_not_a_file(tmp_path / ("x" * 300)) == "cannot be read: file name too long"


LONG = Path("x" * 300)


@pytest.mark.parametrize(
    "work",
    [
        lambda: Source(LONG),
        lambda: Source(None, LONG),
        lambda: read_answers(LONG),
        lambda: tuned.read(LONG),
        lambda: Store.create(LONG, {}),
        lambda: Store.open(LONG),
        lambda: write_records([], LONG / "a.csv", {}),
        lambda: Trace.load(LONG),
        lambda: open_image(LONG),
        lambda: load(LONG),
        lambda: load("embedded", tuned=LONG),
        lambda: load("embedded", chat_template=LONG),
    ],
)
def test_a_name_that_no_file_can_have_is_an_error_of_ours(work):
    with pytest.raises(MmhallError, match=r"(?i)too long|cannot be read"):
        work()


def test_a_pipe_is_neither_read_nor_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe"):
        read_text(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe"), atomic_path(tmp_path / "pipe"):
        pytest.fail("it was opened")


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    (tmp_path / "link.html").symlink_to(path)
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass  # nothing was written
    assert path.read_text() == "old"
    with atomic_path(tmp_path / "link.html") as scratch:
        scratch.write_text("new")
    assert path.read_text() == "new"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.html", "page.html"]


def test_a_file_larger_than_any_data_is_not_read(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(files.LONGEST + 1)  # takes no room
    with pytest.raises(OSError, match=r"it has 2,000,000,001 bytes, more than the limit of 2,000,000,000"):
        read_text(tmp_path / "huge")


@pytest.mark.parametrize("text", ["", "..", "CON", "nul.txt", "x" * 300, "\0", "ü" * 200, "../../x", "C:\\x", "a\nb"])
def test_any_text_becomes_a_name_that_every_system_takes(tmp_path, text):
    name = file_name(text)
    assert 0 < len(name) <= 160
    assert name.isascii()
    assert not {"/", "\\", "\0", "\n"} & set(name)
    assert name.split(".")[0].upper() not in ("", "CON", "NUL")
    (tmp_path / name).touch()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_long_names_that_end_otherwise_stay_apart():
    assert file_name("x" * 300 + "a") != file_name("x" * 300 + "b")
    assert file_name("some/model-7b") == "some--model-7b"
