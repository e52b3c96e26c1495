"""The reference is whole: every public name, every metric. test_snippets checks the columns of a run's tables."""

from __future__ import annotations

import re

import pytest

import mmhall
from mmhall.benchmarks import BENCHMARKS, benchmark
from mmhall.decoders import BUILT_IN
from tests.docs.pages import DOCS, rows
from tests.sources import ROOT

TERMS = {term for cells in rows(DOCS / "glossary.md") for term in re.findall(r"`([^`]+)`", cells[0])}


def test_every_public_name_has_a_place():
    told = (DOCS / "python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"auto(?:class|function):: mmhall\.(\w+)$", told, re.MULTILINE)) == sorted(mmhall.__all__)


@pytest.mark.parametrize("name", BENCHMARKS.names())
def test_every_metric_is_in_the_glossary(name):
    assert {metric.name for metric in benchmark(name).metrics} <= TERMS


def test_the_readme_counts_what_there_is():
    told = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"[{len(BUILT_IN)} strategies](docs/methods.md)" in told
    assert f"[{len(BENCHMARKS.names())} benchmarks](docs/benchmarks.md)" in told


def test_the_glossary_names_a_term_once():
    terms = [term for cells in rows(DOCS / "glossary.md") for term in re.findall(r"`([^`]+)`", cells[0])]
    twice = {term for term in terms if terms.count(term) > 1}
    assert not twice
