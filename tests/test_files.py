from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmhall import load, tuned
from mmhall.benchmarks.base import Source
from mmhall.errors import MmhallError
from mmhall.files import no_file, read_text, whole
from mmhall.images import open_image
from mmhall.results.export import write_records
from mmhall.results.imports import read_answers
from mmhall.results.store import Store
from mmhall.trace import Trace


def test_what_a_path_stands_for_is_told(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    assert no_file(tmp_path / "file") is None
    assert no_file(tmp_path) == "is a folder"
    assert no_file(tmp_path / "pipe") == "is a pipe"
    assert no_file(tmp_path / "gone") == no_file(tmp_path / "file" / "gone") == "does not exist"
    assert no_file(tmp_path / ("x" * 300)) == "cannot be read: file name too long"


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
    with pytest.raises(OSError, match="it is a pipe"), whole(tmp_path / "pipe"):
        pytest.fail("it was opened")


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    (tmp_path / "link.html").symlink_to(path)
    with pytest.raises(FileNotFoundError), whole(path):
        pass  # nothing was written
    assert path.read_text() == "old"
    with whole(tmp_path / "link.html") as scratch:
        scratch.write_text("new")
    assert path.read_text() == "new"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.html", "page.html"]
