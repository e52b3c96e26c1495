"""HTML templates of the page; they escape every text, and show control and bidirectional characters as codes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmhall.text import printable


def render(template: str, **values: Any) -> str:
    """Render a template of `templates/`.

    Args:
        template: File name.
        **values: Variables of the template.
    """
    return _environment().get_template(template).render(**values)


def notice(title: str, text: str) -> str:
    """Return a notice in place of content that is missing, and what to do."""
    return render("notice.html", title=title, text=text)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("mmhall.demo", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
