"""lmms-eval's own command line runs our strategies on a task it has never seen."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value

from mmhall.benchmarks.pope import SUFFIX, question_about
from mmhall.benchmarks.scenes import make_scene

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("lmms-eval")
DESCRIBE = "Please describe this image in detail."

pytestmark = [pytest.mark.lmms, pytest.mark.slow]

UTILS = """
def visuals(doc):
    return [doc["image"]]

def prompt(doc):
    return doc["question"]

def score(doc, results):
    return {"right": float(results[0].lower().startswith(doc["label"]))}

def average(values):
    return sum(values) / len(values)
"""
SHARED = """
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_visual: !function utils.visuals
doc_to_text: !function utils.prompt
"""
WRITTEN = """
task: drawn_yes_no
output_type: generate_until
doc_to_target: label
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  top_p: 1.0
  num_beams: 1
  do_sample: false
process_results: !function utils.score
metric_list:
  - metric: right
    aggregation: !function utils.average
    higher_is_better: true
"""
RANKED = """
task: drawn_choice
output_type: multiple_choice
doc_to_choice: ["yes", "no"]
doc_to_target: number
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def skip_unless_installed():
    if importlib.util.find_spec("lmms_eval") is None or not COMMAND.is_file():
        pytest.skip("lmms-eval is not installed: pip install lmms_eval==0.7.3 (see docs/lmms-eval.md)")
    if "mmhall" not in {point.name for point in entry_points(group="lmms_eval.models")}:
        pytest.skip("this mmhall was installed before it had a plug-in: install it again (pip install -e .)")


@pytest.fixture(scope="module")
def documents():
    """Four drawn scenes; of each, something there and something absent are asked for, and a description."""
    skip_unless_installed()
    made = []
    for index in range(4):
        scene = make_scene(seed=11, index=index)
        there = scene.objects[0].name
        absent = next(name for name in ("dog", "cup", "car", "zebra") if name not in {o.name for o in scene.objects})
        for name, label in ((there, "yes"), (absent, "no")):
            made.append({"image": scene.image, "question": question_about(name) + SUFFIX, "label": label})
        made.append({"image": scene.image, "question": DESCRIBE, "label": "no"})
    return [{**document, "number": ["yes", "no"].index(document["label"])} for document in made]


@pytest.fixture(scope="module")
def tasks(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    features = Features(image=Image(), question=Value("string"), label=Value("string"), number=Value("int64"))
    Dataset.from_list(documents, features=features).to_parquet(folder / "scenes.parquet")
    (folder / "utils.py").write_text(UTILS)
    for name, text in (("written", WRITTEN), ("ranked", RANKED)):
        (folder / f"{name}.yaml").write_text(text + SHARED.format(data=folder / "scenes.parquet"))
    return folder


def run(tasks, task, model_args, out, *more, start=(COMMAND,)):
    """Run the command without the network.

    Returns:
        The process, the results, and the logged samples in the order of the documents; both None without results.
    """
    home = {"HF_HOME": str(out / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*start, "eval", "--model", "mmhall", "--model_args", model_args, "--include_path", tasks, "--tasks", task,
         "--batch_size", "5", "--output_path", out, "--log_samples", *more],
        env={**os.environ, **home}, cwd=out, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(file.read_text()) for file in out.glob("*/*_results.json")]
    if not results:
        return done, None, None
    rows = [json.loads(line) for file in out.glob("*/*_samples_*.jsonl") for line in file.read_text().splitlines()]
    return done, results[0], sorted(rows, key=lambda row: row["doc_id"])


def test_answers_are_what_generate_gives_token_for_token(documents, tasks, embedded, tmp_path):
    args = "pretrained=embedded,strategy=vdd,alpha=1.5,free=none+unk,device=cpu,tuned=none"
    done, results, rows = run(tasks, "drawn_yes_no", args, tmp_path)
    spec = "vdd(alpha=1.5, free='none+unk')"
    own = [embedded.generate(d["image"], d["question"], spec, max_new_tokens=16) for d in documents]
    assert [row["filtered_resps"] for row in rows] == [answer.text for answer in own]
    assert [row["token_counts"][0]["output_tokens"] for row in rows] == [answer.usage.new_tokens for answer in own]
    right = [a.text.lower().startswith(d["label"]) for a, d in zip(own, documents, strict=True)]
    assert results["results"]["drawn_yes_no"]["right,none"] == pytest.approx(sum(right) / len(right))
    assert results["config"]["model_args"] == args
    assert f"mmhall ({args})" in done.stdout
    assert "strategy vdd(alpha=1.5, beta=0.1, free='none+unk', seed=0)" in done.stdout + done.stderr
    plain = embedded.generate_batch([(d["image"], d["question"]) for d in documents], max_new_tokens=16)
    assert [a.text for a in plain] != [a.text for a in own]


def test_two_processes_share_the_documents(documents, tasks, embedded, tmp_path):
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "lmms_eval")
    args = "pretrained=embedded,strategy=vhr+vcd,vcd.alpha=0.5,vhr.layers=50%:,tuned=none,max_new_tokens=6"
    _, _, rows = run(tasks, "drawn_yes_no", args, tmp_path, "--limit", "11", start=start)
    asked = [(d["image"], d["question"]) for d in documents[:11]]
    own = embedded.generate_batch(asked, "vhr(layers='50%:')+vcd(alpha=0.5)", max_new_tokens=6)
    assert [row["filtered_resps"] for row in rows] == [answer.text for answer in own]


def test_tasks_that_rank_given_answers_and_unknown_options_are_refused(documents, tasks, tmp_path):
    done, results, _ = run(tasks, "drawn_choice", "strategy=vcd", tmp_path)
    assert results is None
    assert "drawn_choice: ranks given answers" in done.stdout + done.stderr
