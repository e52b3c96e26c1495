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

import httpx
import pytest
from PIL import Image

from tests.demo.visitor import FILE, as_file

pytestmark = pytest.mark.slow

ONLY_PICTURES = "only a picture may be a file"


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
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
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
        {"upload": path},
        {"upload": as_file(path)},
        {"upload": [path]},
        {"upload": path, "scene": 1},
        {"scene": path},
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
        yield from ({"upload": path} for path in main)
        return
    yield from (shape for path in main[1:3] for shape in shapes(path))
    yield from (as_file(path) for path in (*main, *others))
    yield from ({"upload": path} for path in others)
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


def fields(name, image):
    """What is sent along with a picture."""
    return {
        "compare": [image, "What is in this image?", ["greedy"], {"max_new_tokens": 2}],
        "probe": [image, ["cup"], ["greedy"], None, None],
        "receive": [image],
        "saliency": [image, "What is in this image?"],
    }[name]


@pytest.mark.parametrize(
    ("name", "quick"), [("compare", False), ("receive", False), ("probe", True), ("saliency", True)]
)
def test_a_picture_is_an_upload_or_nothing(visitor, secret, listener, name, quick):
    address, asked = listener
    sent = list(payloads(secret, address, quick))
    replies = visitor.calls(name, (fields(name, payload) for payload in sent))
    for payload, reply in zip(sent, replies, strict=True):
        assert refused(reply), payload
    assert asked == []
    uploaded = visitor.upload(Image.open(secret))
    for picture in (as_file(uploaded), {"upload": uploaded}):
        assert visitor.call(name, *fields(name, picture)).error is None


def test_no_other_field_takes_a_file(visitor, secret, listener):
    address, asked = listener
    image = as_file(visitor.upload(Image.open(secret)))
    files = list(map(as_file, (image["path"], f"http://{address}/x.png")))
    values = [value for file in files for value in (file, [file], {"present": [file]}, {"a": {"b": [[file]]}})]
    for name in ("compare", "probe"):
        for reply in visitor.calls(name, (instead(fields(name, image), at, one) for at in (1, 2, 3) for one in values)):
            assert refused(reply)
            assert reply.error == ONLY_PICTURES
    others = [
        one for one in visitor.config["dependencies"] if one["inputs"] and one["api_name"] not in ("compare", "probe")
    ]
    elsewhere = as_file(f"http://{address}/x.png", url=f"http://{address}/x.png")
    sent = [
        (one["id"], instead([None] * len(one["inputs"]), at, elsewhere))
        for one in others
        for at in range(len(one["inputs"]))
    ]
    for reply in visitor.asks(sent):
        assert reply.error
        assert "Traceback" not in reply.raw
    assert asked == []


def instead(sent, at, value):
    return [*sent[:at], value, *sent[at + 1 :]]


@pytest.mark.parametrize("kind", ["text", "torn", "huge", "svg"])
def test_an_unusable_upload_is_refused_without_saying_where_it_lies(visitor, secret, kind):
    written = io.BytesIO()
    Image.new("1", (8000, 8000)).save(written, "PNG")
    data = {
        "text": b"no picture",
        "torn": secret.read_bytes()[:60],
        "huge": written.getvalue(),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    }[kind]
    path = visitor.upload(data, "x.svg" if kind == "svg" else "x.png")
    for name in ("compare", "receive"):
        reply = visitor.call(name, *fields(name, {"upload": path}))
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
                    assert status in (403, 404), (prefix, target, status)
                    assert body in (b"", b"this page serves no such file", b"this page has nothing of that name")
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


def test_what_the_page_does_not_need_of_gradio_and_fastapi_is_closed(page_url):
    """Every route of the server outside the page's list, with any number in place of its parameters."""
    closed = """
        /docs /redoc /openapi.json /docs/oauth2-redirect /monitoring /monitoring/summary /monitoring/x
        /manifest.json /pwa_icon /pwa_icon/32 /theme.css /svelte/svelte.js /assets/index.js /gradio_api/theme.css
        /gradio_api/runs /gradio_api/deep_link /gradio_api/dev/reload /gradio_api/proxy=x /gradio_api/file/x
        /gradio_api/vibe-code /gradio_api/vibe-edit /gradio_api/vibe-starter-queries /gradio_api/run/compare
        /gradio_api/api/compare /gradio_api/component_server /gradio_api/process_recording /gradio_api/stream/x
        /gradio_api/profiling/summary /gradio_api/custom_component/1/client/component/x
        /gradio_api/run-history/records /gradio_api/queue/x /static/../api.py /static/%2e%2e/api.py /static/..
        /static/index.html/ /scene/8.png /scene/-1.png /scene/x.png
    """
    for path in closed.split():
        for method in ("GET", "POST"):
            assert get(page_url, path, method)[0] in (403, 404, 405, 422), path
    assert (
        get(page_url, "/gradio_api/info")[0] == get(page_url, "/config")[0] == get(page_url, "/scene/7.png")[0] == 200
    )


def test_the_page_runs_no_script_but_its_own(page_url):
    answer = httpx.get(page_url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "script-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_upload_is_no_script(visitor):
    served = visitor.http.get(f"gradio_api/file={visitor.upload(b'alert(1)', 'x.js')}")
    assert served.headers["content-type"] == "application/octet-stream"
    assert served.headers.get_list("x-content-type-options") == ["nosniff"]


def test_what_is_no_upload_is_small(visitor):
    for size, status in ((1 << 20, 200), (5 << 20, 413)):
        answer = visitor.http.post("gradio_api/call/presets", json={"data": ["x" * size]})
        assert answer.status_code == status, answer.text


def test_uploads_over_the_limit_are_refused(visitor, secret):
    assert visitor.send(b"0" * (25 * 1024 * 1024 + 1)).status_code == 413
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
