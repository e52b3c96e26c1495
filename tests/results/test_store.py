from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from dataclasses import replace

import pytest

from mmhall.errors import RunError
from mmhall.results.store import FILE, Row, Store

SETUP = {"model": "tiny", "strategies": ["greedy", "vcd"], "seed": 0}


def row(item, strategy="greedy", text="Yes"):
    return Row("pope", item, strategy, text, "eos", 2, 0.5, 0)


def test_answers_come_back_as_they_went_in(tmp_path):
    store = Store.create(tmp_path, SETUP)
    rows = [row("1", text="naïve “quotes”\n\x00 end"), row("1", "vcd"), row("2", text="half \ud800")]
    rows.append(replace(row("3", text=""), extra={}, error="\udcff.png: is damaged"))  # a name that is no UTF-8
    store.add(rows)
    store.close()
    again = Store.open(tmp_path)
    assert list(again.rows("pope")) == rows
    assert again.done("pope") == {("1", "greedy"), ("1", "vcd"), ("2", "greedy")}
    assert list(again.rows("chair")) == []


def test_an_answer_given_twice_keeps_the_first(tmp_path):
    store = Store.create(tmp_path, SETUP)
    store.add([row("1", text="first")])
    store.add([row("1", text="second")])
    assert [r.text for r in store.rows("pope")] == ["first"]


def test_the_same_set_up_goes_on_and_another_is_refused(tmp_path):
    Store.create(tmp_path, SETUP).add([row("1")])
    assert len(Store.create(tmp_path, SETUP).done("pope")) == 1
    with pytest.raises(RunError, match=r"another set-up \(seed was 0, now 1\); choose another --out"):
        Store.create(tmp_path, {**SETUP, "seed": 1})
    assert len(Store.open(tmp_path).done("pope")) == 1


def test_parts_of_a_set_up_may_gain_entries_and_nothing_else(tmp_path):
    growing, grown, refusal = ("strategies", "beams"), [], RunError("not now")
    setup = {**SETUP, "beams": {"greedy": 1, "vcd": 1}}
    more = {**SETUP, "strategies": ["greedy", "pai", "vcd"], "beams": {"greedy": 1, "vcd": 1, "pai": 1}}

    def create(setup, check=grown.append):
        return Store.create(tmp_path, setup, {"note": str(setup["strategies"])}, growing, check)

    def refuse(store):
        raise refusal

    create(setup)
    create(setup)
    assert grown == []
    with pytest.raises(RunError, match="not now"):
        create(more, refuse)
    for other in (
        {"strategies": ["greedy", "pai"]},
        {"strategies": ["pai", "greedy", "vcd"]},
        {"beams": {"greedy": 2, "vcd": 1, "pai": 1}},
        {"seed": 1},
    ):
        with pytest.raises(RunError, match=f"{next(iter(other))}.* was"):
            create({**more, **other})
    stored = Store.open(tmp_path)
    assert {**stored.setup(), **setup} == stored.setup()
    assert stored.notes() == {"note": str(SETUP["strategies"])}
    assert create(more).setup() == {**stored.setup(), **more}
    assert len(grown) == 1
    with pytest.raises(RunError, match="strategies was"):
        create(setup)  # it has fewer


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        Store.open(tmp_path)


def test_a_torn_file_is_an_error_that_names_it(tmp_path):
    (tmp_path / FILE).write_bytes(b"this is no database, " * 100)
    with pytest.raises(RunError, match=FILE):
        Store.open(tmp_path)


def test_a_newer_version_is_refused(tmp_path):
    Store.create(tmp_path, SETUP).close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("update setup set value = '99' where key = 'version'")
    with pytest.raises(RunError, match="another version"):
        Store.open(tmp_path)


def test_a_full_disk_keeps_what_was_committed(tmp_path):
    """SQLite's own page limit stands in for the disk."""
    store = Store.create(tmp_path, SETUP)
    store.add([row("1")])
    store._connection.execute("pragma max_page_count = 12")
    with pytest.raises(
        RunError, match="cannot write the run: database or disk is full; what was committed before is intact"
    ):
        store.add([row(str(i), text="x" * 4000) for i in range(2, 200)])
    store.close()
    assert Store.open(tmp_path).done("pope") == {("1", "greedy")}


def test_a_killed_process_loses_nothing_it_committed(tmp_path):
    program = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from mmhall.results.store import Row, Store
        store = Store.create(Path(sys.argv[1]), {"model": "tiny"})
        for i in range(5):
            store.add([Row("pope", str(i), "greedy", "Yes", "eos", 2, 0.5, 0)])
        os.kill(os.getpid(), 9)
    """)
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == -9
    assert len(Store.open(tmp_path).done("pope")) == 5


def test_notes_may_change(tmp_path):
    Store.create(tmp_path, SETUP, {"images": "/old"})
    store = Store.create(tmp_path, SETUP, {"images": "/new"})
    assert store.notes() == {"images": "/new"}


def test_an_error_does_not_give_the_home_folder_away(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    store = Store.create(tmp_path, SETUP)
    store.add([Row("pope", "1", "greedy", "", "", 0, 0.0, 0, error="/home/me/data/a.png: is damaged")])
    assert [r.error for r in store.rows("pope")] == ["~/data/a.png: is damaged"]


def test_rows_share_what_is_equal_in_them_and_nothing_else(tmp_path):
    """A million answers of one word have few different texts and counted passes; True is not taken for 1."""
    counted = {"passes": 3, "rows": 4}
    extras = [
        {"counted": counted, "score": 0.5},
        {"counted": counted, "score": 1.0},
        {"counted": {"passes": 3, "rows": 5}, "score": 1.0},
        {"counted": {"passes": True, "rows": 1}},
        {"counted": {"passes": 1, "rows": 1}},
    ]
    long = "A dog sits on a bench. " * 10
    written = [Row("pope", str(n), "greedy", "Yes" if n else long, "eos", 2, 1.0, 7, e) for n, e in enumerate(extras)]
    with closing(Store.create(tmp_path, SETUP)) as store:
        store.add(written)
        first, second, *others = rows = list(store.rows("pope"))
    assert [repr(row) for row in rows] == [repr(row) for row in written]
    assert first.extra["counted"] is second.extra["counted"]
    assert first.extra is not second.extra
    assert second.text is others[0].text
    assert first.strategy is second.strategy
