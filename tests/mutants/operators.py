"""Small changes of a module, made from its syntax tree by named operators.

What no test can see by design is left as it is: docstrings, error texts, messages, `__repr__`, annotations, assertions.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

_COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: (r"\bis\b", "is not"),
    ast.IsNot: (r"\bis\s+not\b", "is"),
    ast.In: (r"\bin\b", "not in"),
    ast.NotIn: (r"\bnot\s+in\b", "in"),
}
_ARITHMETIC = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "%"),
    ast.Mod: ("%", "//"),
    ast.Pow: (r"\*\*", "*"),
    ast.BitOr: (r"\|", "&"),
    ast.BitAnd: ("&", "|"),
}
_PAIRS = ("min max", "amin amax", "argmin argmax", "minimum maximum", "any all", "zeros ones", "zeros_like ones_like")
_OPPOSITES = dict(p for pair in _PAIRS for p in (pair.split(), pair.split()[::-1]))
_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_UNSEEN_CALLS = {"warn", "print", "TypeVar", "NewType"}
_UNSEEN_KEYWORDS = {"strict", "stacklevel", "help", "file", "flush", "repr"}
_SYMMETRIC = {"min", "max", "maximum", "minimum", "isinstance", "issubclass", "isclose", "allclose", "equal"}
_UNSEEN = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mutation:
    """One change of one file.

    Attributes:
        file: Path from the root of the tree.
        function: Dotted name of the function or class around it; empty at the level of the module.
        operator: Name of the operator that made it.
        start: First character that is replaced.
        end: First character after it that is kept.
        text: What stands there instead.
        source: The whole file as it was.
    """

    file: str
    function: str
    operator: str
    start: int
    end: int
    text: str
    source: str = field(repr=False)

    @property
    def mutated(self) -> str:
        """The whole file with the change."""
        return self.source[: self.start] + self.text + self.source[self.end :]

    @property
    def changes(self) -> bool:
        """Whether the change leaves a module, and another than it was."""
        try:
            return ast.dump(ast.parse(self.mutated)) != ast.dump(ast.parse(self.source))
        except SyntaxError:
            return False

    @property
    def line(self) -> int:
        """Line of the change, from 1."""
        return self.source.count("\n", 0, self.start) + 1

    @property
    def diff(self) -> list[str]:
        """Lines that go, with "- ", and that come, with "+ "."""
        lines = difflib.unified_diff(self.source.splitlines(), self.mutated.splitlines(), n=0, lineterm="")
        return [f"{line[0]} {line[1:]}" for line in list(lines)[2:] if line[0] in "-+"]

    @property
    def changed(self) -> str:
        """The first line that comes (or goes, where none comes), without its indentation."""
        ordered = sorted(self.diff, key=lambda line: line[0] == "-")
        return ordered[0][2:].strip()


class Source:
    """A module's text, and where in it nodes of its tree stand."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._lines = [f"{line}\n" for line in text.split("\n")]
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def start(self, node: Any) -> int:
        return self._place(node.lineno, node.col_offset)

    def end(self, node: Any) -> int:
        return self._place(node.end_lineno, node.end_col_offset)

    def of(self, node: Any) -> str:
        return self.text[self.start(node) : self.end(node)]

    def replace(self, node: Any, text: str) -> tuple[int, int, str]:
        return self.start(node), self.end(node), text

    def between(self, left: Any, right: Any, pattern: str, text: str) -> Iterator[tuple[int, int, str]]:
        """Replace an operator that stands between two operands."""
        start, end = self.end(left), self.start(right)
        gap = self.text[start:end]
        found = re.search(pattern, gap)
        if found and "#" not in gap:
            yield start + found.start(), start + found.end(), text

    def _place(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1].encode()[:column].decode())


Edits = Iterator[tuple[int, int, str]]
OPERATORS: dict[str, Callable[[Any, Source], Edits]] = {}


def _operator(make: Callable[[Any, Source], Edits]) -> Callable[[Any, Source], Edits]:
    OPERATORS[make.__name__.lstrip("_").replace("_", " ")] = make
    return make


@_operator
def _comparison(node: Any, source: Source) -> Edits:
    """`a < b` to `a <= b`, `a == b` to `a != b`."""
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        for kind, left, right in zip(node.ops, operands, operands[1:], strict=False):
            yield from source.between(left, right, *_COMPARISONS[type(kind)])


