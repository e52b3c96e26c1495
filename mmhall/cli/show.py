"""The command `mmhall show`: describe a strategy or a benchmark."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from mmhall.cli.loading import loads_model
from mmhall.models import LoadOptions

if TYPE_CHECKING:
    from mmhall.strategies import Card, OptionHelp, Strategy

_WIDTH, _HEAD = 110, 10


@loads_model
def show(
    name: Annotated[str, typer.Argument(help='Strategy, such as vhr or "vhr+vcd", or benchmark.')],
    model: Annotated[
        str | None, typer.Option(help="Also print the option values on this model, and their sources.")
    ] = None,
    tuned: Annotated[str | None, typer.Option(help='File with tuned options, or "none"; as in generate.')] = None,
    *,
    loading: LoadOptions,
) -> None:
    """Describe a strategy or a benchmark: its paper, formula or rules, options and how to write it.

    Example: mmhall show vhr
    """
    from mmhall._declarations import declarations
    from mmhall.benchmarks import BENCHMARKS
    from mmhall.cli.console import parse_tuned
    from mmhall.decoders import STRATEGIES
    from mmhall.errors import OptionError
    from mmhall.options import parse, split

    if model is None and tuned is not None:
        raise OptionError("show", "tuned", tuned, "given together with --model")
    for option, value in loading.non_defaults().items() if model is None else ():
        raise OptionError("show", option, value, "given together with --model")
    if parse(split(name)[0])[0] in set(BENCHMARKS.names()) - set(STRATEGIES.names()):
        print("\n".join(_describe_benchmark(name, model)))
        return
    options = parse_tuned(tuned)
    if model is None:
        with declarations():
            print("\n".join(_describe_strategy(name)))
        return
    from mmhall.model_check import check_model
    from mmhall.strategies import strategy as make_strategy

    method = make_strategy(name)
    check_model(model, options, loading)
    print("\n".join([*_describe_strategy(name), *_values_on_model(model, method, options, loading)]))


def _describe_strategy(name: str) -> list[str]:
    """Return the description of a strategy, or of the parts of a composition."""
    from mmhall.decoders import STRATEGIES
    from mmhall.options import parse, split
    from mmhall.strategies import card, strategy as make_strategy

    make_strategy(name)  # its options and combination are checked first
    lines = list[str]()
    for part in (parse(part)[0] for part in split(name)):
        shown = card(part)
        others = [card(other) for other in STRATEGIES.names() if other != part]
        lines += [*([""] if lines else []), shown.title, ""]
        lines += [*_sections(shown), *_options(shown.options), *_usage(shown, others)]
    return lines


def _describe_benchmark(name: str, model: str | None) -> list[str]:
    """Return the description of a benchmark."""
    from mmhall.benchmarks import BENCHMARKS, benchmark
    from mmhall.errors import OptionError
    from mmhall.strategies import card

    if model is not None:
        raise OptionError("show", "model", model, "left out: a benchmark is the same for every model")
    chosen = benchmark(name)
    shown = card(chosen.name, BENCHMARKS)
    written = f'{chosen.name}, "{chosen.name}({shown.options[0].example})"' if shown.options else chosen.name
    return [
        shown.title,
        "",
        *_sections(shown),
        *_options(shown.options),
        "",
        _line("Write", written),
        _line("Data", chosen.reads),
    ]


def _sections(card: Card) -> list[str]:
    lines = []
    for name, text in card.sections.items():
        lines += [_line(name if number == 0 else "", line) for number, line in enumerate(text.splitlines())]
    return lines


def _options(options: Sequence[OptionHelp]) -> list[str]:
    lines = ["", "Options" if options else "Options   none"]
    for option in options:
        general = f", else {option.general!r}" if option.general != "" else ""
        value = f"depends on the model{general}" if option.by_model else f"default {option.default!r}"
        lines.append(f"  {option.name}: {option.allowed}; {value}")
        by_value: dict[str, list[str]] = {}
        for (family, depth), published in option.published.items():
            by_value.setdefault(repr(published), []).append(f"{family} with {depth} layers")
        texts = [option.help] if option.help else []
        texts += [f"Published: {value} for {', '.join(models)}." for value, models in by_value.items()]
        texts += [f"`mmhall tune` tries {', '.join(map(repr, option.tries))}."] if option.tries else []
        lines += [f"      {line}" for text in texts for line in textwrap.wrap(text, _WIDTH - 6)]
    return lines


def _usage(card: Card, others: Sequence[Card]) -> list[str]:
    """Return how to write the strategy, and what it cannot be combined with."""
    written = [card.name]
    if card.options:
        shown = next((option for option in card.options if option.general != ""), card.options[0])
        written.append(f'"{card.name}({shown.example})"')
    partner = next(
        (
            other.name
            for other in others
            if any(option.by_model for option in other.options) and not other.claims & card.claims
        ),
        None,
    )
    if partner is not None and card.options:
        written.append(f'with another: "{card.name}+{partner}"')
    lines = ["", _line("Write", ", ".join(written))]
    for claim in sorted(card.claims):
        rivals = [other.name for other in others if claim in other.claims]
        note = (
            f"{claim}: cannot be combined with {', '.join(rivals)}"
            if rivals
            else f"{claim}: no other strategy claims it"
        )
        lines.append(_line("Claims", note))
    lines.append(_line("Refuses", card.refuses or "no model"))
    return lines


def _values_on_model(model: str, method: Strategy, tuned: object, loading: LoadOptions) -> list[str]:
    """Return the option values of a strategy on a model, and their sources."""
    import mmhall

    lvlm = mmhall.load(model, tuned=tuned, **loading.arguments())  # type: ignore[arg-type]
    fitted, lines = method.fitted(lvlm.adapter), ["", f"On {model}: {method.fitted(lvlm.adapter)}"]
    for option, origin in method.origins(lvlm.adapter).items():
        part, _, name = option.rpartition(".")
        options = fitted.options()[part] if part else fitted.options()
        lines.append(f"  {option}={options[name]!r}: {origin}")
    return lines


def _line(head: str, text: str) -> str:
    return f"{head:<{_HEAD}}{text}".rstrip()
