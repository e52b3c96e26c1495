"""The command `mmhall demo`: serve the comparison page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmhall.cli.loading import loads_model
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.demo.serve import Address
    from mmhall.lvlm import LVLM


@loads_model
def demo(
    model: Annotated[str, typer.Option(help="Model to load: embedded, a folder, or a hub id.")] = "embedded",
    port: Annotated[int, typer.Option(help="Port of the page; 0: any free port.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Network interface to listen on; 0.0.0.0 opens the page to the network.")
    ] = "127.0.0.1",
    auth: Annotated[str | None, typer.Option(help="Require user:password of visitors.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Create a public address through Gradio's servers.")] = False,
    runs: Annotated[Path | None, typer.Option(help="Show the runs below this folder. By default, ./runs.")] = None,
    strategy: Annotated[
        list[str],
        typer.Option(
            help="Also offer a strategy that names a file or a model, such as \"cgd(clip='DIR')\"; repeatable."
        ),
    ] = [],  # noqa: B006
    tuned: Annotated[str | None, typer.Option(help='File with tuned options, or "none"; as in generate.')] = None,
    *,
    loading: LoadOptions,
) -> None:
    """Open the comparison page: see where each strategy looks and what it makes up.

    Example: mmhall demo --port 8000
    """
    import signal
    import sys
    from concurrent.futures import Future
    from threading import Event

    from mmhall.cli.console import parse_tuned
    from mmhall.demo.serve import Address, serving
    from mmhall.errors import MmhallError, RunError
    from mmhall.models import find_model_path

    login = _parse_auth(auth)
    if runs is not None and not runs.is_dir():
        raise RunError(f"{runs}: no such folder; give one that holds run folders of bench commands")
    address = Address(host, port, login, share)
    address.check()
    _warn_if_open(address)
    options = parse_tuned(tuned)
    find_model_path(model)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # deletes the uploads
    loaded: Future[LVLM] = Future()
    with serving(loaded, address, runs=runs or Path("runs"), owner_specs=strategy) as url:
        print(f"mmhall demo: {url}", flush=True)
        import mmhall

        try:
            loaded.set_result(mmhall.load(model, tuned=options, **loading.arguments()))
        except MmhallError as error:
            loaded.set_exception(error)
            raise
        print("the model is loaded; Ctrl-C ends it", flush=True)
        Event().wait()


def _parse_auth(auth: str | None) -> tuple[str, str] | None:
    """Parse --auth.

    Raises:
        OptionError: It is not user:password.
    """
    from mmhall.errors import OptionError

    user, _, password = (auth or "").partition(":")
    if auth is not None and not (user and password):
        raise OptionError("demo", "auth", "***", "written as user:password")
    return (user, password) if auth else None


def _warn_if_open(address: Address) -> None:
    """Warn if other machines can reach a page without a password."""
    if not address.auth and (address.share or not _is_loopback(address.interface)):
        others = "whoever has its address" if address.share else f"every machine that can reach {address.host}"
        typer.echo(f"mmhall: the page is open to {others}; --auth user:password asks for a password", err=True)


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address; other names than localhost count as reachable."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
