"""What people take away from a comparison: its set-up, the code and the commands that repeat it, its figures.

A set-up comes back from whoever pastes it, so it is read as a stranger's. What is written holds a stranger's prompt,
so it is quoted for whatever reads it: Python, a shell, a spreadsheet.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from mmhall import __version__
from mmhall.demo.compare import Column, ratio
from mmhall.demo.setups import Setup, setup as checked
from mmhall.demo.words import named, split_by_truth
from mmhall.errors import DataError, MmhallError, PromptError
from mmhall.models import as_flags
from mmhall.results.export import escape_formula
from mmhall.text import printable

LONGEST = 20_000
_TOLD, _LABEL = 400, 200
_NONE: Mapping[str, Any] = MappingProxyType({})
_ORIGINS = ("mmhall", "model", "picture")
_SHAPE = '{"setup": {"prompt": "...", "strategies": ["greedy", "vcd"]}}'


@dataclass(frozen=True, slots=True)
class Picture:
    """Which picture a comparison is about.

    Attributes:
        label: How people call it, such as "scene 2026/4" or "photo.png (sha256 0123456789ab)".
        file: Where it lies for whoever repeats the comparison; of a scene, nothing is read from it.
        scene: Seed and index of a bundled scene; None: a file.
    """

    label: str
    file: str
    scene: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A set-up that somebody pasted.

    Attributes:
        setup: Checked.
        picture: Label of the picture it was made with, "" if it says none.
        note: What may make its answers differ here, "" if nothing.
    """

    setup: Setup
    picture: str
    note: str


def as_json(setup: Setup, model: str, picture: str) -> str:
    """Write a set-up as JSON that `from_json` reads; characters that would not show are escaped.

    Args:
        setup: The set-up.
        model: What answered.
        picture: Label of the picture, which stays apart.
    """
    told = {"mmhall": __version__, "model": model, "picture": picture, "setup": setup.data()}
    return printable(json.dumps(told, ensure_ascii=False, indent=2))


def from_json(text: Any, model: str, owned: Collection[str] = ()) -> Loaded:
    """Read a set-up, whatever a person pastes.

    Args:
        text: What was pasted.
        model: What would answer here.
        owned: Specs that the owner of the page offers.

    Raises:
        DataError: It is no set-up, or one that may not be asked for here.
    """
    try:
        told = _parsed(text)
        made, _ = checked(told["setup"], owned)
    except RecursionError:
        raise DataError(f"this is nested too deeply to be a set-up; expected {_SHAPE}") from None
    except DataError:
        raise
    except MmhallError as error:
        raise DataError(_short(f"this set-up cannot be used here: {error}", _TOLD)) from error
    here = {"mmhall": __version__, "model": model}
    others = [
        f"{field} {_label(told[field])} (here: {_label(now)})"
        for field, now in here.items()
        if told.get(field, now) != now
    ]
    note = f"made with {' and '.join(others)}: its answers may differ" if others else ""
    return Loaded(made, _label(told.get("picture", "")), note)


def python_code(setup: Setup, model: str, picture: Picture, loading: Mapping[str, Any] = _NONE) -> str:
    """Write a script that gives the answers of a comparison.

    Args:
        setup: The set-up.
        model: As `mmhall.load` takes it.
        picture: What it is about.
        loading: The other options of `mmhall.load`.
    """
    drawn = picture.scene is not None
    seed, index = picture.scene or (0, 0)
    lines = [
        "import mmhall",
        *(["from mmhall.benchmarks.scenes import make_scene"] if drawn else []),
        "",
        f"lvlm = mmhall.load({', '.join([repr(model), *(f'{k}={v!r}' for k, v in loading.items())])})",
        f"picture = make_scene({seed!r}, {index!r}).image" if drawn else f"picture = {picture.file!r}",
        f"prompt = {setup.prompt!r}",
        f"settings = {setup.settings!r}",
        "strategies = [",
        *(f"    {spec!r}," for spec in setup.strategies),
        "]",
        "for strategy in strategies:",
        "    answer = lvlm.generate(picture, prompt, strategy, **settings)",
        r'    print(f"{answer.strategy} ({answer.usage.seconds:.2f} s)\n{answer.text}\n")',
    ]
    return "\n".join(lines) + "\n"


