"""Explanations of strategies: what one reads and edits, its branches and its cost, as data and as text."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmhall.strategies import format_layers

_WIDTH, _HEAD = 100, 10


@dataclass(frozen=True, slots=True)
class OptionValue:
    """An option of a strategy.

    Attributes:
        name: Its name; with several strategies such as "vhr.alpha".
        value: Its value on this model.
        origin: Provenance of the value.
    """

    name: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class OpNote:
    """The description of an op.

    Attributes:
        says: First sentence of its docstring; "" if there is none.
        does: What it reads and edits, such as "edits attention weights".
        layers: 0-based decoder layers it acts in.
        kinds: Kinds of these layers, such as "full" or "cross".
        vision_layers: 0-based encoder layers of the vision tower it acts in.
    """

    says: str
    does: tuple[str, ...]
    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    vision_layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BranchNote:
    """The description of a branch.

    Attributes:
        tokens: Number of tokens of its prompt.
        image_tokens: Number of image tokens, among or beside these as in the main prompt.
        lockstep: Whether it is read once, in lock step with the prompt, and not decoded.
        ops: The ops of its passes.
    """

    tokens: int
    image_tokens: int
    lockstep: bool
    ops: tuple[OpNote, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one prompt, in forward passes of the decoder.

    Attributes:
        prompt_passes: Passes that read the prompt and its branches, one row each.
        token_passes: Passes for each further token.
        token_rows: Rows of these passes together.
        exact: Whether a token costs exactly that; in a strategy's own search it is the most rows, and there may be
            further passes.
    """

    prompt_passes: int
    token_passes: int
    token_rows: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """The effect of a strategy on one request to one model; `str` formats it in lines of at most 100 columns.

    Attributes:
        strategy: The strategy with the options that differ from their defaults or depend on the model.
        model: The model's family and depth.
        tokens: Number of tokens of the prompt.
        image_tokens: Number of image tokens.
        image_in_sequence: Whether image tokens are among the tokens of the prompt; otherwise layers of their own attend
            to them (cross-attention).
        options: Value and provenance of each option.
        ops: The ops of the main rows.
        branches: Further inputs.
        exits: Inner layers whose predictions are read.
        scores: What the scores of a token are made from; "": they are the model's own.
        reread: What of the prompt is read twice: "nothing", "its last token" or "all of it".
        own_picture: Why a picture is read again for each question about it; "": it is read once for all of them.
        chooses: How tokens are chosen.
        cost: Passes and rows.
    """

    strategy: str
    model: str
    tokens: int
    image_tokens: int
    image_in_sequence: bool
    options: tuple[OptionValue, ...]
    ops: tuple[OpNote, ...]
    branches: tuple[BranchNote, ...]
    exits: tuple[str, ...]
    scores: str
    reread: str
    own_picture: str
    chooses: str
    cost: Cost

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as plain data, which JSON can write."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Format the explanation for a reader."""
        return "\n".join(_lines(self))


def _lines(explanation: Explanation) -> Iterator[str]:
    yield from _line("Strategy", explanation.strategy)
    yield from _line("Model", explanation.model)
    reread = "" if explanation.reread == "nothing" else f"; {explanation.reread} is read twice"
    yield from _line("Prompt", f"{_length(explanation, explanation)}{reread}")
    if explanation.image_tokens:
        yield from _line("", f"questions about one picture: {_format_sharing(explanation.own_picture)}")
    for number, option in enumerate(explanation.options):
        yield from _line("" if number else "Options", f"{option.name}={option.value!r}: {option.origin}")
    for number, op in enumerate(explanation.ops):
        yield from _line("" if number else "Steers", _format_op(op))
    for number, branch in enumerate(explanation.branches):
        how = "read in lock step with the prompt, not decoded" if branch.lockstep else "decoded beside the main rows"
        yield from _line("" if number else "Branches", f"{_length(branch, explanation)}; {how}")
        for op in branch.ops:
            yield from _line("", f"in it: {_format_op(op)}")
    for number, early in enumerate(explanation.exits):
        yield from _line("" if number else "Exits", early)
    if explanation.scores:
        yield from _line("Scores", f"made from {explanation.scores}")
    if not (explanation.ops or explanation.branches or explanation.exits or explanation.scores):
        yield from _line("Steers", "nothing: the plain model is decoded")
    yield from _line("Tokens", explanation.chooses)
    cost = explanation.cost
    most = "" if cost.exact else " at most, and more passes where the search wants them"
    yield from _line("Cost", f"the prompt: {counted(cost.prompt_passes, 'pass', 'passes')} of one row")
    passes, rows = counted(cost.token_passes, "pass", "passes"), counted(cost.token_rows, "row", "rows")
    yield from _line("", f"each further token: {passes} of {rows}{' together' if cost.token_passes > 1 else ''}{most}")


def _format_sharing(reason: str) -> str:
    return f"it is read again for each, as {reason}" if reason else "it is read once for all of them"


def _format_op(op: OpNote) -> str:
    where = [f"{_layers(op.layers)} ({', '.join(op.kinds)})"] if op.layers else []
    where += [f"{_layers(op.vision_layers)} of the vision tower"] if op.vision_layers else []
    return f"{'; '.join([*op.does, *(f'in {place}' for place in where)])}. {op.says}".strip()


def _layers(layers: Sequence[int]) -> str:
    return f"{'layer' if len(layers) == 1 else 'layers'} {format_layers(layers)}"


def _length(prompt: Explanation | BranchNote, explanation: Explanation) -> str:
    count = prompt.image_tokens
    pictures = (
        f"{count} of them the picture's" if explanation.image_in_sequence else f"beside them {count} of the picture's"
    )
    return f"{counted(prompt.tokens, 'token', 'tokens')}, {pictures}"


def counted(count: int, singular: str, plural: str) -> str:
    """Write a number with its noun."""
    return f"{count} {singular if count == 1 else plural}"


def _line(head: str, text: str) -> list[str]:
    indent = " " * _HEAD
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{head:<{_HEAD}}", subsequent_indent=f"{indent}  ")
