"""The record of a reproduction: which revisions it stays with, and what it refuses."""

from __future__ import annotations

import json

import httpx
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError

from mmhall.benchmarks.reproduce.data import Given
from mmhall.benchmarks.reproduce.downloads import check_disk, downloads
from mmhall.benchmarks.reproduce.protocols import PROTOCOLS
from mmhall.benchmarks.reproduce.record import ASKED, CURRENT, FILE, LOCAL, PINNED, settle, wanted
from mmhall.errors import DataError, RunError

LLAVA, CHAIR, POPE = PROTOCOLS["llava-1.5-7b"], "tsunghanwu/mscoco_chair", "lmms-lab-encoder/POPE"


@pytest.fixture
def hub(monkeypatch):
    """A hub whose current commits are a counter, and the ids it was asked for."""
    asked = []

    def repo_info(self, name, *, repo_type, revision, timeout):
        asked.append((name, repo_type, revision))
        return type("Info", (), {"sha": f"{len(asked):040d}"})

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    return asked


def test_an_open_revision_is_asked_for_once_and_kept(hub, tmp_path):
    record = wanted(LLAVA, LLAVA.model, Given(), 0, None)
    assert (record.revision, record.revision_from) == ("b234b804b114d9e37bb655e11cbbb5f5e971b7a9", PINNED)
    assert record.datasets[POPE] == "4db1276663dfa5eb8ad16a52d24c31a09e470896"
    settled = settle(tmp_path, record, [CHAIR, POPE])
    assert hub == [(CHAIR, "dataset", None)]
    assert settled.datasets[CHAIR] == f"{1:040d}"
    assert settle(tmp_path, record, [CHAIR, POPE]) == settled
    assert len(hub) == 1
    assert json.loads((tmp_path / FILE).read_text())["datasets"][CHAIR] == f"{1:040d}"


def test_a_model_without_a_pin_is_asked_for_and_a_local_one_is_not(hub, tmp_path):
    record = wanted(LLAVA, "somebody/llava", Given(), 0, None)
    assert record.revision_from == CURRENT
    assert settle(tmp_path / "a", record, []).revision == f"{1:040d}"
    assert hub == [("somebody/llava", "model", None)]
    assert wanted(LLAVA, "somebody/llava", Given(), 0, "v1").revision_from == ASKED
    assert wanted(LLAVA, "embedded", Given(), 0, None).revision_from == LOCAL


def test_another_reproduction_in_the_folder_is_refused_and_a_damaged_record_named(tmp_path):
    settle(tmp_path, wanted(LLAVA, "embedded", Given(limit=2), 0, None), [])
    with pytest.raises(RunError, match="was started with limit 2, not 3; give the same"):
        settle(tmp_path, wanted(LLAVA, "embedded", Given(limit=3), 0, None), [])
    (tmp_path / FILE).write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        settle(tmp_path, wanted(LLAVA, "embedded", Given(limit=2), 0, None), [])


def test_a_gated_repository_is_named_with_what_to_do(hub, tmp_path, monkeypatch):
    response = httpx.Response(403, request=httpx.Request("GET", "https://hub"))

    def gated(self, name, **options):
        raise GatedRepoError("gated", response=response)

    monkeypatch.setattr(HfApi, "repo_info", gated)
    with pytest.raises(
        DataError, match="somebody/llava: the hub gives this model only to users who accepted its terms"
    ):
        settle(tmp_path, wanted(LLAVA, "somebody/llava", Given(), 0, None), [])


def test_a_disk_without_room_is_refused_before_anything_is_downloaded(tmp_path, monkeypatch):
    """Weights of 14.1 GB and POPE's 0.255 GB, twice: 14.6 GB; the size of the other dataset is not known."""
    needed = downloads(wanted(LLAVA, LLAVA.model, Given(), 0, None), LLAVA.steps, Given())
    assert [one.id for one in needed] == [LLAVA.model, POPE, CHAIR]
    usage = type("Usage", (), {"free": 10**10})
    monkeypatch.setattr("mmhall.benchmarks.reproduce.downloads.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(RunError, match=r"has 10\.0 GB free, .* need 14\.6 GB; free some room"):
        check_disk(needed)
    usage.free = 10**11
    check_disk(needed)
