"""Open the page: it answers before the model is loaded, and uploads live in a folder that goes when the page does."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmhall.errors import OptionError

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM

PORT = 7860

_OFTEN, _OLDEST = 600, 3600  # seconds between looks at the uploads, and that one is kept while the page is open


@dataclass(frozen=True, slots=True)
class Address:
    """Where the page is.

    Attributes:
        host: Name or number of a network interface; "::1" is one, too.
        port: 0: any free one.
        auth: User and password, if one must log in.
        share: Whether Gradio makes a public address for it.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    auth: tuple[str, str] | None = None
    share: bool = False

    @property
    def interface(self) -> str:
        """The host as sockets take it: a number of version 6 without its brackets."""
        return self.host.removeprefix("[").removesuffix("]")

    def check(self) -> None:
        """Refuse an address that cannot be had.

        Raises:
            OptionError: The host is not of this machine, or the port is taken.
        """
        if not 0 <= self.port < 2**16:
            raise OptionError("demo", "port", self.port, "an integer from 0 (any free one) to 65535")
        try:
            socket.getaddrinfo(self.interface, self.port)
            _taken(self.interface, self.port).close()
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                expected = "a name or number of this machine, such as 127.0.0.1 or ::1"
                raise OptionError("demo", "host", self.interface, expected) from error
            raise _busy(self.interface, self.port) from error


@contextmanager
def serving(
    model: Future[LVLM], address: Address = Address(), *, runs: Path = Path("runs"), owner_specs: Sequence[str] = ()
) -> Iterator[str]:
    """Open the page for as long as the context lasts; yields its URL once it answers.

    What needs the model waits for it, so that it may be loaded after the page is open.

    Args:
        model: Loaded, or to be loaded.
        address: Where.
        runs: Folder whose results may be browsed.
        owned: Strategies to offer that name files or models, such as "cgd(clip='...')".

    Raises:
        OptionError: The host or port cannot be had.
        MmhallError: A strategy of `owner_specs` does not exist.
    """
    address.check()
    host = address.interface
    if owner_specs:
        from mmhall.strategies import strategy

        owner_specs = [str(strategy(spec)) for spec in owner_specs]
    with tempfile.TemporaryDirectory(prefix="mmhall-demo-") as room, _settings(room):
        import gradio as gr
        from starlette.middleware import Middleware

        from mmhall.demo import limits
        from mmhall.demo.guard import Closed
        from mmhall.demo.page import page
        from mmhall.demo.wire import NotFound

        blocks = page(model, runs=runs, owner_specs=owner_specs, delete_cache=(_OFTEN, _OLDEST))
        blocks.queue(max_size=limits.QUEUE, default_concurrency_limit=4, api_open=False)
        try:
            _, url, public = blocks.launch(
                server_name=f"[{host}]" if ":" in host else host,
                server_port=address.port or _free_port(host),
                auth=address.auth,
                share=address.share,
                max_file_size=limits.MAX_UPLOAD,
                state_session_capacity=limits.SESSIONS,
                app_kwargs={"middleware": [Middleware(Closed), Middleware(NotFound)]},
                prevent_thread_lock=True,
                quiet=True,
                enable_monitoring=False,
                run_history=False,
                ssr_mode=False,
                footer_links=["api"],
                theme=_theme(gr),
                css_paths=sorted(Path(__file__).parent.rglob("*.css")),
            )
        except OSError as error:
            raise _busy(host, address.port) from error
        try:
            yield public or url
        finally:
            blocks.close(verbose=False)


@contextmanager
def _settings(room: str) -> Iterator[None]:
    """Tell Gradio where uploads go, and to keep to itself; it reads that from the environment."""
    wanted = {"GRADIO_TEMP_DIR": room, "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _busy(host: str, port: int) -> OptionError:
    expected = "free; another program has it, or it may not be had: give another one with --port, or --port 0 for any"
    return OptionError("demo", "port", f"{host}:{port}", expected)


def _free_port(host: str) -> int:
    with _taken(host, 0) as taken:
        return int(taken.getsockname()[1])


def _taken(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def _theme(gr: Any) -> Any:
    """Plain colours, the machine's own fonts, and text that is dark enough to read."""
    made = gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return made.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )
