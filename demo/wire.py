"""Checks of everything that clients send: files only in the picture field, valid text, known events.

Gradio follows anything that looks like a file in any field, even by fetching a URL, and a client may call every event,
including those that the page never triggers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import gradio as gr

from mmhall.demo.guard import Receive, Send, page_error
from mmhall.errors import DataError

_LOG = logging.getLogger(__name__)
_FILE = DataError("only the picture field takes a file")
_TEXT = DataError("what was sent holds half of a surrogate pair, which no text has")
_UNFIT = DataError("what was sent does not fit the fields of this page")


def guard_events(blocks: gr.Blocks) -> gr.Blocks:
    """Make every event of a page, also of components built later, refuse values that its fields never send.

    Changes the page itself, as a `with` block creates it.
    """
    preprocess = blocks.preprocess_data

    async def check_values(block_fn: Any, inputs: list[Any], *more: Any, **named: Any) -> Any:
        for field, value in zip(block_fn.inputs, inputs, strict=False):
            for inner in _walk(value):
                if isinstance(inner, str) and any("\ud800" <= letter <= "\udfff" for letter in inner):
                    raise page_error(_TEXT)
                if isinstance(inner, dict) and {"path", "meta"} <= inner.keys() and not isinstance(field, gr.Image):
                    raise page_error(_FILE)
        try:
            return await preprocess(block_fn, inputs, *more, **named)
        except gr.Error as error:
            raise page_error(DataError(error.message)) if error.print_exception else error from None
        except Exception:
            raise page_error(_UNFIT) from None

    blocks.preprocess_data = check_values  # type: ignore[method-assign]
    return blocks


class NotFound:
    """Middleware that answers 404 to requests for unknown events and components, on which Gradio fails."""

    def __init__(self, app: Any) -> None:
        """Wrap an ASGI application."""
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Forward a request and its answer."""
        started = False

        async def forward(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, forward)
        except KeyError:
            if started or scope["type"] != "http":
                raise
            _LOG.exception("answered 404 to %s", scope.get("path"))  # the page itself may be at fault
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"this page has nothing of that name or number"})


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
