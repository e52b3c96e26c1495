"""Opening and closing the page: who may reach it, what it leaves behind, and what the command line refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from mmhall.demo.app import MODEL_QUEUE, PAGE_QUEUE, make_page
from mmhall.demo.serve import Address, serving
from mmhall.demo.state import AppState
from mmhall.errors import ModelError, OptionError
from tests.demo.visitor import Visitor

pytestmark = pytest.mark.slow

get, post = partial(httpx.get, timeout=60), partial(httpx.post, timeout=60)


@pytest.fixture
def room_kept(monkeypatch):
    """Another page may be open in this process: its folder is named in the environment."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))


def other_address():
    """An address of this machine that is not the loopback's, None if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("10.255.255.255", 1))  # nothing is sent
        except OSError:
            return None
        found = asked.getsockname()[0]
    return None if found.startswith(("127.", "0.")) else found


def test_an_upload_lives_as_long_as_the_page(room_kept, tmp_path, monkeypatch, scene):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with serving(Future(), Address(port=0)) as url, Visitor(url) as somebody:
        path = Path(somebody.upload(scene.image))
        (room,) = tmp_path.glob("mmhall-demo-*")
        assert path.is_relative_to(room)
        assert path.is_file()
        assert room.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.iterdir())


def test_who_must_log_in_does(room_kept):
    with serving(Future(), Address(port=0, auth=("me", "secret"))) as url:
        for path in (
            "config",
            "gradio_api/info",
            "gradio_api/queue/data?session_hash=x",
        ):
            assert get(url + path).status_code == 401, path
        assert get(url + "gradio_api/file=/etc/passwd").status_code == 403
        join = {"fn_index": 0, "data": [], "session_hash": "x"}
        assert post(url + "gradio_api/queue/join", json=join).status_code == 401
        assert post(url + "gradio_api/call/about", json={"data": []}).status_code == 401
        assert post(url + "gradio_api/mcp/", json={}).status_code in (401, 404)
        assert post(url + "gradio_api/upload", files={"files": b"x"}).status_code == 401
        for wrong in ({"username": "me", "password": "wrong"}, {"username": "you", "password": "secret"}):
            assert post(url + "login", data=wrong).status_code == 400
        with httpx.Client(base_url=url, timeout=60) as somebody:
            for page in ("", "api"):
                assert 'name="password"' in somebody.get(page).text
            assert somebody.post("login", data={"username": "me", "password": "secret"}).status_code == 200
            assert somebody.get("config").status_code == 200
            path = somebody.post("gradio_api/upload", files={"files": b"x"}).json()[0]
            assert somebody.get(f"gradio_api/file={path}").status_code == 200
            assert get(f"{url}gradio_api/file={path}").status_code == 401
            for page in ("", "api"):
                assert 'name="password"' not in somebody.get(page).text
        forged = {f"access-token-{name}": "x" for name in ("", "unsecure-", "None")}
        assert 'name="password"' in get(url, cookies=forged).text


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"127.0.0.1:{port}"), serving(Future(), Address(port=port)):
            pass


def test_the_page_is_private_unless_told_otherwise():
    assert (Address().host, Address().share, Address().auth) == ("127.0.0.1", False, None)


def queues(tmp_path):
    """The names of functions, by the queue in which they wait and how many run at once."""
    blocks, _ = make_page(AppState(Future(), tmp_path), tmp_path)
    found = {}
    for function in blocks.fns.values():
        found.setdefault((function.concurrency_id, function.concurrency_limit), set()).add(function.api_name)
    return found


def test_functions_wait_for_what_they_need_only(room_kept, tmp_path):
    found = queues(tmp_path)
    model = found.pop(tuple(MODEL_QUEUE.values()))
    assert model == {"compare", "gaze", "gaze_heads", "saliency", "lens", "probe"}
    assert MODEL_QUEUE["concurrency_limit"] == 1
    assert {"run", "items", "item", "exports"} <= found.pop(tuple(PAGE_QUEUE.values()))
    assert found.pop(("tables", 1)) == {"tables"}
    ((limit, quick),) = [(limit, names) for (_, limit), names in found.items()]
    assert limit is None
    assert {"about", "stop", "judge", "presets", "options", "receive"} == quick


def test_nobody_waits_for_a_model_that_is_being_loaded(room_kept, embedded):
    model = Future()
    with serving(model, Address(port=0)) as url, ExitStack() as stack:
        visitors = [stack.enter_context(Visitor(url)) for _ in range(12)]
        with ThreadPoolExecutor(len(visitors)) as pool:
            told = list(pool.map(lambda somebody: somebody.call("about").value, visitors))
        for one in told:
            assert one["model"]["state"] == "loading"
            assert [entry["name"] for entry in one["groups"][0]["strategies"]][:2] == ["greedy", "vcd"]
        assert "still being loaded" in visitors[0].call("options", "vcd").error
        assert get(url).status_code == 200
        event = visitors[1].join(
            visitors[1].number("compare"), [{"scene": 4}, "What?", ["greedy"], {"max_new_tokens": 2}]
        )
        model.set_result(embedded)
        (reply,) = visitors[1].wait(event.json()["event_id"])
        assert reply.value["columns"][0]["tokens"] == 2  # waited for the model
        one = visitors[7].call("about").value
        assert one["model"]["state"] == "ready"
        assert "opera" in json.dumps(one["groups"])


def test_a_model_that_cannot_be_loaded_is_told(room_kept):
    model = Future()
    with serving(model, Address(port=0)) as url, Visitor(url) as somebody:
        model.set_exception(ModelError("/home/me/secret: no such folder"))
        told = somebody.call("about").value
        assert (told["model"]["state"], "could not be loaded" in told["model"]["error"]) == ("failed", True)
        for name, data in (("options", ["vcd"]), ("compare", [{"scene": 4}, "What?", ["greedy"], None]), ("runs", [])):
            reply = somebody.call(name, *data)
            assert "could not be loaded" in reply.error
            assert "secret" not in reply.raw


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_the_page_is_at_an_address_of_version_6(room_kept, host):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(Future(), Address(host, port=0)) as url:
        assert url.startswith("http://[::1]:")
        assert get(url).status_code == 200


@pytest.mark.parametrize("host", ["2001:db8::1", "203.0.113.9", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_refused(host):
    with pytest.raises(OptionError, match=r"host must be .*of this machine"), serving(Future(), Address(host, port=0)):
        pass


def test_the_owner_sees_what_was_told_as_not_found(room_kept, caplog):
    with serving(Future(), Address(port=0)) as url:
        join = {"fn_index": 99999, "data": [], "session_hash": "x"}
        assert post(url + "gradio_api/queue/join", json=join).status_code == 404
    (record,) = [record for record in caplog.records if record.name == "mmhall.demo.guard"]
    assert record.exc_info
    assert record.levelname == "ERROR"


# The command, which loads its model once a line is written to it, and tells then which libraries it has imported.
PATIENT = """
import sys
import mmhall
from mmhall.cli import main

