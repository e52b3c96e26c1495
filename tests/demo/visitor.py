"""Somebody who talks to the page without a browser, and says whatever they like."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

FILE = {"_type": "gradio.FileData"}
AT_ONCE = 10  # events, of the many that stand in the queue together


@dataclass(frozen=True)
class Reply:
    """What came of an event: its last outputs, or the message of a refusal; and all that was sent, as text."""

    data: list[Any] | None
    error: str | None
    raw: str

    @property
    def value(self):
        assert self.data is not None, self.error
        return self.data[0]


class Visitor:
    """One session at the page."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = uuid.uuid4().hex
        self.http = httpx.Client(base_url=url, timeout=60)
        self.config = self.http.get("config").json()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()

    def number(self, name: str) -> int:
        """The number of the function of a name."""
        (found,) = [one["id"] for one in self.config["dependencies"] if one["api_name"] == name]
        return int(found)

    def call(self, name: str, *data: Any) -> Reply:
        """Call a function, and wait for the end."""
        return self.ask(self.number(name), list(data))

    def calls(self, name: str, requests: Iterable[list[Any]]) -> list[Reply]:
        """Call a function several times, a few at once."""
        return self.asks((self.number(name), one) for one in requests)

    def join(self, event: int, data: Any) -> httpx.Response:
        """Stand in the queue; what is sent need not be valid JSON for Python's strict readers."""
        told = {"fn_index": event, "data": data, "session_hash": self.session}
        return self.http.post(
            "gradio_api/queue/join", content=json.dumps(told), headers={"content-type": "application/json"}
        )

    def ask(self, event: int, data: Any) -> Reply:
        """Stand in the queue, and wait for the end."""
        (reply,) = self.asks([(event, data)])
        return reply

    def asks(self, requests: Iterable[tuple[Any, ...]]) -> list[Reply]:
        """Ask several times, as `ask` takes it, a few at once; what was sent is that of all of these."""
        replies, left = list[Reply](), list(requests)
        while left:
            some, left = left[:AT_ONCE], left[AT_ONCE:]
            joined = [self.join(*one) for one in some]
            ended = self.wait(*(one.json()["event_id"] for one in joined if one.status_code == 200))
            replies += [
                ended.pop(0) if one.status_code == 200 else Reply(None, f"HTTP {one.status_code}: {one.text}", one.text)
                for one in joined
            ]
        return replies

    def wait(self, *events: str) -> list[Reply]:
        """Read until all of these events have ended."""
        lines, ended = list[str](), dict[str, dict[str, Any]]()
        if not events:
            return []
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.session}) as told:
            for line in told.iter_lines():
                lines.append(line)
                said = json.loads(line[5:]) if line.startswith("data:") else {}
                if said.get("msg") == "process_completed" and said["event_id"] in events:
                    ended[said["event_id"]] = said
                if len(ended) == len(events):
                    return [_reply(ended[event], "\n".join(lines)) for event in events]
        raise AssertionError(lines)

    def upload(self, picture: Image.Image | bytes, name: str = "picture.png", kind: str = "image/png") -> str:
        """Upload a picture, or bytes; return its path at the server."""
        done = self.send(picture, name, kind)
        assert done.status_code == 200, done.text
        return str(done.json()[0])

    def send(self, picture: Image.Image | bytes, name: str = "picture.png", kind: str = "image/png") -> httpx.Response:
        """Try to upload."""
        if isinstance(picture, Image.Image):
            written = io.BytesIO()
            picture.save(written, "PNG")
            picture = written.getvalue()
        return self.http.post("gradio_api/upload", files={"files": (name, picture, kind)})


def _reply(said: dict[str, Any], raw: str) -> Reply:
    output = said["output"]
    return Reply(output.get("data"), None if said["success"] else output.get("error") or "", raw)


def as_file(path: Any, **more: Any) -> dict[str, Any]:
    """Name a file as Gradio's client does."""
    return {"path": path, "meta": FILE, **more}
