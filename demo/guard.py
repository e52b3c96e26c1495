"""Protection of this machine from visitors: the picture field, the served files and the error messages.

Gradio checks the path of an upload only if the client marks it as a file, and fetches a URL that is sent as a path.
This page accepts only files that were uploaded to it.
"""

from __future__ import annotations

import functools
import html
import inspect
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from mmhall.demo import limits
from mmhall.errors import DataError, ImageError, MmhallError
from mmhall.text import printable

_TOO_DEEP = DataError("what was sent is nested too deeply to be read")

_LONGEST = 500  # characters of a message
_BLOCKED = ("/file=http", "/file/http", "/proxy=", "/dev/reload")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def page_error(error: MmhallError) -> gr.Error:
    """Return an error for the page, shortened and escaped, as Gradio shows messages as HTML."""
    text = str(error)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return gr.Error(html.escape(printable(text)), print_exception=False)


def show_errors(work: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function or generator function so that the page shows its errors."""
    if inspect.isgeneratorfunction(work):

        @functools.wraps(work)
        def generate(*values: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from work(*values, **named)
            except MmhallError as error:
                raise page_error(error) from None
            except RecursionError:
                raise page_error(_TOO_DEEP) from None

        return generate

    @functools.wraps(work)
    def run(*values: Any, **named: Any) -> Any:
        try:
            return work(*values, **named)
        except MmhallError as error:
            raise page_error(error) from None
        except RecursionError:
            raise page_error(_TOO_DEEP) from None

    return run


def uploads_only(field: gr.Image) -> gr.Image:
    """Restrict a picture field to intact uploads of an acceptable size.

    Changes the field itself: Gradio writes a file beside every derived class.
    """
    move, folder = field.async_move_resource_to_block_cache, Path(field.GRADIO_CACHE).resolve()

    async def move_upload(path: Any) -> str | None:
        if path is not None:
            _check_upload(str(path), folder)
        return await move(path)

    def open_upload(payload: Any) -> Image.Image | None:
        if payload is None:
            return None
        if payload.path is None:
            raise page_error(ImageError("a picture must be uploaded; data URLs are not read"))
        try:
            return limits.picture(_check_upload(payload.path, folder))
        except ImageError as error:
            raise page_error(error) from None

    field.async_move_resource_to_block_cache = move_upload  # type: ignore[method-assign, assignment]
    field.preprocess = open_upload  # type: ignore[method-assign]
    return field


def _check_upload(text: str, folder: Path) -> Path:
    """Return the path of an uploaded file.

    Raises:
        gradio.Error: It is not an uploaded file.
    """
    refused = page_error(ImageError("a picture must be uploaded to this page; paths and addresses are not read"))
    if not text or "\0" in text or "://" in text:
        raise refused
    try:
        path = Path(text).resolve()
    except (OSError, ValueError, RuntimeError):
        raise refused from None
    if not path.is_relative_to(folder) or not path.is_file():
        raise refused
    return path


class BlockedRoutes:
    """Middleware that refuses requests which make the server fetch an address, and developer routes of Gradio."""

    def __init__(self, app: Any) -> None:
        """Wrap an ASGI application."""
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Forward a request, unless it names an address in place of a file path, or a developer route."""
        path = str(scope.get("path", "")).lower()
        if scope["type"] == "http" and any(part in path for part in _BLOCKED):
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"this page does not do that"})
            return
        await self._app(scope, receive, send)