def load(*arguments, **options):
    sys.stdin.readline()
    print(sorted({"torch", "transformers", "torchvision"} & set(sys.modules)), flush=True)
    from mmhall.loading import load
    return load(*arguments, **options)

mmhall.load = load
main()
"""


def test_the_command_opens_a_page_before_it_imports_torch_and_leaves_nothing(tmp_path, scene):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("GRADIO_TEMP_DIR", None)
    with subprocess.Popen(
        [sys.executable, "-c", PATIENT, "demo", "--port", "0"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        found = re.fullmatch(r"mmhall demo: (http://127\.0\.0\.1:(\d+)/)\n", running.stdout.readline())
        assert found
        url, port = found[1], int(found[2])
        assert get(url).status_code == 200
        with Visitor(url) as somebody:
            assert somebody.call("about").value["model"]["state"] == "loading"
            assert somebody.call("presets", {"picture": {"scene": 4}}).error is None
        running.stdin.write("\n")
        running.stdin.flush()
        assert running.stdout.readline() == "[]\n"
        with Visitor(url) as somebody:
            path = Path(somebody.upload(scene.image))
        (room,) = tmp_path.glob("mmhall-demo-*")
        assert path.is_relative_to(room)
        elsewhere = other_address()
        if elsewhere is not None:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((elsewhere, port), timeout=5).close()
        assert "loaded" in running.stdout.readline()
        assert get(url).status_code == 200
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=120)
    assert running.returncode == 0
    assert "Traceback" not in said
    assert not list(tmp_path.glob("mmhall-demo-*"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "no.such.host.invalid"], "host"),
        (["--port", "99999"], "port must be .* 65535, got 99999"),
        (["--port", "-1"], "port must be .* 65535, got -1"),
        (["--model", "./no/such/folder"], "no/such/folder: no such folder"),
        (["--model", "EMPTY"], "EMPTY: holds no config.json"),
        (["--runs", "nowhere"], "nowhere: no such folder; give one that holds run folders"),
        (["--auth", "hunter2"], "auth must be written as user:password"),
        (["--auth", "hunter2:"], "auth must be written as user:password"),
        (["--auth", ":hunter2"], "auth must be written as user:password"),
        (["--strategy", "no_such_one"], "unknown strategy 'no_such_one'"),
        (["--strategy", "vcd(alpha=hunter)"], "vcd: options"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_refuses_in_one_line(cli, room_kept, arguments, told, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    port = [] if "--port" in arguments else ["--port", "0"]
    done = cli("demo", *port, *arguments)
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("mmhall: ")
    assert re.search(told, line)
    assert "hunter2" not in line
    assert done.stdout == ""


def test_the_command_refuses_a_taken_port(cli, room_kept):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("demo", "--port", port)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line
