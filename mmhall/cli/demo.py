"""mmhall demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmhall.cli.loading import loads_model
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM


@loads_model
def demo(
    model: Annotated[str, typer.Option(help="embedded, a folder, or a hub id.")] = "embedded",
    port: Annotated[int, typer.Option(help="Port of the page; 0: any free one.")] = 7860,
    host: Annotated[str, typer.Option(help="Network interface; 0.0.0.0 opens the page to the network.")] = "127.0.0.1",
    auth: Annotated[str | None, typer.Option(help="user:password, which visitors must give.")] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Make a public address for the page through Gradio's servers.")
    ] = False,
    runs: Annotated[
        Path | None, typer.Option(help="Folder whose benchmark results may be browsed; ./runs if none is given.")
    ] = None,
    strategy: Annotated[
        list[str],
        typer.Option(help="Offer this one, too: a strategy that names a file or a model, as \"cgd(clip='DIR')\"."),
    ] = [],  # noqa: B006
    tuned: Annotated[str | None, typer.Option(help='File of tuned options, or "none"; as in generate.')] = None,
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
    from mmhall.errors import MmhallError, OptionError, RunError
    from mmhall.models import located

    user, _, password = (auth or "").partition(":")
    if auth is not None and not (user and password):
        raise OptionError("demo", "auth", "***", "written as user:password")
    if runs is not None and not runs.is_dir():
        raise RunError(f"{runs}: no such folder; give one that holds run folders of bench commands")
    address = Address(host, port, (user, password) if auth else None, share)
    address.check()
    if not auth and (share or not _only_here(address.interface)):
        others = "whoever has its address" if share else f"every machine that can reach {host}"
        typer.echo(f"mmhall: the page is open to {others}; --auth user:password asks for a password", err=True)
    options = parse_tuned(tuned)
    located(model)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the uploads go as well
    loaded: Future[LVLM] = Future()
    with serving(loaded, address, runs=runs or Path("runs"), owned=strategy) as url:
        print(f"mmhall demo: {url}", flush=True)
        import mmhall

        try:
            loaded.set_result(mmhall.load(model, tuned=options, **loading.arguments()))
        except MmhallError as error:
            loaded.set_exception(error)
            raise
        print("the model is loaded; Ctrl-C ends it", flush=True)
        Event().wait()


def _only_here(host: str) -> bool:
    """Whether an address can be reached from this machine only; a name is taken for an address of the network."""
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
