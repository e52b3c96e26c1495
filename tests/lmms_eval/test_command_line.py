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
TASK = """
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_visual: !function utils.visuals
doc_to_text: !function utils.prompt
task: drawn
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
    return made


@pytest.fixture(scope="module")
def tasks(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    features = Features(image=Image(), question=Value("string"), label=Value("string"))
    Dataset.from_list(documents, features=features).to_parquet(folder / "scenes.parquet")
    (folder / "utils.py").write_text(UTILS)
    (folder / "drawn.yaml").write_text(TASK.format(data=folder / "scenes.parquet"))
    return folder


def run(tasks, model_args, out, *more, start=(COMMAND,)):
    """Run the command without the network.

    Returns:
        What was printed, the results, and the logged samples in the order of the documents.
    """
    home = {"HF_HOME": str(out / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*start, "eval", "--model", "mmhall", "--model_args", model_args, "--include_path", tasks, "--tasks", "drawn",
         "--batch_size", "5", "--output_path", out, "--log_samples", *more],
        env={**os.environ, **home}, cwd=out, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    found = [*out.glob("*/*_results.json"), *out.glob("*/*_samples_*.jsonl")]
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(found) == 2, done.stdout + done.stderr  # after an error lmms-eval exits with 0 all the same
    results, samples = found
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return done.stdout + done.stderr, json.loads(results.read_text()), sorted(rows, key=lambda row: row["doc_id"])


def test_answers_are_what_generate_gives_token_for_token(documents, tasks, embedded, tmp_path):
    args = "pretrained=embedded,strategy=vdd,alpha=1.5,free=none+unk,device=cpu,tuned=none"
    printed, results, rows = run(tasks, args, tmp_path)
    spec = "vdd(alpha=1.5, free='none+unk')"
    own = [embedded.generate(d["image"], d["question"], spec, max_new_tokens=16) for d in documents]
    assert [row["filtered_resps"] for row in rows] == [answer.text for answer in own]
    assert [row["token_counts"][0]["output_tokens"] for row in rows] == [answer.usage.new_tokens for answer in own]
    right = [a.text.lower().startswith(d["label"]) for a, d in zip(own, documents, strict=True)]
    assert results["results"]["drawn"]["right,none"] == pytest.approx(sum(right) / len(right))
    assert results["config"]["model_args"] == args
    assert f"mmhall ({args})" in printed
    assert "strategy vdd(alpha=1.5, beta=0.1, free='none+unk', seed=0)" in printed
    plain = embedded.generate_batch([(d["image"], d["question"]) for d in documents], max_new_tokens=16)
    assert [a.text for a in plain] != [a.text for a in own]


def test_two_processes_share_the_documents(documents, tasks, embedded, tmp_path):
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "lmms_eval")
    args = "pretrained=embedded,strategy=vhr+vcd,vcd.alpha=0.5,vhr.layers=50%:,tuned=none,max_new_tokens=6"
    _, _, rows = run(tasks, args, tmp_path, "--limit", "11", start=start)
    asked = [(d["image"], d["question"]) for d in documents[:11]]
    own = embedded.generate_batch(asked, "vhr(layers='50%:')+vcd(alpha=0.5)", max_new_tokens=6)
    assert [row["filtered_resps"] for row in rows] == [answer.text for answer in own]
