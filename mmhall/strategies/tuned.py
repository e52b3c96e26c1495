"""Tuned options of one model: a small JSON file beside it, written by `mmhall tune` and read by `mmhall.load`.

The file identifies the weights that its values were tuned for; see `mmhall.models`. `mmhall.load` compares them with
the loaded weights, and refuses values that were tuned for others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmhall import files
from mmhall.errors import DataError, MmhallError, ModelError, OptionError, UnknownNameError
from mmhall.models import describe_model, differing_facts, facts, find_learned_path, format_differences, warn_if_unknown
from mmhall.options import rules
from mmhall.strategies import Strategy, strategy
from mmhall.strategies._learned import LearnedStrategy

if TYPE_CHECKING:
    from mmhall.adapters import Adapter

FILE = "mmhall.json"
FORMAT = "mmhall tuned options, 1"
Where = str | Path | Literal[False] | None
Options = dict[str, dict[str, Any]]


def default_file(name: str | Path) -> Path:
    """Return the default file of a model's tuned options: in the model's folder, else among the user's settings.

    Args:
        name: As `mmhall.load` takes it.
    """
    return find_learned_path(name, FILE, "tuned/{}.json")


def find(name: str | Path, where: Where) -> Path | None:
    """Return the file of a model's tuned options; None: there is none.

    Args:
        name: As `mmhall.load` takes it.
        where: A file; False: none; None: the default file.

    Raises:
        OptionError: `where` is none of these.
        DataError: There is no such file.
    """
    if where is False:
        return None
    if where is None:
        return file if files.why_not_a_file(file := default_file(name)) is None else None
    if not isinstance(where, str | Path) or not str(where):
        raise OptionError("load", "tuned", where, "a file written by `mmhall tune`, or False for none")
    reason = files.why_not_a_file(Path(where))
    if reason is not None:
        raise DataError(f"{where}: {reason}; give a file written by `mmhall tune`, or tuned=False for none")
    return Path(where)


def read(path: Path) -> dict[str, Any]:
    """Read a file and check its format, strategies, options and values.

    Raises:
        DataError: It is damaged, or has a strategy or option that this mmhall does not have.
    """
    try:
        content = json.loads(files.read_text(path))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {FORMAT!r}")
        if not isinstance(content["model"], dict) or not isinstance(content["model"]["name"], str):
            raise TypeError("it does not say which model it is for")
        for name, entry in content["strategies"].items():
            check_options(name, entry["options"])
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {_WAYS}") from error
    except MmhallError as error:
        raise DataError(f"{path}: {error}; correct it, or {_WAYS}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: is no file of tuned options, or is damaged ({type(error).__name__}: {error}); {_WAYS}"
        ) from error
    return dict(content)


_WAYS = "run `mmhall tune` again, give a file it wrote for this model, or use tuned=False (--tuned none)"


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check a strategy's tuned options: each exists, depends on the model, and has an allowed value.

    Args:
        name: Name of the strategy, or of a composition such as "vcd+vhr".
        options: Values by name; in a composition, names such as "vhr.layers".

    Raises:
        MmhallError: An option fails the check.
    """
    parts = {part: strategy(part) for part in name.split("+")}
    values: dict[str, Any] = {}
    for option, value in options.items():
        part, _, name_in_part = option.rpartition(".")
        owner = parts.get(part if len(parts) > 1 else name)
        if owner is None:
            raise OptionError(name, option, value, f"written with the part it is of, one of {', '.join(parts)}")
        rule = rules(type(owner)).get(name_in_part)
        if rule is not None and not rule.by_model:
            raise OptionError(name, option, value, "left out: it does not depend on the model")
        values[option] = tuple(value) if isinstance(value, list) else value
        strategy(owner, **{name_in_part: values[option]})
    return values


def options_for(path: Path | None, adapter: Adapter) -> Options:
    """Read the tuned options of a model, by strategy.

    Raises:
        DataError: As in `read`.
        ModelError: The options were tuned for other weights.
    """
    if path is None:
        return {}
    content = read(path)
    check_model(path, content, adapter)
    entries = content["strategies"].items()
    return {name: check_options(name, entry["options"]) for name, entry in entries if _is_installed(name)}


def _is_installed(name: str) -> bool:
    """Whether all parts of a strategy are installed; a plug-in may be missing."""
    try:
        return all(strategy(part) for part in name.split("+"))
    except UnknownNameError:
        return False


def check_model(path: Path, content: Mapping[str, Any], adapter: Adapter) -> None:
    """Check that a file's options were tuned for this model; warn if weights cannot be compared.

    Raises:
        ModelError: They were tuned for another model; the message names the difference.
    """
    model, own = content["model"], facts(adapter)
    differ = differing_facts(model, own)
    if differ:
        difference = format_differences(differ, model, own)
        raise ModelError(
            f"{path}: was tuned for {model['name']!r} with other weights than this model's ({difference}); {_WAYS}"
        )
    warn_if_unknown(str(path), model, own)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all.

    Raises:
        DataError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_path(path) as scratch:
            scratch.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; choose another file with --out") from error


def open_options(method: Strategy) -> dict[str, tuple[Any, ...]]:
    """Return a strategy's open options that can be tuned, with the values to try.

    Options that the artifact of a fitted strategy fixes are left out.
    """
    fixed = rules(type(method)).keys() - method.adjustable if isinstance(method, LearnedStrategy) else ()
    return {
        option: rule.tries
        for option, rule in rules(type(method)).items()
        if rule.by_model and rule.tries and option not in fixed and getattr(method, option) is None
    }


def open_or_create(path: Path, adapter: Adapter, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file, or of a new one, to add tuned options to.

    Args:
        path: The file.
        adapter: The model.
        identity: The result of `LVLM.identity`.

    Raises:
        DataError: The file is damaged.
        ModelError: The file is of another model.
    """
    own = describe_model(adapter, identity)
    if files.why_not_a_file(path) == "does not exist":
        return {"format": FORMAT, "model": own, "strategies": {}}
    content = read(path)
    check_model(path, content, adapter)
    model = content["model"]
    if model.get("dtype") == own["dtype"] and model.get("weights") not in (None, own["weights"]):
        raise ModelError(
            f"{path}: was tuned for {model['name']!r} with other weights than this model's; "
            "choose another with --out, or delete it"
        )
    return content
