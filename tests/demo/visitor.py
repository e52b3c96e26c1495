"""Somebody who talks to the page without a browser, and says whatever they like."""

from __future__ import annotations

import io
import json
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

FILE = {"_type": "gradio.FileData"}


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

    def events(self, name: str) -> list[int]:
        """The numbers of all events of a name; those of one function are told apart by an underscore and a number."""
        found = [one for one in self.config["dependencies"] if one["api_name"].rstrip("0123456789").rstrip("_") == name]
        assert found, name
        return [one["id"] for one in found]

    def event(self, name: str) -> dict[str, Any]:
        """The one event that has exactly this name."""
        (found,) = [one for one in self.config["dependencies"] if one["api_name"] == name]
        return found

    def join(self, event: int, data: Any, event_data: Any = None) -> httpx.Response:
        """Stand in the queue; what is sent need not be valid JSON for Python's strict readers."""
        told = {"fn_index": event, "data": data, "event_data": event_data, "session_hash": self.session}
        return self.http.post(
            "gradio_api/queue/join", content=json.dumps(told), headers={"content-type": "application/json"}
        )

    def ask(self, event: int, data: Any, event_data: Any = None) -> Reply:
        """Stand in the queue, and wait for the end."""
        joined = self.join(event, data, event_data)
        if joined.status_code != 200:
            return Reply(None, f"HTTP {joined.status_code}: {joined.text}", joined.text)
        return self.wait(joined.json()["event_id"])

    def wait(self, event_id: str) -> Reply:
        """Read until an event has ended."""
        lines = []
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.session}) as told:
            for line in told.iter_lines():
                lines.append(line)
                if not line.startswith("data:"):
                    continue
                said = json.loads(line[5:])
                if said.get("event_id") == event_id and said["msg"] == "process_completed":
                    output = said["output"]
                    return Reply(
                        output.get("data"), None if said["success"] else output.get("error") or "", "\n".join(lines)
                    )
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


def as_file(path: Any, **more: Any) -> dict[str, Any]:
    """Name a file as Gradio's client does."""
    return {"path": path, "meta": FILE, **more}
