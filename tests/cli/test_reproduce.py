"""`mmhall reproduce` on a tiny random LLaVA, with data in the published layouts."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sqlite3
import sys
from pathlib import Path

import pytest

from mmhall.benchmarks.reproduce.protocols import PROTOCOLS
from mmhall.benchmarks.run.runs import reopen
from mmhall.cli import main
from tests.benchmarks.conftest import picture, write_json, write_lines
from tests.cli.conftest import Done
from tests.conftest import make_random_llava

STEPS = ("pope-sampled", "chair-64", "amber")
CATEGORIES = ("dog", "cat", "cup", "car", "bus", "chair", "bottle")


@pytest.fixture(scope="module")
def model(processor, tmp_path_factory):
    """A random LLaVA with room for long answers, of which many tokens end one."""
    folder = tmp_path_factory.mktemp("tiny")
    llava = make_random_llava(processor)
    llava.config.text_config.max_position_embeddings = 4096
    llava.generation_config.eos_token_id = list(range(0, len(processor.tokenizer), 3))
    llava.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two pictures in COCO's layout with POPE's questions about them, and AMBER's files about two others."""
    root = tmp_path_factory.mktemp("data")
    coco, amber = root / "coco", root / "amber"
    names = [f"COCO_val2014_{n:012d}.jpg" for n in (1, 2)]
    objects = {1: (1, 2, 3), 2: (3, 4)}
    write_json(
        coco / "annotations" / "instances_val2014.json",
        {
            "images": [{"id": n, "file_name": name} for n, name in enumerate(names, 1)],
            "categories": [{"id": n, "name": name} for n, name in enumerate(CATEGORIES, 1)],
            "annotations": [
                {"id": 10 * image + kind, "image_id": image, "category_id": kind}
                for image, kinds in objects.items()
                for kind in kinds
            ],
        },
    )
    captions = [{"id": n, "image_id": n, "caption": "A dog beside a bus."} for n in objects]
    write_json(coco / "annotations" / "captions_val2014.json", {"annotations": captions})
    for name in names:
        picture(coco / "val2014" / name)
    for setting in ("random", "popular", "adversarial"):
        asked = [(image, label, thing) for image in names for label, thing in (("yes", "dog"), ("no", setting))]
        lines = [
            {"question_id": n, "image": image, "text": f"Is there a {thing} in the image?", "label": label}
            for n, (image, label, thing) in enumerate(asked, 1)
        ]
        write_lines(coco / "pope" / f"coco_pope_{setting}.json", lines)
    queries = [{"id": n, "image": f"AMBER_{n}.jpg", "query": "Describe this image."} for n in (1, 2)]
    notes = [{"id": n, "type": "generative", "truth": ["person"], "hallu": ["car"]} for n in (1, 2)]
    queries += [{"id": n + 2, "image": f"AMBER_{n}.jpg", "query": "Is there a cloud?"} for n in (1, 2)]
    notes += [{"id": n + 2, "type": "discriminative-hallucination", "truth": "no"} for n in (1, 2)]
    write_json(amber / "query_all.json", queries)
    write_json(amber / "annotations.json", notes)
    write_json(amber / "relation.json", {"person": ["man"], "car": []})
    (amber / "safe_words.txt").write_text("light")
    for n in (1, 2):
        picture(amber / "image" / f"AMBER_{n}.jpg", "blue")
    return root


