"""Server of the page: it answers before the model is loaded, and deletes the folder of uploads when it ends."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmhall.errors import OptionError

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM

PORT = 7860

_INTERVAL, _MAX_AGE = 600, 3600  # seconds between checks of the uploads, and their age limit while the page is open


@dataclass(frozen=True, slots=True)
class Address:
    """Network address of the page.

    Attributes:
        host: Name or address of a network interface, such as "::1".
        port: Port; 0: any free port.
        auth: User and password that visitors must give; None: open.
        share: Whether Gradio creates a public address.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    auth: tuple[str, str] | None = None
    share: bool = False

    @property
    def interface(self) -> str:
        """The host as sockets take it: IPv6 addresses without brackets."""
        return self.host.removeprefix("[").removesuffix("]")

    def check(self) -> None:
        """Check that the page can listen on the address.

        Raises:
            OptionError: The host is not of this machine, or the port is in use.
        """
        if not 0 <= self.port < 2**16:
            raise OptionError("demo", "port", self.port, "an integer from 0 (any free one) to 65535")
        try:
            socket.getaddrinfo(self.interface, self.port)
            _bind(self.interface, self.port).close()
        except OSError as error:
            if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                expected = "a name or number of this machine, such as 127.0.0.1 or ::1"
                raise OptionError("demo", "host", self.interface, expected) from error
            raise _port_error(self.interface, self.port) from error


@contextmanager
def serving(
    model: Future[LVLM], address: Address = Address(), *, runs: Path = Path("runs"), owner_specs: Sequence[str] = ()
) -> Iterator[str]:
    """Serve the page while the context lasts; yields its URL once it answers.

    The model may be loaded after the page is open: what needs the model waits.

    Args:
        model: The model, loaded or to be loaded.
        address: Address to listen on.
        runs: Folder with the runs to show.
        owner_specs: Strategies to offer that name files or models, such as "cgd(clip='...')".

    Raises:
        OptionError: The page cannot listen on the host or port.
        MmhallError: A strategy of `owner_specs` does not exist.
    """
    address.check()
    host = address.interface
    if owner_specs:
        from mmhall.strategies import strategy

        owner_specs = [str(strategy(spec)) for spec in owner_specs]
    with tempfile.TemporaryDirectory(prefix="mmhall-demo-") as folder, _gradio_environment(folder):
        from mmhall.demo import limits
        from mmhall.demo.app import make_page
        from mmhall.demo.state import AppState

        state = AppState(model, runs, tuple(owner_specs))
        blocks, server = make_page(state, Path(folder), (_INTERVAL, _MAX_AGE))
        try:
            _, url, public = blocks.launch(
                _app=server,
                server_name=f"[{host}]" if ":" in host else host,
                server_port=address.port or _free_port(host),
                auth=address.auth,
                share=address.share,
                max_file_size=limits.MAX_UPLOAD,
                state_session_capacity=limits.SESSIONS,
                mcp_server=address.auth is None and importlib.util.find_spec("mcp") is not None,  # it has no login
                prevent_thread_lock=True,
                quiet=True,
                enable_monitoring=False,
                run_history=False,
                ssr_mode=False,
            )
        except OSError as error:
            raise _port_error(host, address.port) from error
        try:
            yield public or url
        finally:
            blocks.close(verbose=False)


@contextmanager
def _gradio_environment(folder: str) -> Iterator[None]:
    """Set the folder of uploads and turn usage statistics off, by Gradio's environment variables."""
    variables = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _port_error(host: str, port: int) -> OptionError:
    expected = "free, but it is in use or not allowed; give another one with --port, or --port 0 for any free one"
    return OptionError("demo", "port", f"{host}:{port}", expected)


def _free_port(host: str) -> int:
    with _bind(host, 0) as bound:
        return int(bound.getsockname()[1])


def _bind(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
