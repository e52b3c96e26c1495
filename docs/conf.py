"""Build the documentation as a site: `make docs`.

The pages are the Markdown files of this folder, which are also read in a checkout. Two things are made here: pages of
every strategy, benchmark and command from what they say of themselves, and addresses of the repository for links that
leave this folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import typer
from sphinx.application import Sphinx

import mmhall
from mmhall.benchmarks import BENCHMARKS
from mmhall.cli import app as commands
from mmhall.registry import Registry
from mmhall.strategies import STRATEGIES, Card, OptionHelp, card

HERE = Path(__file__).parent
ROOT = HERE.parent
GENERATED = HERE / "generated"
_LINK = re.compile(r"\]\((\.\./[^)#]*)")

project = "mmhall"
version = release = mmhall.__version__
copyright = "the mmhall authors"  # noqa: A001 - Sphinx reads this name
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]
default_role = "code"  # docstrings write names in single backticks, as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_class_signature = "separated"
napoleon_use_ivar = True
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"mmhall {release}"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def repository() -> str:
    """Return the address of the repository, as `pyproject.toml` has it."""
    found = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found.group(1)


def link_to_repository(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace links to files outside of this folder by their addresses in the repository."""
    folder = (HERE / name).parent

    def address(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match.group(1)))
        inside = target.is_relative_to(HERE)
        return match.group() if inside else f"]({repository()}/blob/main/{target.relative_to(ROOT).as_posix()}"

    source[0] = _LINK.sub(address, source[0])


def write_pages(app: Sphinx) -> None:
    """Write a page for every strategy and benchmark, one that lists them, and one of all commands."""
    for folder, title, registry in (("strategies", "Strategies", STRATEGIES), ("benchmarks", "Benchmarks", BENCHMARKS)):
        (GENERATED / folder).mkdir(parents=True, exist_ok=True)
        names = registry.names()
        for name in names:
            write(GENERATED / folder / f"{name}.md", "\n".join(card_page(name, registry)))
        toctree = ["```{toctree}", ":maxdepth: 1", "", *(f"{folder}/{name}" for name in names), "```"]
        write(GENERATED / f"{folder}.md", "\n".join([f"# {title}, one by one", "", *toctree]))
    write(GENERATED / "commands.md", "\n".join(command_page()))


def write(path: Path, text: str) -> None:
    """Write a page, unless it is there already: a changed file is built anew."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def card_page(name: str, registry: Registry) -> Iterator[str]:
    """Return the lines of the page of a strategy or benchmark."""
    shown: Card = card(name, registry)
    file = f"{registry.target(name).partition(':')[0].removeprefix('mmhall.').replace('.', '/')}.py"
    yield from (f"# {name}", "", f"{escaped(shown.title)} [{file}]({repository()}/blob/main/{file})", "")
    for section, text in shown.sections.items():
        yield from (f"## {section}", "", "```text", text, "```", "")
    yield from ("## Options", "")
    yield from option_lines(shown.options) if shown.options else ("None.",)
    if shown.refuses:
        yield from ("", "## Refuses", "", escaped(shown.refuses))


def option_lines(options: tuple[OptionHelp, ...]) -> Iterator[str]:
    """Return a table of options."""
    yield from ("| option | default | allowed | meaning |", "|---|---|---|---|")
    for one in options:
        default = f"by model, else `{one.general!r}`" if one.by_model else f"`{one.default!r}`"
        yield f"| `{one.name}` | {default} | {cell(one.allowed)} | {cell(one.help)} |"


def command_page() -> Iterator[str]:
    """Return the lines of the page of all commands, from their help."""
    yield from ("# Commands", "", "`mmhall COMMAND --help` prints the same.")
    for name, command in typer.main.get_command(commands).commands.items():  # type: ignore[attr-defined]
        told, _, example = (command.help or "").partition("Example: ")
        yield from ("", f"## {name}", "", escaped(told.strip()), "", "```console", f"$ {example.strip()}", "```", "")
        yield from ("| argument or option | meaning |", "|---|---|")
        for one in command.params:
            written = ", ".join(one.opts) if one.param_type_name == "option" else one.name.upper()
            yield f"| `{written}` | {cell(one.help or '')} |"


def cell(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return escaped(text).replace("|", r"\|")


def escaped(text: str) -> str:
    """Escape what Markdown would read as markup outside of names in backticks."""
    return "".join(part if number % 2 else re.sub(r"([*_<>\[\]])", r"\\\1", part) for number, part in parts(text))


def parts(text: str) -> Iterator[tuple[int, str]]:
    """Split text at names in backticks, which have odd numbers."""
    return enumerate(re.split(r"(`[^`]+`)", text))


def setup(app: Sphinx) -> None:
    """Connect to Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", link_to_repository)