@_operator
def _arithmetic(node: Any, source: Source) -> Edits:
    """`a + b` to `a - b`; no joined texts, no unions of types."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        texts = any(isinstance(part, ast.JoinedStr) or _is(part, str, type(None)) for part in (node.left, node.right))
        types = isinstance(node.op, ast.BitOr) and any(
            isinstance(part, ast.Name) and (part.id[:1].isupper() or part.id in ("int", "str", "float", "bool"))
            for part in (node.left, node.right)
        )
        if not texts and not types:
            yield from source.between(node.left, node.right, *_ARITHMETIC[type(node.op)])


@_operator
def _sign_or_negation_dropped(node: Any, source: Source) -> Edits:
    """`-a` to `a`, `not a` to `a`."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        start = source.start(node)
        yield start, start + len("not" if isinstance(node.op, ast.Not) else "-"), ""


@_operator
def _condition_negated(node: Any, source: Source) -> Edits:
    """`if a` to `if not (a)`, in statements, expressions and comprehensions."""
    tests = [node.test] if isinstance(node, (ast.If, ast.While, ast.IfExp)) else getattr(node, "ifs", [])
    for test in tests:
        yield source.replace(test, f"not ({source.of(test)})")


@_operator
def _guard_dropped(node: Any, source: Source) -> Edits:
    """`if a: return` to `if False: return`; likewise for raise, continue and break."""
    if isinstance(node, ast.If) and not node.orelse and isinstance(node.body[-1], _LEAVES):
        yield source.replace(node.test, "False")


@_operator
def _and_or(node: Any, source: Source) -> Edits:
    """`a and b` to `a or b`, and back."""
    if isinstance(node, ast.BoolOp):
        pattern, text = (r"\band\b", "or") if isinstance(node.op, ast.And) else (r"\bor\b", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from source.between(left, right, pattern, text)


@_operator
def _effect_dropped(node: Any, source: Source) -> Edits:
    """A call for its effect, `a += b`, `a.b = c`, `a[b] = c` or `del a` to `pass`."""
    called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    targets = node.targets if isinstance(node, ast.Assign) else []
    stored = any(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets)
    if called or stored or isinstance(node, (ast.AugAssign, ast.Delete)):
        yield source.replace(node, "pass")


@_operator
def _constant(node: Any, source: Source) -> Edits:
    """`True` to `False`, 2 to 3, 0.5 to 1.0."""
    if _is(node, bool):
        yield source.replace(node, repr(not node.value))
    elif _is(node, int):
        yield source.replace(node, str(node.value + 1))
    elif _is(node, float):
        yield source.replace(node, repr(node.value * 2 or 1.0))


@_operator
def _off_by_one(node: Any, source: Source) -> Edits:
    """`a[1]` to `a[1 + 1]`, `a[b:c]` to `a[b + 1:c]` or `a[b:c - 1]`, `range(a)` to `range(a - 1)`."""
    if isinstance(node, ast.Subscript):
        for part in node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]:
            number = part.operand if isinstance(part, ast.UnaryOp) else part
            if _is(number, int):
                yield source.replace(number, str(number.value + 1))
            elif isinstance(part, ast.Slice):
                if part.lower:
                    yield source.replace(part.lower, f"({source.of(part.lower)}) + 1")
                elif part.upper:
                    start = source.start(part)
                    yield start, start, "1"
                if part.upper:
                    yield source.replace(part.upper, f"({source.of(part.upper)}) - 1")
    if _called(node) == "range" and node.args:
        stop = node.args[min(1, len(node.args) - 1)]
        yield source.replace(stop, f"({source.of(stop)}) - 1")


@_operator
def _swapped(node: Any, source: Source) -> Edits:
    """`a(b, c)` to `a(c, b)`, `return a, b` to `return b, a`."""
    if isinstance(node, ast.Call) and _called(node) not in _SYMMETRIC:
        parts = node.args[:2]
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
        parts = node.value.elts
    else:
        return
    if len(parts) == 2 and not any(isinstance(part, ast.Starred) for part in parts):
        start, end = source.end(parts[0]), source.start(parts[1])
        one, gap, other = source.of(parts[0]), source.text[start:end], source.of(parts[1])
        if ast.dump(parts[0]) != ast.dump(parts[1]) and not gap.strip(" \n").strip(","):
            yield source.start(parts[0]), source.end(parts[1]), other + gap + one


