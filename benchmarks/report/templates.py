"""HTML templates: they escape every text, and show control and bidirectional characters as codes."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from mmhall.text import printable


@lru_cache(maxsize=4)
def environment(*folders: tuple[str, str]) -> Environment:
    """Return an environment of the report's templates, `table.html` among them.

    Args:
        *folders: Further places of templates, each a package and a folder in it.
    """
    places = (*folders, ("mmhall.benchmarks.report", "."))
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, folder) for package, folder in places]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
