"""What a stranger's client may send instead of a picture, and ask for instead of an upload: nothing comes of it."""

from __future__ import annotations

import base64
import http.client
import io
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.demo.visitor import FILE, as_file

pytestmark = pytest.mark.slow

ONLY_PICTURES = "only the picture field takes a file"


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A real picture that was never uploaded."""
    path = tmp_path_factory.mktemp("private") / "secret.png"
    Image.new("RGB", (64, 64), "red").save(path)
    return path


@pytest.fixture(scope="module")
def listener():
    """An HTTP server that notes what it is asked for, and has a picture for everybody."""
    asked = []
    written = io.BytesIO()
    Image.new("RGB", (64, 64), "blue").save(written, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.end_headers()
            self.wfile.write(written.getvalue())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def paths(secret, address):
    """What may be named instead of an upload; those first deserve to be sent in every shape."""
    room = os.environ["GRADIO_TEMP_DIR"]
    up = "/".join([".."] * 12)
    inline = "data:image/png;base64," + base64.b64encode(secret.read_bytes()).decode()
    main = [str(secret), "/etc/passwd", f"http://{address}/x.png", "https://example.com/x.png"]
    others = [
        f"{room}/{up}{secret}",
        f"{up}{secret}",
        f"{room}/" + up.replace(".", "%2e") + str(secret),
        f"{room}/" + up.replace(".", "%252e") + str(secret),
        f"{room}/" + up.replace("../", "..%2f") + str(secret),
        str(secret).upper(),
        f"file://{secret}",
        f"FILE://{secret}",
        f"file:{secret}",
        f"HTTP://{address}/x.png",
        f"hTTps://{address}/x.png",
        f"//{address}/x.png",
        f"http:/{address}/x.png",
        f"/gradio_api/file={secret}",
        f"/gradio_api/file=http://{address}/x.png",
        f"gopher://{address}/x",
        "C:/../Windows/win.ini",
        "C:\\Windows\\win.ini",
        "\\\\127.0.0.1\\share\\x.png",
        "~/.bashrc",
        "",
        ".",
        room,
        "/dev/zero",
        f"{secret}\0.png",
        "\0",
        "\ud800",
        "x" * 100_000,
        inline,
    ]
    return main, others


def shapes(path):
    """How a client may name a path."""
    return [
        as_file(path),
        {"path": path},
        {"path": path, "meta": None},
        {"path": path, "meta": {"_type": "gradio.Other"}},
        {"path": path, "meta": {}},
        {"path": path, "meta": [FILE]},
        as_file(path, url=path),
        as_file(None, url=path),
        {"url": path},
        as_file(path, orig_name="x.svg", mime_type="image/svg+xml"),
        as_file(path, is_stream=True),
        path,
        [as_file(path)],
        {"image": as_file(path)},
    ]


def payloads(secret, address, quick=False):
    main, others = paths(secret, address)
    if quick:
        yield from map(as_file, main)
        return
    yield from (shape for path in main[1:3] for shape in shapes(path))
    yield from (as_file(path) for path in (*main, *others))
    yield from (7, 1.5, True, [], [[]], {}, float("nan"), {"path": 5, "meta": FILE}, {"path": ["/etc/passwd"]})


def refused(reply):
    """Whether an event was refused in plain words, of which Gradio makes a toast."""
    assert reply.data is None, reply.data
    assert reply.error
    assert "\n" not in reply.error
    assert len(reply.error) < 3000
    for trace in ("Traceback", 'File "', "site-packages", "root:"):
        assert trace not in reply.raw
    return True


def fields(visitor, event, image):
    """What the page sends along with a picture."""
    specs = ["greedy", "vcd", "vdd", "vhr"]
    return {
        "compare": [image, "What is in this image?", ["greedy"], {"max_new_tokens": 2}],
        "probe": [image, "cup", ["greedy"], None],
        "answer": [None, image, None, "What is in this image?", 2, 0, 0, [], None, 2, *specs],
        "answer_1": [None, image, "cup", [], None, 2, *specs],
        "own": [image],
    }[event]


@pytest.mark.parametrize(
    ("event", "quick"),
    [("compare", False), ("probe", True), ("own", True), ("answer", True), ("answer_1", True)],  # own's field
)
def test_a_picture_is_an_upload_or_nothing(visitor, secret, listener, event, quick):
    address, asked = listener
    number = visitor.event(event)["id"]
    sent = list(payloads(secret, address, quick))
    replies = visitor.asks((number, fields(visitor, event, payload)) for payload in sent)
    for payload, reply in zip(sent, replies, strict=True):
        assert refused(reply), payload
    assert asked == []
    uploaded = visitor.upload(Image.open(secret))
    assert visitor.ask(number, fields(visitor, event, as_file(uploaded))).error is None


def test_no_other_field_takes_a_file(visitor, secret, listener):
    address, asked = listener
    image = as_file(visitor.upload(Image.open(secret)))
    files = map(as_file, (image["path"], f"http://{address}/x.png"))
    values = [value for file in files for value in (file, [file], {"present": [file]}, {"a": {"b": [[file]]}})]
    for name in ("compare", "probe"):
        sent = [instead(fields(visitor, name, image), at, value) for at in (1, 2, 3) for value in values]
        for reply in visitor.asks((visitor.event(name)["id"], one) for one in sent):
            assert refused(reply)
            assert reply.error == ONLY_PICTURES
    elsewhere = as_file(f"http://{address}/x.png", url=f"http://{address}/x.png")
    for reply in visitor.asks(
        (event["id"], instead([None] * len(event["inputs"]), event["id"] % len(event["inputs"]), elsewhere))
        for event in visitor.config["dependencies"]
        if event["inputs"]
    ):
        assert "Traceback" not in reply.raw
    assert asked == []


def instead(sent, at, value):
    return [*sent[:at], value, *sent[at + 1 :]]


@pytest.mark.parametrize("kind", ["text", "torn", "huge", "svg"])
def test_an_unusable_upload_is_refused_without_saying_where_it_lies(visitor, secret, kind):
    written = io.BytesIO()
    Image.new("1", (6000, 5000)).save(written, "PNG")
    data = {
        "text": b"no picture",
        "torn": secret.read_bytes()[:60],
        "huge": written.getvalue(),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    }[kind]
    path = visitor.upload(data, "x.svg" if kind == "svg" else "x.png")
    for event in ("compare", "own"):
        reply = visitor.ask(visitor.event(event)["id"], fields(visitor, event, as_file(path)))
        assert refused(reply)
        assert reply.error.startswith("this picture ")
        assert os.environ["GRADIO_TEMP_DIR"] not in reply.error


def get(url, path, method="GET"):
    """Request a path exactly as written."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


