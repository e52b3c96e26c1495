"""Large runs: nothing is read before it is needed, and what was answered stays bound to the pictures it is about."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import closing
from dataclasses import replace
from itertools import pairwise

import pytest

from mmhall.benchmarks import BENCHMARKS, benchmark
from mmhall.benchmarks.base import Source, digest_of
from mmhall.benchmarks.chair import Chair
from mmhall.benchmarks.data.pictures import _annotation_parts, read_json, read_pictures
from mmhall.benchmarks.pope import Pope
from mmhall.benchmarks.run import items as run_items, runs
from mmhall.benchmarks.run.items import note_files
from mmhall.benchmarks.run.runner import answer
from mmhall.benchmarks.run.runs import reopen, start
from mmhall.benchmarks.run.seconds import note_seconds, seconds_remarks
from mmhall.benchmarks.scenes import write_scenes
from mmhall.errors import RunError
from mmhall.results.leases import Leases
from mmhall.results.pictures import Fingerprint, stored_fingerprints
from mmhall.results.store import Row, Store
from mmhall.strategies import strategy
from tests.benchmarks.conftest import picture, write_json

GREEDY, VDD = strategy("greedy"), strategy("vdd(beta=0.5)")


@pytest.fixture
def scenes(tmp_path):
    list(write_scenes(tmp_path / "scenes", 4, 0))
    return tmp_path / "scenes"


@pytest.fixture
def begun(llava, scenes, tmp_path):
    """Begin a run of four captions, or go on with it."""
    opened = []

    def begin(*strategies, batch_size=2):
        source = Source(scenes / "annotations.json")
        asked = strategies or (GREEDY,)
        folder = tmp_path / "run"
        run = start(
            folder, llava, benchmarks=[(Chair(max_new_tokens=4), source)], strategies=asked, batch_size=batch_size
        )
        opened.append(run)
        return run

    yield begin
    for run in opened:
        run.store.close()


def ask(llava, run):
    answer(llava, run, run.parts[0], [strategy(spec) for spec in run.strategies], batch_size=2)
    return {row.item: row.error for row in run.store.rows("chair")}


def change(path, *, keep_time):
    """Change a byte of a picture's file behind its end, which no reader of the picture sees."""
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (0 if keep_time else 1_000_000_000)))


