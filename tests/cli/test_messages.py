"""Messages from a file: what is asked, and how a file that cannot be used reads."""

from __future__ import annotations

import json
import os

import pytest

import mmhall

IMAGE = {"type": "image"}


@pytest.fixture
def asking(tmp_path):
    """Write messages into a folder of their own, and return the file."""

    def write(messages):
        folder = tmp_path / "chats"
        folder.mkdir(exist_ok=True)
        file = folder / "chat.json"
        file.write_text(messages if isinstance(messages, str) else json.dumps(messages), encoding="utf-8")
        return file

    return write


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(words):
    return {"type": "text", "text": words}


@pytest.mark.slow
def test_generate_and_choose_ask_messages_with_pictures_beside_the_file(
    cli, asking, model_folder, picture_file, pictures, tmp_path
):
    """One picture comes from the file's own folder, one from the command line; the answer is that of LVLM."""
    messages = [
        {"role": "system", "content": "Be brief."},
        user(text("First:"), {"type": "image", "path": "other.png"}, text("Second:"), IMAGE, text("What is this?")),
    ]
    file = asking(messages)
    pictures[1].save(file.with_name("other.png"))
    lvlm = mmhall.load(str(model_folder))
    messages[1]["content"][1] = IMAGE
    own = lvlm.generate([pictures[1], pictures[0]], messages, "vdd", max_new_tokens=5)
    asked = (picture_file, "--messages", file, "--model", model_folder)
    told = cli("generate", *asked, "--strategy", "vdd", "--max-new-tokens", "5", "--json")
    assert json.loads(told.stdout)["token_ids"] == list(own.token_ids)
    assert cli("generate", *asked, "--strategy", "vdd", "--max-new-tokens", "5").stdout == own.text + "\n"
    chosen = json.loads(cli("choose", *asked, "--json").stdout)
    wanted = lvlm.choose([pictures[1], pictures[0]], messages)
    assert chosen["probabilities"] == pytest.approx(wanted.probabilities)
    assert cli("generate", *asked, "--max-new-tokens", "5", "--heatmap", "heat.png").returncode == 0


def test_messages_need_no_picture(cli, asking, model_folder):
    file = asking([user(text("What is a cat?"))])
    assert cli("generate", "--messages", file, "--model", model_folder, "--max-new-tokens", "2").returncode == 0


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("", "chat.json: is no JSON (Expecting value: line 1 column 1 (char 0)); expected a JSON list of messages"),
        ('[{"role": "user"', "chat.json: is no JSON ("),
        ('{"role": "user", "content": "What?"}', "chat.json: holds no list; expected a JSON list of messages"),
        ('"What?"', "chat.json: holds no list; expected a JSON list of messages"),
        ([], "chat.json: the list of messages is empty"),
        ([{"role": "user"}], "chat.json: message 1: content must be text or a list of parts, got NoneType"),
        ([user(IMAGE, text("a"))], "chat.json: the messages leave 1 of their pictures to the image argument"),
        ([user(IMAGE | {"path": "gone.png"}, text("a"))], "chats/gone.png: does not exist"),
        ([user(IMAGE | {"url": "http://a/b.png"}, text("a"))], "message 1, part 1: url is not read"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_told_before_a_model_is_loaded(refused, asking, messages, said):
    for command in ("generate", "choose"):
        assert said in refused(command, "--messages", asking(messages), "--model", "nowhere/at-all")


def test_a_file_that_is_none_is_told(refused, tmp_path):
    assert "mmhall: gone.json: does not exist; expected a JSON list" in refused("generate", "--messages", "gone.json")
    assert "is a folder" in refused("generate", "--messages", tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    assert "is a pipe" in refused("choose", "--messages", "pipe.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfd\x00")
    assert "bytes.json: is no UTF-8 text; expected a JSON list" in refused("choose", "--messages", "bytes.json")


def test_a_prompt_beside_messages_and_neither_are_told(refused, asking, picture_file):
    file = asking([user(text("a"))])
    for command in ("generate", "choose"):
        assert "chat.json holds what is asked, and a prompt is given too" in refused(
            command, picture_file, "What?", "--messages", file
        )
        assert "leave 0 of their pictures to the image argument, which gives 1" in refused(
            command, picture_file, "--messages", file
        )
        assert "a picture is missing; give a picture file and what to ask, or --messages FILE" in refused(command)
    assert "a question is missing; give a picture file and what to ask" in refused("choose", picture_file)
