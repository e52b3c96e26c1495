"""What is sent to the page passes here first: no files where no picture belongs, texts that are texts, known events.

Gradio follows whatever looks like a file in the value of any field, fetching it where it is an address, and a client
may call every event of the page, also those it never shows.
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


def guarded(blocks: gr.Blocks) -> gr.Blocks:
    """Have every event of a page, also of parts made later, refuse what none of its fields sends.

    The page itself is changed rather than derived from: it is made by a `with` block.
    """
    read = blocks.preprocess_data

    async def checked(block_fn: Any, inputs: list[Any], *more: Any, **named: Any) -> Any:
        for field, value in zip(block_fn.inputs, inputs, strict=False):
            for inner in _within(value):
                if isinstance(inner, str) and any("\ud800" <= letter <= "\udfff" for letter in inner):
                    raise page_error(_TEXT)
                if isinstance(inner, dict) and {"path", "meta"} <= inner.keys() and not isinstance(field, gr.Image):
                    raise page_error(_FILE)
        try:
            return await read(block_fn, inputs, *more, **named)
        except gr.Error as error:
            raise page_error(DataError(error.message)) if error.print_exception else error from None
        except Exception:
            raise page_error(_UNFIT) from None

    blocks.preprocess_data = checked  # type: ignore[method-assign]
    return blocks


class NotFound:
    """Answers requests for events and parts that the page does not have, over which Gradio stumbles."""

    def __init__(self, app: Any) -> None:
        """Stand before an ASGI application."""
        self._app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass a request on, and the answer back."""
        begun = False

        async def passed(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, passed)
        except KeyError:
            if begun or scope["type"] != "http":
                raise
            _LOG.exception("told %s as not found", scope.get("path"))  # it may also be a fault of the page
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"this page has nothing of that name or number"})


def _within(value: Any) -> Iterator[Any]:
    """Walk through a value as JSON holds it, keys included, however deep."""
    left = [value]
    while left:
        one = left.pop()
        yield one
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