@_operator
def _argument_dropped(node: Any, source: Source) -> Edits:
    """`a(b, c=d)` to `a(b)`."""
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in _UNSEEN_KEYWORDS:
                end = source.end(keyword)
                after = re.match(r",\s*", source.text[end:])
                yield source.start(keyword), end + (after.end() if after else 0), ""


@_operator
def _opposite(node: Any, source: Source) -> Edits:
    """`min` to `max`, `any` to `all`, `zeros` to `ones`."""
    name = _called(node)
    if name in _OPPOSITES:
        end = source.end(node.func)
        yield end - len(name), end, _OPPOSITES[name]


@_operator
def _returned_early(node: Any, source: Source) -> Edits:
    """A function for its effect returns before its first statement."""
    if isinstance(node, ast.FunctionDef) and node.name != "__init__":
        body = node.body[1:] if _is_text(node.body[0]) else node.body
        inside = [inner for statement in body for inner in ast.walk(statement)]
        gives = any(
            isinstance(inner, (ast.Yield, ast.YieldFrom)) or (isinstance(inner, ast.Return) and inner.value)
            for inner in inside
        )
        if body and not gives and not isinstance(body[0], (ast.Raise, ast.Pass)) and not _is_text(body[0]):
            start = source.start(body[0])
            yield start, start, "return\n" + " " * body[0].col_offset


@_operator
def _loop_stopped(node: Any, source: Source) -> Edits:
    """A loop ends after its first round."""
    if isinstance(node, ast.For) and not isinstance(node.body[-1], _LEAVES):
        end = source.end(node.body[-1])
        yield end, end, "\n" + " " * node.body[-1].col_offset + "break"


def mutations(file: str, text: str) -> list[Mutation]:
    """List the changes of a module that its tests could see."""
    source, found = Source(text), {}
    for function, node in _visible(source.tree, ""):
        for name, make in OPERATORS.items():
            for start, end, new in make(node, source):
                found.setdefault((start, end, new), Mutation(file, function, name, start, end, new, text))
    return list(found.values())


def _visible(node: ast.AST, function: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the nodes that do something, each with the name of the function around it."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases", "type"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_unseen(child):
                is_scope = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                inner = f"{function}.{child.name}".lstrip(".") if is_scope else function
                in_index = isinstance(node, (ast.Subscript, ast.Slice)) and name in ("slice", "lower", "upper", "step")
                if not (in_index and isinstance(child, (ast.Constant, ast.UnaryOp))):  # an operator of their own
                    yield inner, child
                    yield from _visible(child, inner)


def _is_unseen(node: ast.AST) -> bool:
    """Whether a node is a message, a type or an assertion."""
    if isinstance(node, ast.FunctionDef):
        returns = ast.unparse(node.returns) if node.returns else ""
        return node.name in ("__repr__", "__str__") or returns.endswith(("Error", "Exception", "NoReturn"))
    if isinstance(node, ast.If):
        return any(name in ast.unparse(node.test) for name in ("TYPE_CHECKING", "__name__"))
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        return "__all__" in ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
    if isinstance(node, ast.keyword):
        return node.arg in _UNSEEN_KEYWORDS
    if isinstance(node, ast.Expr):
        return _is_text(node) or _is_unseen(node.value)
    name = _called(node)
    on = ast.unparse(node.func.value) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
    is_log = re.fullmatch(r"_?(log|logger|logging)", on, re.IGNORECASE)
    return isinstance(node, _UNSEEN) or name in _UNSEEN_CALLS or name.endswith(("Error", "Warning")) or bool(is_log)


def _called(node: Any) -> str:
    """Last name of what a call calls; empty for anything else."""
    func = getattr(node, "func", None)
    return getattr(func, "attr", getattr(func, "id", "")) if isinstance(node, ast.Call) else ""


def _is(node: Any, *kinds: type) -> bool:
    """Whether a node is a constant of exactly one of these types."""
    return isinstance(node, ast.Constant) and type(node.value) in kinds


def _is_text(node: Any) -> bool:
    """Whether a statement is a text or an ellipsis."""
    return isinstance(node, ast.Expr) and _is(node.value, str, type(...))
