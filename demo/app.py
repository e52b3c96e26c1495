"""The server: functions of our own on the queue and uploads of Gradio, and a page of static files as their client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from gradio.events import api as declare
from jinja2 import Environment, PackageLoader
from starlette.middleware import Middleware

from mmhall.demo import limits
from mmhall.demo.api import Api
from mmhall.demo.guard import Routes, guard_calls, show_errors
from mmhall.demo.run_api import RunApi
from mmhall.demo.scenes import bundled_scenes
from mmhall.demo.state import AppState

MODEL_QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
PAGE_QUEUE: dict[str, Any] = {"concurrency_id": "page", "concurrency_limit": 2}
_SLOW: dict[str, Any] = {"concurrency_id": "tables", "concurrency_limit": 1}
_AT_ONCE: dict[str, Any] = {"concurrency_id": "quick", "concurrency_limit": None}

_OF_THE_PAGE = ("receive", "run", "tables", "items", "item", "examples", "example")  # of no use to programs
_STATIC = Path(__file__).parent / "static"
_SHARED = {  # files that other parts of mmhall use as well, by their names below static/
    **{f"display/{name}": "mmhall.display" for name in ("words.js", "gaze.js", "words.css")},
    "report/table.css": "mmhall.benchmarks.report",
}
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
        "base-uri 'none'; form-action 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def functions(app: AppState, folder: Path) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """Return the functions of the server, each with the queue in which it waits."""
    api, stored = Api(app, folder), RunApi(app)
    queues: tuple[tuple[dict[str, Any], tuple[Callable[..., Any], ...]], ...] = (
        (_AT_ONCE, (api.about, api.receive, api.presets, api.options, api.stop, api.judge)),
        (MODEL_QUEUE, (api.compare, api.gaze, api.gaze_heads, api.saliency, api.lens, api.probe)),
        (
            PAGE_QUEUE,
            (api.exports, stored.runs, stored.run, stored.items, stored.item, stored.examples, stored.example),
        ),
        (_SLOW, (stored.tables,)),
    )
    return ((function, queue) for queue, some in queues for function in some)


def make_page(app: AppState, folder: Path, delete_cache: tuple[int, int] | None = None) -> tuple[gr.Blocks, gr.Server]:
    """Build the server.

    Args:
        app: Its state.
        folder: Folder of the uploads.
        delete_cache: Interval between checks of the uploads, and the age at which they are deleted, in seconds.

    Returns:
        What to launch, and the application to launch it as.
    """
    blocks: gr.Blocks
    with gr.Blocks(title="mmhall", mode="server", analytics_enabled=False, delete_cache=delete_cache) as blocks:
        for function, queue in functions(app, folder):
            known = "undocumented" if function.__name__ in _OF_THE_PAGE else "public"
            declare(show_errors(function), api_name=function.__name__, api_visibility=known, **queue)
    guard_calls(blocks)
    blocks.temp_file_sets.append(app.files)
    blocks.queue(max_size=limits.QUEUE, default_concurrency_limit=4, api_open=False)
    server = gr.Server(docs_url=None, redoc_url=None, openapi_url=None, middleware=[Middleware(Routes, folder=folder)])
    _add_routes(server, blocks)
    return blocks, server


def _add_routes(server: gr.Server, blocks: gr.Blocks) -> None:
    """Add the page, its files and the pictures of the scenes; they come before Gradio's own routes."""

    @server.api_route("/", methods=["GET", "HEAD"])
    def index(request: Request) -> Response:
        return _file("index.html" if _may_enter(server, request) else "login.html")

    @server.get("/api")
    def api(request: Request) -> Response:
        if not _may_enter(server, request):
            return _file("login.html")
        return HTMLResponse(_api_page(blocks, str(request.base_url)), headers=_HEADERS)

    @server.get("/static/{name:path}")
    def static(name: str) -> Response:
        return _file(name)

    @server.get("/scene/{number}.png")
    def scene(number: int) -> Response:
        if number >= len(bundled_scenes()):
            return Response("there is no such scene", 404, media_type="text/plain")
        return Response(bundled_scenes()[number].png, media_type="image/png", headers=_HEADERS)


def _file(name: str) -> Response:
    """Return a static file, of the page or of `_SHARED`."""
    path = Path(str(files(_SHARED[name]))) / name.rpartition("/")[2] if name in _SHARED else _STATIC / name
    if not path.is_file() or (name not in _SHARED and "/" in name):
        return Response("this page has no file of that name", 404, media_type="text/plain")
    return FileResponse(path, media_type=_KINDS.get(path.suffix, "application/octet-stream"), headers=_HEADERS)


def _may_enter(server: gr.Server, request: Request) -> bool:
    """Return whether a visitor may see the page: no password is asked for, or the visitor has given it."""
    names = (f"access-token-{server.cookie_id}", f"access-token-unsecure-{server.cookie_id}")
    return server.auth is None or any(request.cookies.get(name) in server.tokens for name in names)


def _api_page(blocks: gr.Blocks, root: str) -> str:
    """Return the page that documents the functions, with examples that run as they stand."""
    from gradio_client.snippet import generate_code_snippets  # type: ignore[import-untyped]

    environment = Environment(loader=PackageLoader("mmhall.demo", "templates"), autoescape=True)
    entries = [
        {
            "name": name,
            "about": described.get("description", ""),
            "examples": generate_code_snippets(name, described, root, api_prefix="/gradio_api/"),
        }
        for name, described in blocks.get_api_info()["named_endpoints"].items()
    ]
    return environment.get_template("api.html").render(entries=entries, mcp=blocks.mcp_server)
