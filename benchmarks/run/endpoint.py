"""Client of an OpenAI-compatible endpoint: the only module that sends data over the network.

mmhall only calls endpoints that the user names.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mmhall.errors import EndpointError, OptionError

_PATH = "/v1/chat/completions"
_LONGEST = 4_000_000  # bytes of a reply
_FINAL = (401, 403, 404)
_TEMPORARY = (408, 409, 425, 429)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A language model at an address.

    Attributes:
        url: Address; "/v1/chat/completions" is added if missing.
        model: Name of the model there.
        key: Bearer token; "": none is sent.
        timeout: Seconds without data before a try fails.
        tries: Number of tries for one prompt.
        wait: Seconds before the second try; doubled before each further try.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    tries: int = 4
    wait: float = 1.0

    def __post_init__(self) -> None:
        """Complete the address."""
        try:
            parts = urlsplit(self.url)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            fits = False
        if not fits:
            raise OptionError("judge", "endpoint", self.url, "an address such as http://localhost:8000/v1")
        url = self.url.rstrip("/")
        for end in (_PATH, "/v1"):
            if url.endswith(end):
                url = url[: -len(end)]
        object.__setattr__(self, "url", url + _PATH)

    def ask(self, prompt: str) -> str:
        """Return the model's reply to a prompt, at temperature 0.

        Raises:
            EndpointError: There is no reply after all tries, or the endpoint refuses.
        """
        for attempt in range(self.tries):
            try:
                return self._try(prompt)
            except EndpointError as error:
                if error.final or attempt + 1 == self.tries or not isinstance(error, _TemporaryError):
                    raise
            time.sleep(self.wait * 2**attempt)
        raise EndpointError(f"{self.url}: was not asked", final=True)

    def _try(self, prompt: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                content = reply.read(_LONGEST)
        except urllib.error.HTTPError as error:
            with error:
                body_text = " ".join(error.read(500).decode("utf-8", "replace").split())
            kind = _TemporaryError if error.code >= 500 or error.code in _TEMPORARY else EndpointError
            raise kind(f"{self.url}: HTTP {error.code}: {body_text[:200]}", final=error.code in _FINAL) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            why = "no reply in time" if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__
            raise _TemporaryError(f"{self.url}: {why}") from error
        return _content(self.url, content)


class _TemporaryError(EndpointError):
    """A temporary error: a further try may succeed."""


def _content(url: str, content: bytes) -> str:
    """Return the text of a reply."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        start = content[:80].decode("utf-8", "replace")
        raise _TemporaryError(f"{url}: does not answer as a chat endpoint does: {start!r}") from error
    if not isinstance(text, str) or not text.strip():
        raise _TemporaryError(f"{url}: the reply holds no text")
    return text