FILES = (
    "/gradio_api/file=",
    "/gradio_api/FILE=",
    "/gradio_api/File=",
    "/file=",
    "/gradio_api/file/",
    "/gradio_api/%66ile=",
)


def test_nothing_but_uploads_is_served(visitor, page_url, secret):
    up, deep = "/".join([".."] * 12), str(secret)
    room = os.environ["GRADIO_TEMP_DIR"]
    here = str(Path("pyproject.toml").absolute())
    targets = [deep, "/etc/passwd", here, "/proc/self/environ", "/dev/zero", room, f"{room}/{up}{deep}", up + deep]
    encoded = [one.replace("/", "%2f").replace(".", "%2e") for one in targets]
    twice = [one.replace("%", "%25") for one in encoded]
    schemes = [f"file://{deep}", f"FILE:%2f%2f{deep}", f"file:{deep}", f"{deep}%00.png", "%00", "~/.bashrc", "C:/x"]
    for prefix in FILES:
        for target in [*targets, *encoded, *twice, *schemes]:
            for method in ("GET", "HEAD") if prefix == FILES[0] else ("GET",):
                status, body = get(page_url, prefix + target, method)
                assert status in (403, 404, 405), (prefix, target, status)
                assert secret.read_bytes() not in body
    for folder in (
        "/static/",
        "/assets/",
        "/svelte/",
        "/gradio_api/custom_component/1/client/component/",
        "/pwa_icon/",
    ):
        for target in [*targets, *encoded, *twice]:
            status, body = get(page_url, folder + target)
            assert status in (400, 403, 404, 422), (folder, target, status)
            assert b"root:" not in body
    uploaded = visitor.upload(Image.open(secret))
    assert get(page_url, f"/gradio_api/file={uploaded}")[0] == 200


def test_no_address_is_fetched(page_url, listener):
    address, asked = listener
    for url in (f"http://{address}/x.png", "https://example.com/x.png"):
        scheme, rest = url.split("://")
        written = [
            url,
            f"{scheme.upper()}://{rest}",
            f"{scheme.title()}://{rest}",
            f"%68ttp{scheme[4:]}://{rest}",
            f"%48%54%54%50{scheme[4:]}://{rest}",
            f"{scheme}%3A//{rest}",
            f"{scheme.upper()}%3A%2F%2F{rest}",
            f"{scheme}:%2f%2F{rest}",
        ]
        for prefix in FILES[:2] + FILES[4:]:
            for target in written:
                for method in ("GET", "HEAD"):
                    status, body = get(page_url, prefix + target, method)
                    assert status == 403, (prefix, target, status)
                    assert body == (b"this page does not do that" if method == "GET" else b"")
        for target in [*written, f"%2568ttp://{rest}", f" {url}".replace(" ", "%20"), f"%09{url}", f"//{rest}"]:
            for prefix in (
                "/gradio_api/file=",
                "/gradio_api/file/",
                "/gradio_api/proxy=",
                "/proxy=",
                "/gradio_api/PROXY=",
            ):
                status, _ = get(page_url, prefix + target)
                assert status in (403, 404), (prefix, target, status)
    assert asked == []


def test_nothing_that_gradio_can_do_besides_is_open(page_url):
    for path in ("/monitoring", "/monitoring/summary", "/monitoring/x", "/gradio_api/vibe-code"):
        assert get(page_url, path)[0] in (403, 404), path
    status, told = get(page_url, "/gradio_api/openapi.json")
    assert status == 200
    assert b"choose" not in told


def test_uploads_over_the_limit_are_refused(visitor, secret):
    assert visitor.send(b"0" * (10 * 1024 * 1024 + 1)).status_code == 413
    assert visitor.send(secret.read_bytes()).status_code == 200


def test_an_upload_stays_in_the_room_of_the_page(visitor, secret):
    for name in (
        "../../../../tmp/escaped.png",
        "..%2f..%2fescaped.png",
        "/tmp/escaped.png",
        "a\\..\\b.png",
        "." * 300 + ".png",
    ):
        path = Path(visitor.upload(Image.open(secret), name)).resolve()
        assert path.is_relative_to(Path(os.environ["GRADIO_TEMP_DIR"]).resolve())
        assert path.is_file()
    assert not Path("/tmp/escaped.png").exists()
