"""Exports of a comparison: its set-up, the code and commands that repeat it, and its figures.

A pasted set-up is not trusted and therefore checked. A prompt may hold anything, so exports quote it for their reader:
Python, a shell, a spreadsheet.
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
from mmhall.demo.compare import Column, time_ratio
from mmhall.demo.setups import Setup, setup as check_setup
from mmhall.demo.words import named_objects, split_by_truth
from mmhall.errors import DataError, MmhallError, PromptError
from mmhall.models import to_flags
from mmhall.results.export import escape_formula
from mmhall.text import printable

LONGEST = 20_000
_LONGEST_ERROR, _LONGEST_LABEL = 400, 200
_NONE: Mapping[str, Any] = MappingProxyType({})
_PROVENANCE = ("mmhall", "model", "picture")
_SHAPE = '{"setup": {"prompt": "...", "strategies": ["greedy", "vcd"]}}'


@dataclass(frozen=True, slots=True)
class Picture:
    """Identity of a comparison's picture.

    Attributes:
        label: Text for people, such as "scene 2026/4" or "photo.png (sha256 0123456789ab)".
        file: Path in the exported code and commands; not used for a scene.
        scene: Seed and index of a bundled scene; None: a file.
    """

    label: str
    file: str
    scene: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class LoadedSetup:
    """A pasted set-up.

    Attributes:
        setup: The set-up, checked.
        picture: Label of the picture it was made with; "" if it names none.
        note: Differences that may change the answers here; "" if there are none.
    """

    setup: Setup
    picture: str
    note: str


def as_json(setup: Setup, model: str, picture: str) -> str:
    """Write a set-up as JSON for `from_json`; invisible characters are escaped.

    Args:
        setup: The set-up.
        model: Name of the model that answered.
        picture: Label of the picture, which is not part of the set-up.
    """
    data = {"mmhall": __version__, "model": model, "picture": picture, "setup": setup.data()}
    return printable(json.dumps(data, ensure_ascii=False, indent=2))


def from_json(text: Any, model: str, owner_specs: Collection[str] = ()) -> LoadedSetup:
    """Read a pasted set-up.

    Args:
        text: The pasted text.
        model: Name of the model that answers here.
        owner_specs: Specifications that the page's owner offers.

    Raises:
        DataError: The text is not a set-up, or this page does not allow it.
    """
    try:
        data = _parse(text)
        setup, _ = check_setup(data["setup"], owner_specs)
    except RecursionError:
        raise DataError(f"this is nested too deeply to be a set-up; expected {_SHAPE}") from None
    except DataError:
        raise
    except MmhallError as error:
        raise DataError(_short(f"this set-up cannot be used here: {error}", _LONGEST_ERROR)) from error
    here = {"mmhall": __version__, "model": model}
    differences = [
        f"{field} {_clean_label(data[field])} (here: {_clean_label(now)})"
        for field, now in here.items()
        if data.get(field, now) != now
    ]
    note = f"made with {' and '.join(differences)}: its answers may differ" if differences else ""
    return LoadedSetup(setup, _clean_label(data.get("picture", "")), note)


def python_code(setup: Setup, model: str, picture: Picture, loading: Mapping[str, Any] = _NONE) -> str:
    """Write Python code that repeats a comparison.

    Args:
        setup: The set-up.
        model: As `mmhall.load` takes it.
        picture: The picture.
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
    """Write the commands, for bash or zsh, that repeat a comparison.

    Args:
        setup: The set-up.
        model: As `mmhall generate` takes it.
        picture: The picture; a scene is drawn first.
        loading: The other options of `mmhall.load`.

    Raises:
        PromptError: The prompt or a name has characters that a command line cannot hold.
    """
    commands, file = list[list[str]](), picture.file
    if picture.scene is not None:
        seed, index = picture.scene
        commands.append(["mmhall", "scenes", "--n", str(index + 1), "--seed", str(seed), "--out", f"scenes-{seed}"])
        file = f"scenes-{seed}/{index + 1:06d}.png"
    arguments = [f"./{file}" if file.startswith("-") else file, setup.prompt]
    shared = [] if model == "embedded" else ["--model", model]
    shared += to_flags(loading)
    shared += ["--max-new-tokens", str(setup.max_new_tokens)]
    if setup.temperature:
        shared += ["--sample", "--temperature", repr(setup.temperature), "--seed", str(setup.seed)]
    for spec in setup.strategies:
        options = ["--strategy", spec, *shared]
        dashed = setup.prompt.startswith("-")
        commands.append(["mmhall", "generate", *([*options, "--", *arguments] if dashed else [*arguments, *options])])
    return "".join(" ".join(map(_quote, command)) + "\n" for command in commands)


def csv_text(setup: Setup, columns: Sequence[Column], present: Collection[str] | None, model: str) -> str:
    """Write the figures of a comparison as CSV, one row for each column.

    A cell that a spreadsheet would read as a formula (it starts with =, +, -, @, a tab or a carriage return) gets a
    leading apostrophe.

    Args:
        setup: The set-up.
        columns: The answers.
        present: Objects in the picture; None: not known, and no object is supported or hallucinated.
        model: Name of the model that answered.
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
    answer, objects = column.answer, named_objects(column.text, present or ())
    truth_known = present is not None
    right, wrong = split_by_truth(objects, present, absent)
    return {
        "strategy": column.strategy,
        "fitted strategy": "" if answer is None else answer.strategy,
        "text": column.text,
        "seconds": column.seconds,
        "tokens": column.tokens,
        "tokens per second": column.rate,
        "time per token, ratio to the first": time_ratio(column, first),
        "objects named": ", ".join(objects),
        "supported": ", ".join(right) if truth_known else None,
        "hallucinated": ", ".join(wrong) if truth_known else None,
        "state": column.state,
        "stopped by": "" if answer is None else answer.stopped_by,
        "error": column.error,
    }


def _parse(text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"there is no set-up; paste one such as {_SHAPE}")
    if len(text) > LONGEST:
        raise DataError(f"this has {len(text):,} characters; a set-up has at most {LONGEST:,}")
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise DataError(_short(f"this is not JSON: {error}; expected {_SHAPE}", _LONGEST_ERROR)) from error
    if not isinstance(data, dict) or "setup" not in data:
        raise DataError(f"this is no set-up; expected {_SHAPE}")
    fields = (*_PROVENANCE, "setup")
    for field in data:
        if field not in fields:
            raise DataError(f"a set-up has {', '.join(fields)}, but no {_short(field, _LONGEST_LABEL)!r}")
        if field in _PROVENANCE and not isinstance(data[field], str):
            raise DataError(f'"{field}" of a set-up must be a text, got {_short(repr(data[field]), _LONGEST_LABEL)}')
    return data


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _clean_label(text: str) -> str:
    return _short(printable(" ".join(text.split())), _LONGEST_LABEL)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _quote(word: str) -> str:
    """Quote a word for the shell; control characters, on which a terminal would act, become octal escapes."""
    if printable(word) == word and "\n" not in word and "\t" not in word:
        return shlex.quote(word)
    try:
        escaped = "".join(map(_escape, word))
    except UnicodeEncodeError:
        raise PromptError("half a surrogate pair cannot be given on a command line; use the Python code") from None
    if "\0" in word:
        raise PromptError("a NUL character cannot be given on a command line; use the Python code")
    return f"$'{escaped}'"


def _escape(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    return letter if letter.isprintable() else "".join(f"\\{byte:03o}" for byte in letter.encode())


def _utf8(cell: Any) -> Any:
    return cell.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(cell, str) else cell