class TestPictures:
    @pytest.mark.slow
    def test_none_is_read_before_it_is_asked_about(self, begun, llava, monkeypatch):
        read, of = [], Fingerprint.of
        monkeypatch.setattr(Fingerprint, "of", lambda path: read.append(path.name) or of(path))
        run = begun()
        assert read == []
        assert "pictures" not in run.setup["benchmarks"]["chair"]
        ask(llava, run)
        assert sorted(read) == [f"00000{n}.png" for n in range(1, 5)]
        again = reopen(run.store.path.parent)
        content = {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in again.parts[0].pictures.items()
        }
        assert again.parts[0].digests == content
        assert again.setup["benchmarks"]["chair"]["pictures"] == digest_of(content)
        read.clear()
        ask(llava, begun())
        assert read == []  # sizes and times are as they were, and nothing is left to ask
        again.store.close()

    @pytest.mark.slow
    def test_a_changed_one_is_refused_with_its_name_and_the_run_unchanged(self, begun, llava, scenes):
        run = begun()
        ask(llava, run)
        before = run.store.setup(), list(run.store.rows("chair")), stored_fingerprints(run.store, "chair")
        change(scenes / "000003.png", keep_time=False)
        with pytest.raises(RunError, match=r"benchmarks\.chair\.pictures was .*: 1 have changed .* such as '3'"):
            begun(GREEDY, VDD)
        assert (run.store.setup(), list(run.store.rows("chair")), stored_fingerprints(run.store, "chair")) == before

    @pytest.mark.slow
    def test_a_change_that_size_and_time_hide_is_seen_when_it_is_asked_about(self, begun, llava, scenes):
        ask(llava, begun())
        change(scenes / "000003.png", keep_time=True)
        ask(llava, begun())  # nothing is asked
        with pytest.raises(RunError, match=r"belongs to another set-up .* such as '3'"):
            ask(llava, begun(GREEDY, VDD))
        with closing(reopen(scenes.parent / "run").store) as store:
            assert ("3", str(VDD)) not in store.done("chair")

    @pytest.mark.slow
    def test_files_that_were_copied_are_compared_by_content_once(self, begun, llava, scenes, monkeypatch):
        ask(llava, begun())
        for path in scenes.glob("*.png"):
            os.utime(path, ns=(0, 0))
        read, of = [], Fingerprint.of
        monkeypatch.setattr(Fingerprint, "of", lambda path: read.append(path.name) or of(path))
        for _ in range(2):
            begun()
        assert len(read) == 4

    @pytest.mark.slow
    def test_one_without_an_answer_may_be_mended(self, begun, llava, scenes):
        whole = (scenes / "000002.png").read_bytes()
        (scenes / "000002.png").write_bytes(whole[:200])
        assert {item for item, error in ask(llava, begun()).items() if error is not None} == {"2"}
        (scenes / "000002.png").write_bytes(whole)
        run = begun()
        assert set(ask(llava, run).values()) == {None}
        assert stored_fingerprints(run.store, "chair")["2"].sha256 == hashlib.sha256(whole).hexdigest()

    def test_a_run_that_an_older_version_began_says_that_its_seconds_do_not_compare(self, begun, llava, scenes):
        def told(run):
            with closing(reopen(run.store.path.parent).store) as store:
                return [text for text in reopen(store.path.parent).parts[0].remarks if "seconds" in text]

        run = begun(GREEDY)
        ask(llava, run)
        assert told(run) == []
        with run.store.writing() as connection:  # as older versions left it
            connection.execute("delete from notes where key like '%opened apart'")
        assert told(run) == []
        ask(llava, begun(GREEDY, VDD))
        ask(llava, begun(GREEDY, VDD))
        (remark,) = told(run)
        assert remark.startswith("the seconds of 4 of 8 answers come from an older version")

    @pytest.mark.slow
    def test_runs_of_older_versions_go_on_bound_to_their_pictures(self, begun, llava, scenes):
        """They have the digests with their items, and one of all pictures in their set-up."""
        run = begun()
        ask(llava, run)
        digests = {name: one.sha256 for name, one in stored_fingerprints(run.store, "chair").items()}
        with run.store.writing() as connection:
            connection.execute("drop table pictures")
            for picture, digest in digests.items():
                update = "update items set content = json_set(content, '$.sha256', ?) where item = ?"
                connection.execute(update, (digest, picture))
            told = run.store.setup()["benchmarks"]
            told["chair"]["pictures"] = digest_of(digests)
            connection.execute("update setup set value = ? where key = 'benchmarks'", (json.dumps(told),))
        with closing(reopen(run.store.path.parent).store):
            assert reopen(run.store.path.parent).parts[0].digests == digests
        assert begun(GREEDY, VDD).parts[0].digests == digests
        assert {name: one.sha256 for name, one in stored_fingerprints(run.store, "chair").items()} == digests
        change(scenes / "000001.png", keep_time=False)
        with pytest.raises(RunError, match=r"chair\.pictures was"):
            begun(GREEDY, VDD)


class TestData:
    def test_of_an_annotation_only_what_is_used_is_kept(self, tmp_path):
        """Outlines are most of a COCO file; boxes are read where they are asked for."""
        entry = {
            "id": 9,
            "image_id": 1,
            "category_id": 2,
            "segmentation": [[1.5] * 60],
            "area": 3,
            "bbox": [0, 0, 4, 5],
        }
        images = [{"id": 1, "file_name": "a.png", "width": 8, "height": 10}]
        whole = {"images": images, "annotations": [entry], "categories": [{"id": 2, "name": "dog"}]}
        data = write_json(tmp_path / "c.json", whole)
        picture(tmp_path / "a.png")
        for boxes, more in ((True, {"bbox": [0, 0, 4, 5]}), (False, {})):
            kept = read_json(data, "x", _annotation_parts(boxes))
            assert kept == {**whole, "annotations": [{"image_id": 1, "category_id": 2, **more}]}
            (read,) = read_pictures(data, tmp_path, boxes=boxes).pictures
            assert read.objects == ("dog",)
            assert read.boxes == ({"dog": ((0, 0, 0.5, 0.5),)} if boxes else {})

    def test_a_large_file_is_named_while_it_is_read(self, scenes, monkeypatch, capsys):
        file = scenes / "annotations.json"
        asked = [(Chair(), Source(file))]
        runs.read(asked)
        monkeypatch.setattr(runs, "_LARGE_FILE", file.stat().st_size)
        runs.read(asked, progress=False)
        assert capsys.readouterr().err == ""
        runs.read(asked)
        assert capsys.readouterr().err == f"chair: reading {file}\n"

    def test_many_items_are_counted_while_they_are_stored(self, begun, monkeypatch, capsys):
        monkeypatch.setattr(runs, "MANY", 4)
        begun()
        assert capsys.readouterr().err == "chair: items stored: 4 of 4\n"
        monkeypatch.setattr(runs, "MANY", 5)
        begun()
        assert capsys.readouterr().err == ""