def command_line(setup: Setup, model: str, picture: Picture, loading: Mapping[str, Any] = _NONE) -> str:
    """Write the commands, for bash or zsh, that give the answers of a comparison.

    Args:
        setup: The set-up.
        model: As `mmhall generate` takes it.
        picture: What it is about; a scene is drawn first.
        loading: The other options of `mmhall.load`.

    Raises:
        PromptError: The prompt, or a name, has characters that no command line can carry.
    """
    commands, file = list[list[str]](), picture.file
    if picture.scene is not None:
        seed, index = picture.scene
        commands.append(["mmhall", "scenes", "--n", str(index + 1), "--seed", str(seed), "--out", f"scenes-{seed}"])
        file = f"scenes-{seed}/{index + 1:06d}.png"
    asked = [f"./{file}" if file.startswith("-") else file, setup.prompt]
    shared = [] if model == "embedded" else ["--model", model]
    shared += as_flags(loading)
    shared += ["--max-new-tokens", str(setup.max_new_tokens)]
    if setup.temperature:
        shared += ["--sample", "--temperature", repr(setup.temperature), "--seed", str(setup.seed)]
    for spec in setup.strategies:
        options = ["--strategy", spec, *shared]
        dashed = setup.prompt.startswith("-")
        commands.append(["mmhall", "generate", *([*options, "--", *asked] if dashed else [*asked, *options])])
    return "".join(" ".join(map(_quoted, command)) + "\n" for command in commands)


def csv_text(setup: Setup, columns: Sequence[Column], present: Collection[str] | None, model: str) -> str:
    """Write the figures of a comparison as CSV, one row a column.

    A cell that a spreadsheet would take for a formula (it starts with =, +, -, @, a tab or a carriage return) gets a
    leading apostrophe.

    Args:
        setup: The set-up.
        columns: What was said.
        present: Objects in the picture; None: not known, and so is what is hallucinated.
        model: What answered.
    """
    file = io.StringIO(newline="")
    rows = [
        _row(column, columns[0], present, setup.absent) | {"prompt": setup.prompt, "model": model} for column in columns
    ]
    lines = csv.writer(file)
    lines.writerow(rows[0] if rows else [])
    lines.writerows([escape_formula(_utf8(cell)) for cell in row.values()] for row in rows)
    return file.getvalue()


def _row(
    column: Column, first: Column, present: Collection[str] | None, absent: Collection[str] | None
) -> dict[str, Any]:
    answer, objects = column.answer, named(column.text, present or ())
    known = present is not None
    right, wrong = split_by_truth(objects, present, absent)
    return {
        "strategy": column.strategy,
        "fitted strategy": "" if answer is None else answer.strategy,
        "text": column.text,
        "seconds": column.seconds,
        "tokens": column.tokens,
        "tokens per second": column.rate,
        "time per token, ratio to the first": ratio(column, first),
        "objects named": ", ".join(objects),
        "supported": ", ".join(right) if known else None,
        "hallucinated": ", ".join(wrong) if known else None,
        "state": column.state,
        "stopped by": "" if answer is None else answer.stopped_by,
        "error": column.error,
    }


def _parsed(text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"there is no set-up; paste one such as {_SHAPE}")
    if len(text) > LONGEST:
        raise DataError(f"this has {len(text):,} characters; a set-up has at most {LONGEST:,}")
    try:
        told = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise DataError(_short(f"this is not JSON: {error}; expected {_SHAPE}", _TOLD)) from error
    if not isinstance(told, dict) or "setup" not in told:
        raise DataError(f"this is no set-up; expected {_SHAPE}")
    known = (*_ORIGINS, "setup")
    for field in told:
        if field not in known:
            raise DataError(f"a set-up has {', '.join(known)}, but no {_short(field, _LABEL)!r}")
        if field in _ORIGINS and not isinstance(told[field], str):
            raise DataError(f'"{field}" of a set-up must be a text, got {_short(repr(told[field]), _LABEL)}')
    return told


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _label(text: str) -> str:
    return _short(printable(" ".join(text.split())), _LABEL)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _quoted(word: str) -> str:
    """Quote a word for the shell; what a terminal would act on when it is pasted is written out."""
    if printable(word) == word and "\n" not in word and "\t" not in word:
        return shlex.quote(word)
    try:
        written = "".join(map(_escaped, word))
    except UnicodeEncodeError:
        raise PromptError("half a surrogate pair cannot be given on a command line; use the Python code") from None
    if "\0" in word:
        raise PromptError("a NUL character cannot be given on a command line; use the Python code")
    return f"$'{written}'"


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    return letter if letter.isprintable() else "".join(f"\\{byte:03o}" for byte in letter.encode())


def _utf8(cell: Any) -> Any:
    return cell.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(cell, str) else cell
