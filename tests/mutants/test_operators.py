"""Each operator on a line of code."""

from __future__ import annotations

import pytest

from tests.mutants.operators import OPERATORS, mutations


def made(text: str, operator: str = "") -> set[str]:
    """Return the changed line of each change of a module."""
    found = [mutation for mutation in mutations("module.py", text) if operator in ("", mutation.operator)]
    return {mutation.changed for mutation in found if mutation.changes}


@pytest.mark.parametrize(
    ("operator", "text", "wanted"),
    [
        ("comparison", "x = a < b", {"x = a <= b"}),
        ("comparison", "x = a is not (b)", {"x = a is (b)"}),
        ("comparison", "x = a < b == c", {"x = a <= b == c", "x = a < b != c"}),
        ("arithmetic", "x = a + (b)", {"x = a - (b)"}),
        ("arithmetic", 'x = "a" + b', set()),
        ("arithmetic", "x = int | Tensor", set()),
        ("sign or negation dropped", "x = not (a in b)", {"x =  (a in b)"}),
        ("sign or negation dropped", "x = a[..., -b]", {"x = a[..., b]"}),
        ("condition negated", "x = [a for a in b if a]", {"x = [a for a in b if not (a)]"}),
        ("condition negated", "x = a if b else c", {"x = a if not (b) else c"}),
        ("guard dropped", "for a in b:\n    if a:\n        continue\n    c()", {"if False:"}),
        ("and or", "x = a and b and c", {"x = a or b and c", "x = a and b or c"}),
        ("effect dropped", "a(b)", {"pass"}),
        ("effect dropped", "x[0] = a", {"pass"}),
        ("effect dropped", "x = a", set()),
        ("constant", "x = a(True, 2, 0.5)", {"x = a(False, 2, 0.5)", "x = a(True, 3, 0.5)", "x = a(True, 2, 1.0)"}),
        ("off by one", "x = a[0, b:]", {"x = a[1, b:]", "x = a[0, (b) + 1:]"}),
        ("off by one", "x = a[:b]", {"x = a[1:b]", "x = a[:(b) - 1]"}),
        ("off by one", "x = a[-1]", {"x = a[-2]"}),
        ("off by one", "x = range(a, b)", {"x = range(a, (b) - 1)"}),
        ("swapped", "x = a(b, c)", {"x = a(c, b)"}),
        ("swapped", "x = min(b, c)", set()),
        ("swapped", "def a():\n    return b, c", {"return c, b"}),
        ("argument dropped", "x = a(b, c=d, e=f)", {"x = a(b, e=f)", "x = a(b, c=d, )"}),
        ("argument dropped", "x = zip(a, b, strict=True)", set()),
        ("opposite", "x = a.amax(dim=b)", {"x = a.amin(dim=b)"}),
        ("returned early", 'def a():\n    """Text."""\n    b()', {"return"}),
        ("returned early", "def a():\n    yield b", set()),
        ("loop stopped", "for a in b:\n    a()\n", {"break"}),
    ],
)
def test_operator_changes_a_line(operator, text, wanted):
    assert made(text, operator) == wanted


def test_every_operator_has_a_case():
    cases = test_operator_changes_a_line.pytestmark[0].args[1]
    assert {case[0] for case in cases} == set(OPERATORS)


@pytest.mark.parametrize(
    "text",
    [
        '"""Text."""',
        'raise ValueError(f"{a + 1}", not b)',
        "assert a < 2",
        "warnings.warn(a, stacklevel=2)",
        "logger.info(1)",
        "x: Literal[1, 2]",
        "def a(b: Literal[1] = c) -> Literal[2]: ...",
        "class A:\n    def __repr__(self):\n        return a + 1",
        "@cache(maxsize=1)\ndef a(): ...",
        "if TYPE_CHECKING:\n    a(1)",
        'x = f"{a + 1}"',
        "def a(b):\n    return AnyError(b, 1)",
    ],
)
def test_what_no_test_sees_stays(text):
    assert not made(text)


def test_change_says_where_it_is():
    both = mutations("module.py", 'class A:\n    def b(self):\n        return "ä", c < d\n')
    assert {(one.function, one.line, one.changed) for one in both} == {
        ("A.b", 3, 'return "ä", c <= d'),
        ("A.b", 3, 'return c < d, "ä"'),
    }
