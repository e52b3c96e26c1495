"""The pages of the documentation as tests read them: headings, links and what a reader types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.sources import ROOT

DOCS = ROOT / "docs"
GENERATED = DOCS / "generated"  # by docs/conf.py
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("guides/*.md"))]
LINKING = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "mmhall" / "embedded").rglob("README.md"))]
TYPED = [ROOT / "README.md", DOCS / "answers.md", *sorted(DOCS.glob("guides/*.md"))]
"""Pages to be typed from top to bottom in a fresh folder."""

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>.+) -->\n)?^```(?P<kind>\w*).*\n(?P<text>(?:.*\n)*?)^```$", re.MULTILINE
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        kind: Its language.
        text: Its text.
        why: Why it is not run; "" if it is.
    """

    kind: str
    text: str
    why: str

    @property
    def commands(self) -> list[str]:
        """What follows the prompts of a console, lines that go on joined."""
        joined = re.sub(r"\\\n\s*", "", self.text)
        return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def blocks(page: Path) -> Iterator[Block]:
    """Return the fenced blocks of a page in order."""
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(match["kind"], match["text"], match["why"] or "")


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures, but not what looks like one in code."""
    prose = re.sub(r"`[^`\n]+`", "", _BLOCK.sub("", page.read_text(encoding="utf-8")))
    return _LINK.findall(prose)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        text = re.sub(r"\]\([^)]*\)", "", heading).lower()
        anchor = "".join(sign for sign in text.replace(" ", "-") if sign.isalnum() or sign in "-_")
        number = next(n for n in range(100) if (f"{anchor}-{n}" if n else anchor) not in found)
        found.add(f"{anchor}-{number}" if number else anchor)
    return found


def rows(page: Path) -> Iterator[list[str]]:
    """Return the cells of all lines of a page's tables."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            yield re.split(r" \| ", line.removeprefix("| ").removesuffix(" |"))
