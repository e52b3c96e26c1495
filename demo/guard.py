"""Protection of this machine from visitors: what they send, what they are served, and the messages they get.

Gradio follows anything that looks like a file in any field, even by fetching an address, and serves routes that this
page does not need. Here, a picture is an upload or nothing, and a route that is not listed does not exist.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import HTTPException
from gradio.utils import get_function_params

from mmhall.errors import DataError, ImageError, MmhallError
from mmhall.text import printable

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_LOG = logging.getLogger(__name__)
_LONGEST = 500  # characters of a message
_BODY = 4 << 20  # bytes of a request that is no upload; uploads have a limit of their own
_TOO_DEEP = DataError("what was sent is nested too deeply to be read")
_FILE = DataError("only a picture may be a file")
_TEXT = DataError("what was sent holds half of a surrogate pair, which no text has")
_UNFIT = DataError("what was sent does not fit this function; see the page's API")
_NOT_UPLOADED = ImageError("a picture must be uploaded to this page; paths and addresses are not read")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_ROUTES = re.compile(
    r"/(?:api|login|logout|favicon\.ico|robots\.txt|config/?|static/[\w./-]+|scene/\d+\.png)?|/gradio_api/(?:"
    r"info/?|openapi\.json|startup-events|login_check/?|user/?|token/?|app_id/?|upload|upload_progress|cancel|reset/?|"
    r"heartbeat/[\w-]+|queue/(?:join|data|status)|call/(?:v2/)?\w+(?:/[\w-]+)?/?|file=.+|mcp(?:/.*)?)"
)


def plain_error(error: MmhallError) -> gr.Error:
    """Return an error for clients: plain text, shortened, control characters as codes."""
    text = str(error)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return gr.Error(printable(text), print_exception=False)


def show_errors(work: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function or generator function so that clients get its errors."""
    if inspect.isgeneratorfunction(work):

        @functools.wraps(work)
        def generate(*values: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from work(*values, **named)
            except MmhallError as error:
                raise plain_error(error) from None
            except RecursionError:
                raise plain_error(_TOO_DEEP) from None

        return generate

    @functools.wraps(work)
    def run(*values: Any, **named: Any) -> Any:
        try:
            return work(*values, **named)
        except MmhallError as error:
            raise plain_error(error) from None
        except RecursionError:
            raise plain_error(_TOO_DEEP) from None

    return run


def check_upload(path: Any, folder: Path) -> Path:
    """Return the path of a file that was uploaded to a folder.

    Raises:
        ImageError: It is not an uploaded file.
    """
    if not isinstance(path, str) or not path or "\0" in path or "://" in path:
        raise _NOT_UPLOADED
    try:
        found = Path(path).resolve()
        uploaded = found.is_relative_to(folder.resolve()) and found.is_file()
    except (OSError, ValueError, RuntimeError):
        raise _NOT_UPLOADED from None
    if not uploaded:
        raise _NOT_UPLOADED
    return found


def guard_calls(blocks: gr.Blocks) -> gr.Blocks:
    """Make every function of a server refuse files, except as a picture, and values that do not fit.

    The last values may be left out where they have defaults.
    A picture that a client marks as a file becomes {"upload": path}, so that Gradio itself never follows one. Changes
    the blocks themselves, as a `with` block creates them.
    """
    preprocess = blocks.preprocess_data

    async def check_values(block_fn: Any, inputs: list[Any], *more: Any, **options: Any) -> Any:
        fields = get_function_params(block_fn.fn)
        if not isinstance(inputs, list) or len(inputs) > len(fields):
            raise plain_error(_UNFIT)
        left_out = [default for _, has_default, default, _ in fields[len(inputs) :] if has_default]
        named = zip((name for name, *_ in fields), (*inputs, *left_out), strict=False)
        values = [_as_upload(value) if name == "picture" else value for name, value in named]
        for inner in _walk(values):
            if isinstance(inner, str) and any("\ud800" <= letter <= "\udfff" for letter in inner):
                raise plain_error(_TEXT)
            if isinstance(inner, dict) and {"path", "meta"} <= inner.keys():
                raise plain_error(_FILE)
        try:
            return await preprocess(block_fn, values, *more, **options)
        except gr.Error as error:
            raise plain_error(DataError(error.message)) if error.print_exception else error from None
        except Exception:
            raise plain_error(_UNFIT) from None

    blocks.preprocess_data = check_values  # type: ignore[method-assign]
    return blocks


class Routes:
    """Middleware that answers 404 to requests outside the list of routes, and to unknown functions and sessions.

    A file is served from the folder of uploads only; what names an address in place of a path is refused with 403.
    Requests other than uploads are refused with 413 where they are large. No answer is taken for another kind of file
    than it says, so that an uploaded one never runs as a script.
    """

    def __init__(self, app: Any, folder: Path) -> None:
        """Wrap an ASGI application; `folder` holds the uploads."""
        self._app, self._folder = app, folder.resolve()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Forward a request and its answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        path, started = str(scope.get("path", "")).removeprefix(str(scope.get("root_path", ""))) or "/", False
        if (refusal := self._refusal(path)) is not None:
            await _say(send, *refusal)
            return

        length = 0

        async def read() -> Any:
            nonlocal length
            message = await receive()
            length += len(message.get("body", b""))
            if length > _BODY and path != "/gradio_api/upload":
                raise HTTPException(413, "what was sent is too large; only an upload may be")
            return message

        async def forward(message: Any) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                others = [pair for pair in message.get("headers", ()) if pair[0].lower() != _NO_SNIFF[0]]
                message = {**message, "headers": [*others, _NO_SNIFF]}
            await send(message)

        try:
            await self._app(scope, read, forward)
        except KeyError:
            if started:
                raise
            _LOG.exception("answered 404 to %s", scope.get("path"))  # the server itself may be at fault
            await _say(send, 404, b"this page has nothing of that name or number")

    def _refusal(self, path: str) -> tuple[int, bytes] | None:
        """Return status and text of a refusal; None: the request may pass."""
        if not _ROUTES.fullmatch(path):
            return 404, b"this page has nothing of that name"
        file = path.partition("/gradio_api/file=")[2]
        if file:
            try:
                check_upload(file, self._folder)
            except ImageError:
                return 403, b"this page serves no such file"
        return None


async def _say(send: Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def _as_upload(value: Any) -> Any:
    """Return a picture that a client marks as a file as {"upload": path}; other values as they are."""
    return {"upload": value["path"]} if isinstance(value, dict) and {"path", "meta"} <= value.keys() else value


def _walk(value: Any) -> Iterator[Any]:
    """Yield a JSON value and all keys and values inside it, at any depth."""
    pending = [value]
    while pending:
        item = pending.pop()
        yield item
        if isinstance(item, dict):
            pending += [*item, *item.values()]
        elif isinstance(item, list):
            pending += item
