"""What visitors take away: Python code, shell commands and a notebook that repeat a comparison, and its table.

A prompt may hold anything, so each export quotes it for its reader. Options that were tuned for the model are written
out, so that the answers are the same on a machine that does not have them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmhall.demo import table
from mmhall.demo.setups import Setup
from mmhall.errors import MmhallError, PromptError
from mmhall.generation import make_recipe
from mmhall.models import to_flags
from mmhall.text import printable

if TYPE_CHECKING:
    from mmhall.lvlm import LVLM

_NONE: Mapping[str, Any] = MappingProxyType({})
_WIDTH = 80  # characters of code after which arguments stand on lines of their own


@dataclass(frozen=True, slots=True)
class Picture:
    """Picture of a comparison.

    Attributes:
        file: Path in the exported code and commands; not used for a scene.
        scene: Seed and index of a bundled scene; None: a file.
    """

    file: str
    scene: tuple[int, int] | None = None


def exports(lvlm: LVLM, setup: Setup, picture: Picture, records: Any) -> dict[str, str]:
    """Return what repeats a comparison, "python", "shell" and "notebook", and its table, "csv", "markdown" and "latex".

    Where no command line can hold the prompt, the commands are a comment with the reason.

    Args:
        lvlm: The model, which fits the strategies.
        setup: The set-up.
        picture: The picture.
        records: The column records, as a visitor sends them.

    Raises:
        OptionError: These are no column records.
    """
    told = table.rows(records, lvlm.name)
    made = replace(setup, strategies=tuple(_fit(lvlm, spec, setup.settings) for spec in setup.strategies))
    try:
        shell = command_line(made, lvlm.name, picture, lvlm.loading)
    except PromptError as error:
        shell = f"# {error}\n"
    return {
        "python": python_code(made, lvlm.name, picture, lvlm.loading),
        "shell": shell,
        "notebook": notebook(made, lvlm.name, picture, lvlm.loading),
        "csv": table.as_csv(told),
        "markdown": table.as_markdown(told),
        "latex": table.as_latex(told),
    }


def python_code(setup: Setup, model: str, picture: Picture, loading: Mapping[str, Any] = _NONE) -> str:
    """Write Python code that repeats a comparison and prints its answers.

    Args:
        setup: The set-up.
        model: As `mmhall.load` takes it.
        picture: The picture.
        loading: The other options of `mmhall.load`.
    """
    first, second = _code_cells(setup, model, picture, loading)
    return f"{first}\n{second}print(comparison)\n"


def notebook(setup: Setup, model: str, picture: Picture, loading: Mapping[str, Any] = _NONE) -> str:
    """Write a Jupyter notebook that repeats a comparison and shows it, as JSON; arguments as in `python_code`."""
    first, second = _code_cells(setup, model, picture, loading)
    needs = "" if picture.scene else f" It needs the picture beside it, as {json.dumps(picture.file)}."
    told = "A comparison of answers, made by the page of mmhall. Point at a word, or walk with the arrow keys."
    code: dict[str, Any] = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    cells: list[dict[str, Any]] = [
        {"id": "about", "cell_type": "markdown", "metadata": {}, "source": told + needs},
        {"id": "model", **code, "source": first.rstrip()},
        {"id": "comparison", **code, "source": f"{second}comparison"},
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    data = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(data, indent=1) + "\n"


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


def _fit(lvlm: LVLM, spec: str, settings: Mapping[str, Any]) -> str:
    """Return a strategy with all its options in force; one that does not work with the model, as it was asked for."""
    try:
        return str(make_recipe(lvlm.adapter, spec, settings).strategy)
    except MmhallError:
        return spec


def _code_cells(setup: Setup, model: str, picture: Picture, loading: Mapping[str, Any]) -> tuple[str, str]:
    """Return the code that loads the model and the picture, and the code that compares."""
    drawn = picture.scene
    opened = repr(picture.file) if drawn is None else f"make_scene({drawn[0]!r}, {drawn[1]!r}).image"
    load = f"lvlm = mmhall.load({', '.join([repr(model), *(f'{k}={v!r}' for k, v in loading.items())])})"
    first = [
        "import mmhall",
        *(["from mmhall.benchmarks.scenes import make_scene"] if drawn is not None else []),
        "",
        load,
        f"picture = {opened}",
    ]
    truth = {name: list(names) for name in ("present", "absent") if (names := getattr(setup, name)) is not None}
    named = [f"{name}={value!r}" for name, value in {**truth, **setup.settings}.items()]
    arguments = ["picture", repr(setup.prompt), repr(list(setup.strategies)), "lvlm", *named]
    line = f"comparison = mmhall.compare({', '.join(arguments)})\n"
    if len(line) > _WIDTH:
        line = "comparison = mmhall.compare(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")\n"
    return "\n".join(first) + "\n", line


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
