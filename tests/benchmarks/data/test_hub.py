from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import pytest
from datasets import Dataset, Features, Image, Sequence, Value, load_dataset
from PIL import Image as Pil

from mmhall.benchmarks.amber import AmberD, AmberG
from mmhall.benchmarks.base import Source
from mmhall.benchmarks.data import hub, hub_formats
from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.hallusion import Hallusion
from mmhall.benchmarks.mme import Mme
from mmhall.errors import DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def shots(tmp_path):
    """Files of three pictures: two JPEG, one PNG."""
    files = []
    for name, colour in (("a.jpg", "red"), ("b.jpg", "blue"), ("c.png", "green")):
        Pil.new("RGB", (8, 8), colour).save(tmp_path / name)
        files.append(tmp_path / name)
    return files


@pytest.fixture
def stored(tmp_path):
    """Write columns as a parquet file and read it as the hub's are read."""
    datasets.disable_progress_bars()

    def store(columns, **features):
        kinds = Features({name: features.get(name, Value("string")) for name in columns})
        path = tmp_path / f"{len(list(tmp_path.glob('*.parquet')))}.parquet"
        Dataset.from_dict(columns, features=kinds).to_parquet(path)
        return load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "datasets"))

    return store


def pope_columns(shots):
    return {
        "id": ["0", "1", "2"],
        "question_id": ["1", "2", "1"],
        "question": ["Is there a dog in the image?", "Is there a cat in the image?", "Is there a bus in the image?"],
        "answer": ["yes", "No", "no"],
        "image_source": ["COCO_val2014_1", "COCO_val2014_1", "COCO_val2014_2"],
        "image": [str(shots[0]), str(shots[0]), str(shots[1])],
        "category": ["random", "random, popular", "adversarial"],
    }


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pope_becomes_the_official_question_files(stored, shots, tmp_path):
    out = tmp_path / "out"
    hub_formats.pope([stored(pope_columns(shots), image=Image())], out_made(out))
    assert lines(out / "coco_pope_random.json") == [
        {"question_id": 1, "image": "COCO_val2014_1.jpg", "text": "Is there a dog in the image?", "label": "yes"},
        {"question_id": 2, "image": "COCO_val2014_1.jpg", "text": "Is there a cat in the image?", "label": "no"},
    ]
    assert [line["question_id"] for line in lines(out / "coco_pope_popular.json")] == [2]
    assert [line["image"] for line in lines(out / "coco_pope_adversarial.json")] == ["COCO_val2014_2.jpg"]
    assert (out / "COCO_val2014_1.jpg").read_bytes() == shots[0].read_bytes()
    assert len(list(out.iterdir())) == 5


def out_made(path):
    path.mkdir()
    return path


def test_chair_becomes_a_coco_detection_file(stored, shots, tmp_path):
    columns = {
        "question_id": ["42", "7"],
        "image": [str(s) for s in shots[:2]],
        "gt_object": [["dog", "cup", "dog"], []],
    }
    out = out_made(tmp_path / "out")
    hub_formats.chair([stored(columns, image=Image(), gt_object=Sequence(Value("string")))], out)
    read = read_coco(out / hub.HUB_DATASETS["chair"].data, out)
    assert [(p.id, p.path.name, p.objects) for p in read.pictures] == [
        ("7", "7.jpg", ()),
        ("42", "42.jpg", ("dog", "cup")),
    ]


def test_amber_becomes_queries_and_annotations(stored, shots, tmp_path, amber):
    columns = {
        "question_id": ["1", "2"],
        "image": [str(s) for s in shots[:2]],
        "task_type": ["g", "g"],
        "truth": [["person"], ["sky", "man"]],
        "hallu": [["car"], []],
    }
    words = Sequence(Value("string"))
    out = out_made(tmp_path / "out")
    hub_formats.amber_captions([stored(columns, image=Image(), truth=words, hallu=words)], out)
    with pytest.raises(DataError, match=r"holds no relation\.json"):
        AmberG().material(Source(out))
    items = AmberG(words=str(amber)).material(Source(out)).items
    assert [(i.id, i.picture, i.prompt) for i in items] == [
        ("1", "AMBER_1.jpg", "Describe this image."), ("2", "AMBER_2.jpg", "Describe this image."),
    ]  # fmt: skip
    assert items[1].truth["truth"] == ["sky", "man"]