def call(*arguments: object) -> Done:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patched.setattr(sys, "argv", ["mmhall", "reproduce", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def asked(model, data, tmp_path_factory):
    """The arguments of one call of three steps."""
    out = tmp_path_factory.mktemp("out") / "run"
    chosen = [word for name in STEPS for word in ("--step", name)]
    given = ("--coco", data / "coco", "--amber", data / "amber", "--limit", 2, "--batch-size", 8)
    return ("--model", model, "--protocol", "llava-1.5-7b", *given, *chosen, "--out", out), out


@pytest.fixture(scope="module")
def planned(asked):
    done = call(*asked[0], "--plan")
    assert done.returncode == 0, done
    assert not asked[1].exists()
    return done.stdout


@pytest.fixture(scope="module")
def reproduced(asked, planned):
    done = call(*asked[0])
    assert done.returncode == 0, done
    return done


def rows(out: Path) -> dict[str, list[object]]:
    """Every stored row of every step, with the time it took."""
    found = {}
    for name in STEPS:
        with contextlib.closing(sqlite3.connect(out / name / "run.sqlite")) as connection:
            found[name] = connection.execute("select * from answers order by 1, 2, 3").fetchall()
    return found


@pytest.mark.slow
def test_the_plan_counts_the_answers_that_are_then_given(asked, planned, reproduced):
    """8 distinct questions x 5, 2 captions x 5, 2 captions and 2 questions x 2."""
    counted = [int(number) for number in re.findall(r"^  (\d+) answers", planned, re.MULTILINE)]
    given = [reopen(asked[1] / name).answered for name in STEPS]
    assert counted == given == [40, 10, 8]
    assert f"together: {sum(counted)} answers" in planned
    assert "from the hub: nothing" in planned
    assert re.search(r"time: about [\d.]+ (s|min)", planned)
    assert all(len(line) <= 100 for line in planned.splitlines())


def test_the_page_says_what_it_is_and_compares(asked, reproduced):
    page = (asked[1] / "reproduction.md").read_text()
    assert page.strip() == reproduced.stdout.strip()
    assert "Rehearsal on a tiny model, random or taught something else" in page
    assert "### pope, arXiv:2311.16922" in page
    assert "### chair, arXiv:2311.17911" in page
    (line,) = [line for line in page.splitlines() if line.startswith("| `vcd(beta=0.2)` | random, accuracy |")]
    assert line.split(" | ")[2] == "87.73"
    assert "decoding:" not in page.split("### pope, arXiv:2311.16922")[1].split("###")[0], "both are sampled"
    assert "- answer rule: wordnet there, mmhall here" in page
    assert "AMBER score" in page
    assert "> baseline | > twins | > plain" in page
    folders = " ".join(str(asked[1] / name) for name in ("pope-sampled", "chair-64", "amber"))
    assert f"`mmhall report {folders} --html report.html`" in page


@pytest.mark.slow
def test_the_same_command_asks_nothing_anew(asked, reproduced):
    before = rows(asked[1])
    again = call(*asked[0])
    assert again.returncode == 0
    assert again.stdout == reproduced.stdout
    assert not re.search("^step ", again.stderr, re.MULTILINE)
    assert re.search("^step ", reproduced.stderr, re.MULTILINE)
    assert rows(asked[1]) == before


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_what_is_missing(asked, reproduced):
    """One answer is taken away: only that one is asked again, and with the same result."""
    before = rows(asked[1])
    with contextlib.closing(sqlite3.connect(asked[1] / "chair-64" / "run.sqlite")) as connection:
        connection.execute("delete from answers where strategy = 'dola' and item = '2'")
        connection.execute("delete from leases")
        connection.commit()
    assert call(*asked[0]).returncode == 0
    after = rows(asked[1])
    changed = [old for old, new in zip(before["chair-64"], after["chair-64"], strict=True) if old != new]
    assert [(row[1], row[2]) for row in changed] == [("2", "dola")]
    assert [row[3] for row in after["chair-64"]] == [row[3] for row in before["chair-64"]]
    assert (after["amber"], after["pope-sampled"]) == (before["amber"], before["pope-sampled"])


def test_the_record_holds_what_was_asked_and_another_set_up_is_refused(asked, reproduced):
    record = json.loads((asked[1] / "reproduce.json").read_text())
    assert (record["protocol"], record["limit"], record["revision"]) == ("llava-1.5-7b", 2, None)
    assert record["revision_from"] == "a local model, without a revision"
    done = call(*asked[0], "--twins", 1)
    assert done.returncode == 2
    assert "was started with twins 0, not 1" in done.stderr


def test_bad_input_is_one_line(asked, data, tmp_path):
    _, model, *_ = asked[0]
    for arguments, message in (
        (("--model", model), "unknown protocol of model"),
        (("--model", model, "--protocol", "llava-1.6"), "unknown protocol 'llava-1.6'; did you mean"),
        (("--model", model, "--protocol", "llava-1.5-7b", "--step", "chair"), "unknown step 'chair'"),
        (("--model", model, "--protocol", "llava-1.5-7b", "--limit", 0), "limit must be an integer >= 1"),
        (("--model", model, "--protocol", "llava-1.5-7b", "--coco", tmp_path / "no"), "give another --coco"),
        (
            ("--model", model, "--protocol", "llava-1.5-7b", "--step", "amber", "--out", tmp_path / "a"),
            "no step can run: AMBER: no data",
        ),
    ):
        done = call(*arguments)
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if message in line]
        assert line.startswith("mmhall: ")
        assert "Traceback" not in done.stderr


def test_the_plan_of_a_released_model_downloads_nothing(data):
    """Without the weights there are no seconds; numbers of items are the published ones, memory by formula."""
    done = call("--model", "llava-hf/llava-1.5-7b-hf", "--dtype", "float16", "--plan", "--step", "pope")
    assert done.returncode == 0, done
    told = " ".join(done.stdout.split())
    assert "llava-hf/llava-1.5-7b-hf@b234b804b114d9e37bb655e11cbbb5f5e971b7a9: to download, 14.1 GB" in told
    assert "lmms-lab-encoder/POPE@4db1276663dfa5eb8ad16a52d24c31a09e470896: to download, 0.5 GB" in told
    assert "5127 items (published number)" in told
    assert "time: not measured" in told
    assert "weights 14.1 GB" in told
    assert "524288 bytes a token and row" in told


@pytest.mark.slow
def test_a_whole_protocol_runs_on_another_family_with_a_warning(model, data, tmp_path):
    """All steps of the protocol for Qwen2.5-VL, on a LLaVA: the page says so first."""
    given = ("--coco", data / "coco", "--amber", data / "amber", "--limit", 1, "--batch-size", 8)
    done = call("--model", model, "--protocol", "qwen2.5-vl-7b", *given, "--out", tmp_path / "run")
    assert done.returncode == 0, done
    assert "Wrong family" in done.stdout
    assert [f"## {step.name}" in done.stdout for step in PROTOCOLS["qwen2.5-vl-7b"].steps] == [True] * 4
