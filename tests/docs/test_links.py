"""Links within the documentation lead somewhere, and every page can be reached."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import DOCS, GENERATED, LINKING, PAGES, anchors, blocks, links
from tests.sources import ROOT


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_contents():
    listed = [
        DOCS / f"{line}.md"
        for block in blocks(DOCS / "index.md")
        for line in block.text.splitlines()
        if line and not line.startswith(":")
    ]
    ours = [page for page in listed if not page.is_relative_to(GENERATED)]
    assert sorted(ours) == sorted(page for page in PAGES if page.is_relative_to(DOCS) and page.name != "index.md")


def test_anchors_are_those_of_the_site(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Yes/no answers\n\n```text\n# not one\n```\n\n## `a_b` and [c](d.md)\n\n## The end\n\n## The end\n"
    )
    assert anchors(page) == {"yesno-answers", "a_b-and-c", "the-end", "the-end-1"}