def test_ambers_questions_become_queries_and_annotations(stored, shots, tmp_path):
    """Columns of qgallouedec/amber, discriminative: no file names; a picture of several questions is written once."""
    columns = {
        "id": [8633, 1005, 13557],
        "image": [str(shots[0]), str(shots[0]), str(shots[1])],
        "query": ["Is there a cloud?", "Is the sky sunny?", "Do they touch?"],
        "type": ["discriminative-hallucination", "discriminative-attribute-state", "relation"],
        "truth": ["no", "yes", "no"],
    }
    out = out_made(tmp_path / "out")
    hub_formats.amber_questions([stored(columns, image=Image(), id=Value("int32"))], out)
    material = AmberD().material(Source(out))
    assert sorted((i.id, i.truth["label"], i.groups[-1]) for i in material.items) == [
        ("1005", "Yes", "state"), ("13557", "No", "relation"), ("8633", "No", "existence"),
    ]  # fmt: skip
    files = {i.id: material.pictures[i.picture] for i in material.items}
    assert files["1005"] == files["8633"]
    assert files["1005"].read_bytes() == shots[0].read_bytes()
    assert files["13557"].read_bytes() == shots[1].read_bytes()
    assert len(list(out.glob("*.jpg"))) == 2


def test_mme_becomes_a_manifest(stored, shots, tmp_path):
    columns = {
        "question_id": ["count/1.png", "count/1.png"],
        "image": [str(shots[2])] * 2,
        "question": ["Is it one?", "Is it two?"],
        "answer": ["Yes", "No"],
        "category": ["count", "count"],
    }
    out = out_made(tmp_path / "out")
    hub_formats.mme([stored(columns, image=Image())], out)
    material = Mme().material(Source(out / hub.HUB_DATASETS["mme"].data))
    assert [(i.picture, i.truth["label"]) for i in material.items] == [("count/1.png", "yes"), ("count/1.png", "no")]
    assert material.pictures["count/1.png"].read_bytes() == shots[2].read_bytes()


