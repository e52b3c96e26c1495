"""What stands between a visitor and this machine: the picture field, the files that are served, the errors told.

Gradio checks the path of an uploaded file only where the client marks it as one, and fetches URLs that it is given as
paths. Here a picture is a file that was uploaded to this page, or nothing.
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

_TANGLED = DataError("what was sent is nested too deeply to be read")

_TOLD = 500
_CLOSED = ("/file=http", "/file/http", "/proxy=", "/dev/reload")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def page_error(error: MmhallError) -> gr.Error:
    """Return an error as the page shows it, cut where a visitor's own words are long; Gradio takes it for HTML."""
    text = str(error)
    text = text if len(text) <= _TOLD else f"{text[:_TOLD]} …"
    return gr.Error(html.escape(printable(text)), print_exception=False)


def show_errors(work: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function, or a generator function, tell its errors on the page instead of raising them."""
    if inspect.isgeneratorfunction(work):

        @functools.wraps(work)
        def generate(*values: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from work(*values, **named)
            except MmhallError as error:
                raise page_error(error) from None
            except RecursionError:
                raise page_error(_TANGLED) from None

        return generate

    @functools.wraps(work)
    def run(*values: Any, **named: Any) -> Any:
        try:
            return work(*values, **named)
        except MmhallError as error:
            raise page_error(error) from None
        except RecursionError:
            raise page_error(_TANGLED) from None

    return run


def uploads_only(field: gr.Image) -> gr.Image:
    """Have a picture field take nothing but what was uploaded to this page, intact and of an acceptable size.

    The field itself is changed rather than derived from: Gradio writes a file beside every derived class.
    """
    move, room = field.async_move_resource_to_block_cache, Path(field.GRADIO_CACHE).resolve()

    async def moved(path: Any) -> str | None:
        if path is not None:
            _uploaded(str(path), room)
        return await move(path)

    def opened(payload: Any) -> Image.Image | None:
        if payload is None:
            return None
        if payload.path is None:
            raise page_error(ImageError("a picture must be uploaded; data URLs are not read"))
        try:
            return limits.picture(_uploaded(payload.path, room))
        except ImageError as error:
            raise page_error(error) from None

    field.async_move_resource_to_block_cache = moved  # type: ignore[method-assign, assignment]
    field.preprocess = opened  # type: ignore[method-assign]
    return field


def _uploaded(text: str, room: Path) -> Path:
    """Return the path of an uploaded file.

    Raises:
        gradio.Error: It is anything else.
    """
    refused = page_error(ImageError("a picture must be uploaded to this page; paths and addresses are not read"))
    if not text or "\0" in text or "://" in text:
        raise refused
    try:
        path = Path(text).resolve()
    except (OSError, ValueError, RuntimeError):
        raise refused from None
    if not path.is_relative_to(room) or not path.is_file():
        raise refused
    return path


class Closed:
    """Refuses requests that would have the server fetch an address for a visitor, or are for Gradio's developers."""

    def __init__(self, app: Any) -> None:
        """Stand before an ASGI application."""
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it names an address where a file's path belongs, or a developer's route."""
        path = str(scope.get("path", "")).lower()
        if scope["type"] == "http" and any(one in path for one in _CLOSED):
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"this page does not do that"})
            return
        await self._app(scope, receive, send)
