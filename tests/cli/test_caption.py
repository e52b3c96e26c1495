"""mmhall caption: pictures without annotations, a line of JSON for each picture and strategy."""

from __future__ import annotations

import json
import shutil

import pytest

from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
from mmhall.lvlm import LVLM

ASKED = ("--strategy", "greedy", "--strategy", "vcd(alpha=0.5)", "--max-new-tokens", "4", "--batch-size", "2")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 4, 3))
    return folder


@pytest.fixture
def pictures(scenes, tmp_path):
    """Three pictures, one of them in a subfolder; a damaged one, and files that are none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, place in (("000001.png", "."), ("000002.png", "."), ("000003.png", "more")):
        shutil.copy(scenes / name, folder / place)
    (folder / "a-broken.png").write_bytes((scenes / "000004.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("no picture")
    (folder / "._000001.png").write_bytes(b"hidden")
    return folder


@pytest.fixture
def caption(cli, pictures, model_folder):
    def run(*more):
        return cli("caption", pictures, "--out", "answers.jsonl", "--model", model_folder, *ASKED, *more)

    return run


def lines(folder):
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def by_name(folder):
    return {(line["image"], line["strategy"]): line for line in lines(folder)}


@pytest.mark.slow
def test_every_picture_has_a_line_for_each_strategy(caption, cli, scenes, model_folder, tmp_path):
    done = caption()
    assert done.returncode == 0, done.stderr
    assert "answers.jsonl has 6 of 8 answers" in done.stderr
    assert "no answer to a-broken.png: is damaged or truncated" in done.stderr
    found = by_name(tmp_path)
    names = {"a-broken.png", "000001.png", "000002.png", "more/000003.png"}
    assert found.keys() == {(name, strategy) for name in names for strategy in ("greedy", "vcd(alpha=0.5)")}
    for (name, strategy), line in found.items():
        assert line["prompt"] == "Please describe this image in detail."
        assert line["model"]["model"] == str(model_folder)
        if name == "a-broken.png":
            assert "damaged" in line["error"]
            assert "text" not in line
            continue
        alone = cli(
            *("generate", scenes / name.rpartition("/")[2], "--json", "--model", model_folder),
            *("--strategy", strategy, "--max-new-tokens", "4"),
        )
        answer = json.loads(alone.stdout)
        assert (line["text"], line["fitted"], line["settings"]) == tuple(
            answer[key] for key in ("text", "strategy", "settings")
        )


@pytest.mark.slow
def test_a_stopped_file_goes_on_and_nothing_is_asked_again(caption, tmp_path, monkeypatch):
    assert caption().returncode == 0
    whole, file = by_name(tmp_path), tmp_path / "answers.jsonl"
    kept = [line for line in file.read_text().splitlines(keepends=True) if "error" not in line][:3]
    file.write_text("".join(kept) + kept[0][: len(kept[0]) // 2])  # the process was killed while it wrote
    asked = []

    def counting(self, requests, *args, **more):
        asked.append(len(requests))
        return generate(self, requests, *args, **more)

    generate = LVLM.generate_batch
    monkeypatch.setattr(LVLM, "generate_batch", counting)
    assert caption().returncode == 0
    assert sum(asked) == 3
    assert by_name(tmp_path) == whole
    assert len(lines(tmp_path)) == 8
    assert caption("--strategy", "vdd").returncode == 0  # another strategy joins the file
    assert sum(asked) == 6
    assert len(lines(tmp_path)) == 12
    assert len(by_name(tmp_path)) == 12


@pytest.mark.slow
def test_a_file_goes_on_wherever_it_was_cut_and_whatever_its_texts_hold(caption, tmp_path):
    """A text may hold line separators; a cut may split a letter, or take nothing but the last end of a line."""
    told = ("--prompt", "Was siehst du?\u2028Für dich\u0085")
    assert caption(*told).returncode == 0
    file = tmp_path / "answers.jsonl"
    whole = sorted(line for line in file.read_bytes().split(b"\n") if b'"error"' not in line)
    start = file.read_bytes()
    for content in (start, start[:-1], start[: start.rindex("ü".encode()) + 1]):
        file.write_bytes(content)
        done = caption(*told)
        assert "has 6 of 8 answers" in done.stderr, done.stderr
        assert sorted(line for line in file.read_bytes().split(b"\n") if b'"error"' not in line) == whole


@pytest.mark.slow
def test_a_strategy_with_other_options_in_force_is_refused(caption, tmp_path):
    assert caption().returncode == 0
    file = tmp_path / "answers.jsonl"
    text = file.read_text().replace('"fitted": "vcd(alpha=0.5', '"fitted": "vcd(alpha=0.7')
    file.write_text(text)
    done = caption()
    assert done.returncode == 2
    assert "was made with fitted 'vcd(alpha=0.7" in done.stderr


@pytest.mark.slow
def test_the_mended_picture_is_asked_again(caption, pictures, scenes, tmp_path):
    caption()
    shutil.copy(scenes / "000004.png", pictures / "a-broken.png")
    assert "has 8 of 8 answers" in caption().stderr
    assert not any("error" in line for line in lines(tmp_path))


@pytest.mark.slow
def test_out_of_memory_halves_the_batch(caption, monkeypatch, tmp_path):
    generate = LVLM.generate_batch

    def small(self, requests, *args, **more):
        if len(requests) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return generate(self, requests, *args, **more)

    monkeypatch.setattr(LVLM, "generate_batch", small)
    assert "has 6 of 8 answers" in caption().stderr


@pytest.mark.slow
def test_score_reads_the_file(caption, cli, scenes):
    caption()
    done = cli("score", "chair", "answers.jsonl", "--data", scenes / ANNOTATIONS, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["setup"]["strategies"] == ["greedy", "vcd(alpha=0.5)"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--max-new-tokens", "5"), "line 1: was made with max_new_tokens 4, not 5"),
        (("--strategy", "greedy"), "each named once"),
        (("--batch-size", "0"), "batch_size must be an integer >= 1"),
        (("--prompt", " "), "prompt must be a text"),
        (("--prompt", "a \udcff"), "prompt must be a text in UTF-8"),
    ],
)
def test_what_cannot_go_on_is_refused(caption, pictures, more, told):
    (pictures / "a-broken.png").unlink()
    assert caption().returncode == 0
    done = caption(*more)
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.slow
def test_a_folder_without_pictures_and_a_foreign_file_are_refused(refused, caption, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refused("caption", "empty", "--out", "a.jsonl")
    assert "does not exist" in refused("caption", "nowhere", "--out", "a.jsonl")
    for foreign in ('{"question_id": 1, "answer": "Yes"}', '{"image": 1, "prompt": "", "strategy": "", "model": "x"}'):
        (tmp_path / "answers.jsonl").write_text(f"{foreign}\n")
        assert "line 1: is not of `mmhall caption`" in caption().stderr