def test_hallusion_becomes_its_file(stored, shots, tmp_path):
    columns = {
        "category": ["VS"], "subcategory": ["chart"], "visual_input": ["1"], "set_id": ["0"], "figure_id": ["1"],
        "question_id": ["0"], "question": ["Is it?"], "gt_answer": ["1"], "gt_answer_details": ["It is."],
        "filename": ["./VS/chart/0_1.png"], "sample_note": ["n"],
    }  # fmt: skip
    shown = stored({**columns, "image": [str(shots[2])]}, image=Image())
    bare = stored({**columns, "visual_input": ["0"], "figure_id": ["0"], "filename": [None]})
    out = out_made(tmp_path / "out")
    hub_formats.hallusion([shown, bare], out)
    items = Hallusion().material(Source(out)).items
    assert [(i.id, i.picture) for i in items] == [("VS_chart_1_0_1_0", "VS/chart/0_1.png"), ("VS_chart_0_0_0_0", None)]
    assert items[0].truth["reference"] == "It is."


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"category": ["random", "odd", "popular"]}, "row 2 of the dataset: 'category' must be"),
        ({"answer": ["yes", "no", "so"]}, "row 3 of the dataset: 'answer' must be 'yes' or 'no', got 'so'"),
        ({"image_source": ["../up", "a", "b"]}, r"row 1 of the dataset: '\.\./up' is no file name"),
        ({"image_source": ["/etc/x", "a", "b"]}, "row 1 of the dataset: '/etc/x' is no file name"),
        ({"image_source": ["", "a", "b"]}, "row 1 of the dataset: '' is no file name"),
        ({"image_source": ["a", "a", "a"]}, r"row 3 of the dataset: another picture than an earlier row's a\.jpg"),
        ({"image": [None, None, None]}, "row 1 of the dataset: has no picture"),
        ({"question": [None, "a", "b"]}, "row 1 of the dataset: 'question' must be a text, got null"),
    ],
)
def test_rows_that_do_not_fit_are_refused(stored, shots, tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        hub_formats.pope([stored({**pope_columns(shots), **changed}, image=Image())], out_made(tmp_path / "out"))


def test_another_dataset_is_refused(stored, shots, tmp_path):
    columns = pope_columns(shots)
    del columns["category"]
    with pytest.raises(DataError, match="the dataset has no column 'category', it has id, question_id, question"):
        hub_formats.pope([stored(columns, image=Image())], out_made(tmp_path / "out"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mmhall" / "hub"


def put(cache, commit, benchmark="pope", name="lmms-lab-encoder/POPE"):
    folder = cache / name.replace("/", "--") / commit / benchmark
    folder.mkdir(parents=True)
    (folder / hub.NOTE).write_text(json.dumps({"dataset": name, "commit": commit}))
    return folder


def test_files_at_hand_are_not_asked_for(cache):
    folder = put(cache, COMMIT)
    assert hub.fetch(f"hub:lmms-lab-encoder/POPE@{COMMIT}", "pope") == folder
    assert hub.fetch(f"hub:@{COMMIT}", "pope") == folder
    assert hub.fetch("hub:", "pope") == folder  # the only one, offline
    assert hub.remarks(folder) == (f"from the hub; --data hub:lmms-lab-encoder/POPE@{COMMIT} takes the same again.",)
    put(cache, "f" * 40)
    with pytest.raises(DataError, match="is not in the cache"):
        hub.fetch("hub:", "pope")


def test_what_is_not_at_hand_offline_is_one_clear_line(cache):
    wanted = r"POPE: is not in the cache, and the hub may not be used \(HF_HUB_OFFLINE is set\); run once without it"
    for spec in ("hub:lmms-lab-encoder/POPE", "hub:", "hub:@main", f"hub:@{COMMIT}"):
        with pytest.raises(DataError, match=wanted):
            hub.fetch(spec, "pope")
    assert not cache.exists()


@pytest.mark.parametrize("spec", ["hub:POPE", "hub:a/b/c", "hub:a/b@", "hub:../x", "hub:a/b c"])
def test_specs_of_another_kind_are_refused(cache, spec):
    with pytest.raises(DataError, match="is no hub dataset; write hub:lmms-lab-encoder/POPE, or with @"):
        hub.fetch(spec, "pope")


def test_a_benchmark_without_a_known_dataset(cache):
    with pytest.raises(DataError, match="mmhal: no hub dataset is known for it, only for pope, chair"):
        hub.fetch("hub:", "mmhal")


def test_files_are_written_whole_or_not_at_all(stored, shots, cache):
    known = hub.HUB_DATASETS["pope"]
    told = {"dataset": known.id, "commit": COMMIT}
    target = cache / "lmms-lab-encoder--POPE" / COMMIT / "pope"
    torn = stored({**pope_columns(shots), "answer": ["yes", "no", "so"]}, image=Image())
    with pytest.raises(DataError, match="row 3"):
        hub._convert([torn], known, target, told)
    assert list(target.parent.iterdir()) == []
    whole = stored(pope_columns(shots), image=Image())
    hub._convert([whole], known, target, told)
    hub._convert([whole], known, target, told)  # as another process would that comes second
    assert [path.name for path in target.parent.iterdir()] == ["pope"]
    assert hub.fetch(f"hub:@{COMMIT}", "pope") == target


def test_a_folder_that_cannot_be_written_is_named(stored, shots, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="pope: cannot be written: Not a directory"):
        hub._convert([], hub.HUB_DATASETS["pope"], tmp_path / "file" / COMMIT / "pope", {})


class Hub(BaseHTTPRequestHandler):
    """Knows one dataset, and its commit."""

    def do_GET(self):
        known = self.path.startswith(f"/api/datasets/{hub.HUB_DATASETS['pope'].id}")
        right = known and "odd" not in self.path
        told = json.dumps({"id": hub.HUB_DATASETS["pope"].id, "sha": COMMIT}).encode() if right else b"{}"
        self.send_response(200 if right else 404)
        if not right:
            self.send_header("X-Error-Code", "RevisionNotFound" if known else "RepoNotFound")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *arguments):
        pass


def asked_online(endpoint, *specs):
    """Fetch in a process of its own that may ask the hub, which lies elsewhere; a line for each."""
    code = """if True:
        import sys
        from mmhall.benchmarks.data.hub import fetch
        from mmhall.errors import DataError
        for spec in sys.argv[1:]:
            try:
                print(fetch(spec, "pope"))
            except DataError as error:
                print(error)
    """
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint}
    done = subprocess.run([sys.executable, "-c", code, *specs], env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_hub_is_asked_for_the_commit_only(cache):
    folder = put(cache, COMMIT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        told = asked_online(f"http://127.0.0.1:{server.server_port}", "hub:", "hub:@main", "hub:@odd", "hub:no/where")
    finally:
        server.shutdown()
        server.server_close()
    assert told[:2] == [str(folder)] * 2
    assert told[2] == "lmms-lab-encoder/POPE: the hub has no revision 'odd' of it; name another one"
    assert told[3] == "no/where: the hub has no such dataset, or shows it only to some; check its id"


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_one_line(cache):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        (told,) = asked_online(f"http://127.0.0.1:{taken.getsockname()[1]}", "hub:")
    assert re.match(
        r"lmms-lab-encoder/POPE: cannot be taken from the hub: .+; try again, or give a file or folder", told
    )


def test_other_files_have_no_remark(tmp_path):
    assert hub.remarks(None) == hub.remarks(tmp_path) == hub.remarks(tmp_path / "a.json") == ()
    (tmp_path / hub.NOTE).write_text("[]")
    assert hub.remarks(tmp_path) == ()
