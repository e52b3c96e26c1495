"""The command `mmhall speed`: measure what probes, edits and strategies cost on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mmhall.benchmarks.timing.model import Size
    from mmhall.strategies import Strategy

Measured = tuple[dict[str, list[Any]], list[str]]  # the figures by name, for JSON; and as tables and sentences


def speed(
    strategies: Annotated[
        list[str] | None,
        typer.Argument(help="Strategies to time; by default all, and the parts that strategies are made of."),
    ] = None,
    turns: Annotated[int, typer.Option(help="Number of timed runs of each.", min=1)] = 7,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Time whole requests beside `generate` and other toolkits that are installed."),
    ] = False,
    products: Annotated[
        bool,
        typer.Option("--products", help="Also time linear layers with a few rows, on a CPU; without names it is done."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the times as JSON.")] = False,
) -> None:
    """Measure the cost of strategies, and of reading and editing attention, on a random model.

    Times and memory are given relative to plain transformers, tokens per second beside what the bandwidth of the
    memory allows. Without names the last tables say what is gained by questions that share a picture, and what linear
    layers with a few rows cost on this CPU where mmhall reorders them.

    Example: mmhall speed vcd opera
    """
    import json
    from datetime import datetime, timezone

    import torch

    from mmhall.benchmarks.timing import model, speed as timing
    from mmhall.errors import OptionError

    if peers and strategies:
        raise OptionError("speed", "strategies", strategies, "left out with --peers, which has a list of its own")
    methods = [timing.make_timed(spec) for spec in dict.fromkeys(strategies)] if strategies else None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if products and device == "cuda":
        raise OptionError("speed", "products", products, "left out on a GPU, where linear layers are not reordered")
    size = model.LARGE if device == "cuda" else model.SMALL
    parts = [_time_peers(size, device, turns)] if peers else [_time_strategies(size, device, turns, methods)]
    whole = not peers and methods is None
    parts += [_time_questions(size, device)] if whole else []
    parts += [_time_products(size, asked=products)] if products or (whole and device == "cpu") else []
    if as_json:
        print(json.dumps({name: values for figures, _ in parts for name, values in figures.items()}, indent=1))
        return
    print("\n\n".join(text for _, texts in parts for text in texts))
    print(f"\n{datetime.now(timezone.utc).date()}, {timing.machine(device)}")


def _time_strategies(size: Size, device: str, turns: int, methods: list[Strategy] | None) -> Measured:
    from dataclasses import asdict

    from mmhall.benchmarks.timing import limit, model, speed as timing
    from mmhall.cli.console import align_columns
    from mmhall.progress import progress

    with progress("timing", timing.runs(methods, turns)) as advance:
        costs = timing.measure(size, device, methods, turns, progress=advance)
    most = limit.measure(size, device, timing.NEW_TOKENS)
    what = f"{model.describe_request(size)}, {timing.NEW_TOKENS} new tokens"
    note = f"Time and memory over transformers' own: median and range of {turns} turns; {what}."
    texts = [align_columns(timing.table(costs)), f"{note}\n{most.describe(costs[0].seconds[1])}"]
    return {"variants": list(map(asdict, costs)), "limit": [asdict(most)]}, texts


def _time_questions(size: Size, device: str) -> Measured:
    from dataclasses import asdict

    from mmhall.benchmarks.timing import grouping
    from mmhall.cli.console import align_columns
    from mmhall.progress import progress

    with progress("timing questions about one picture", grouping.runs()) as advance:
        gains = grouping.measure(size, device, progress=advance)
    texts = [align_columns(grouping.table(gains)), f"{grouping.describe_questions()}."]
    return {"grouping": list(map(asdict, gains))}, texts


def _time_peers(size: Size, device: str, turns: int) -> Measured:
    from dataclasses import asdict

    from mmhall.benchmarks.timing import model, peers, speed as timing
    from mmhall.cli.console import align_columns
    from mmhall.progress import progress

    with progress("timing", peers.runs(turns)) as advance:
        comparisons = peers.measure(size, device, turns, progress=advance)
    what = f"{model.describe_request(size)}, {timing.NEW_TOKENS} new tokens"
    note = (
        f"Time of mmhall over the other's, from pictures and text to text: median and range of {turns} turns; seconds "
        f"of mmhall / of the other; {what}.\n{peers.describe_toolkits()}."
    )
    return {"peers": list(map(asdict, comparisons))}, [align_columns(peers.table(comparisons)), note]


def _time_products(size: Size, *, asked: bool) -> Measured:
    """Time linear layers with a few rows; the table is shown where it was asked for, or where one is reordered."""
    from dataclasses import asdict

    from mmhall.benchmarks.timing import products
    from mmhall.cli.console import align_columns

    measured = products.measure(size)
    shown = asked or any(product.chosen > 1 for product in measured)
    texts = [align_columns(products.table(measured)), products.describe(size)]
    return {"products": list(map(asdict, measured))}, texts if shown else []