class TestItems:
    def test_digest_is_that_of_one_listing(self, scenes):
        """Set-ups of older versions hold it."""
        material = Pope().material(Source(scenes / "annotations.json"))
        listing = json.dumps([[i.id, i.prompt, i.groups, dict(i.truth)] for i in material.items], sort_keys=True)
        assert len(material.items) > 1
        assert material.digest == hashlib.sha256(listing.encode()).hexdigest()[:16]
        assert replace(material, items=()).digest == hashlib.sha256(b"[]").hexdigest()[:16]

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [n for n in BENCHMARKS.names() if BENCHMARKS.load(n).drawn and n != "clip"])
    def test_a_run_that_begins_has_the_items_that_a_worker_reads(self, name, scenes, tmp_path):
        made = benchmark(name)
        material = made.material(Source(scenes / "annotations.json"))
        told = {"spec": str(made), "remarks": list(material.remarks)}
        with closing(Store.create(tmp_path / "run", {"benchmarks": {name: told}, "strategies": ["greedy"]})) as store:
            loaded = runs.LoadedBenchmark(made, Source(scenes / "annotations.json"), material)
            part = runs._stored_part(store, tmp_path / "run", loaded, {}, False)
        read = reopen(tmp_path / "run")
        assert read.parts == (replace(part, pictures=read.parts[0].pictures),)
        assert dict(read.parts[0].pictures) == dict(part.pictures)
        assert all(path.is_file() for path in part.pictures.values())
        read.store.close()

    def test_progress_counts_every_item(self, scenes, tmp_path, monkeypatch):
        monkeypatch.setattr(run_items, "_AT_ONCE", 3)
        material, steps = Chair().material(Source(scenes / "annotations.json")), []
        with closing(Store.create(tmp_path / "run", {})) as store:
            run_items.store_items(
                store, "chair", material, note_files(material.pictures, tmp_path / "run"), steps.append
            )
            assert [content["id"] for content in store.items("chair")] == [item.id for item in material.items]
        assert steps == [3, 1]

    def test_files_are_noted_as_they_are_found_again(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        run = tmp_path / "home" / "run"
        files = {
            "in the run": run / "scenes" / "a.png",
            "beside": tmp_path / "home" / "b.png",
            "right in it": run / "c.png",
            "elsewhere": tmp_path / "d.png",
        }
        for path in files.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "link").symlink_to(run / "scenes")
        noted = note_files(files | {"linked": tmp_path / "link" / "a.png"}, run)
        assert dict(noted.notes) == {
            "in the run": "scenes/a.png",
            "beside": "~/b.png",
            "right in it": "c.png",
            "elsewhere": f"{tmp_path}/d.png",
            "linked": "scenes/a.png",
        }
        assert all(path.is_file() for path in noted.values())


def test_batches_are_leased_in_order_those_with_strikes_last(tmp_path):
    with closing(Store.create(tmp_path, {})) as store:
        leases = Leases(store, "chair", 5)
        leases.strike(1, ["a", "b"])
        leases.strike(0, ["c"])
        leases.strike(0, ["c"])
        found = [leases.claim() for _ in range(6)]
        assert found == [2, 3, 4, 1, 0, None]
        assert not leases.has_free_batch()
        leases.drop(3)
        assert leases.has_free_batch()
        for batch, left in pairwise([3, 2, 4, 1, 0]):
            leases.finish(batch)
            assert not leases.is_finished(), left
        leases.finish(0)
        assert leases.is_finished()


def test_failures_that_are_asked_again_do_not_count_as_older_answers(tmp_path):
    def row(number, error=None):
        return Row("pope", str(number), "greedy", "yes", "eos", 1, 1.0, 0, error=error)

    with closing(Store.create(tmp_path / "run", {})) as store:
        store.add([*map(row, range(2)), *(row(number, "torn") for number in range(2, 5))])
        note_seconds(store)
        assert seconds_remarks(store, "pope") == ()
        store.add(list(map(row, range(2, 5))))
        (remark,) = seconds_remarks(store, "pope")
    assert remark.startswith("the seconds of 2 of 5 answers come from an older version")
