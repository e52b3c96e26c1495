"""Two runs are compared on items about the same picture, not about pictures of one name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmhall.benchmarks import benchmark
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.report.compare import compare
from mmhall.benchmarks.run.items import note_files, store_items
from mmhall.benchmarks.run.runs import reopen
from mmhall.results.pictures import Fingerprint, store_fingerprints
from mmhall.results.store import Store
from tests.benchmarks.conftest import answered, picture, write_json


@pytest.fixture
def run(tmp_path):
    """Make a run of two captions, about pictures of some colours; an old one keeps no digests."""

    def make(name, colours, *, old=False):
        for number, colour in enumerate(colours):
            picture(tmp_path / name / f"{number}.png", colour)
        data = write_json(tmp_path / name / "o.json", {f"{n}.png": ["dog"] for n in range(len(colours))})
        chair = benchmark("chair")
        material = chair.material(Source(data))
        folder = tmp_path / name / "run"
        told = {"spec": str(chair), "remarks": []}
        store = Store.create(folder, {"benchmarks": {"chair": told}, "strategies": ["greedy"]})
        store_items(store, "chair", material, note_files(material.pictures, folder))
        if not old:
            store_fingerprints(store, "chair", {n: Fingerprint.of(path) for n, path in material.pictures.items()})
        store.add(answered(chair, material.items, ["A dog."] * len(colours)))
        store.close()
        return reopen(folder)

    return make


def test_items_about_other_pictures_of_the_same_name_are_left_out_and_told(run):
    found = compare(run("a", ("red", "blue")), run("b", ("red", "green")))
    assert "chair: 1 items are the same (of 2 and 2)" in found.remarks
    assert "chair: 1 items are about other pictures of the same name: left out" in found.remarks
    assert found.evaluated[0][1].expected == 1


def test_the_same_pictures_are_compared_without_a_word(run):
    found = compare(run("a", ("red", "blue")), run("b", ("red", "blue")))
    assert "chair: 2 items are the same (of 2 and 2)" in found.remarks
    assert not any("picture" in remark for remark in found.remarks)


def test_a_run_without_digests_stays_readable_and_says_so(run):
    old = run("a", ("red", "blue"), old=True)
    assert len(old.parts[0].items) == 2
    found = compare(old, run("b", ("red", "green")))
    assert "chair: 2 items are the same (of 2 and 2)" in found.remarks
    told = "of 2 items are about pictures of which a run has no digest (older versions kept none): taken to be the same"
    assert [remark for remark in found.remarks if "digest" in remark] == [f"chair: 2 {told} by name"]


def test_pictures_that_an_older_version_asked_about_are_told_apart_by_name(run):
    """A run that a newer version has finished: it knows the second picture alone."""
    old, new = run("a", ("red", "blue"), old=True), run("b", ("red", "blue"))
    part, digests = old.parts[0], new.parts[0].digests
    last = max(digests)
    old = replace(old, parts=(replace(part, digests={last: digests[last]}),))
    told = [remark for remark in compare(new, old).remarks if "digest" in remark]
    assert told == [
        "chair: 1 of 2 items are about pictures of which a run has no digest (older versions kept none): taken to be "
        "the same by name"
    ]
