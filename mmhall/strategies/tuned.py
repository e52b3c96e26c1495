"""Options tuned for one model: a small JSON file beside it, written by `mmhall tune` and read by `mmhall.load`.

The file says for which weights its values were found, see `mmhall/models/_facts.py`. This is compared when a model is
loaded; values found for other weights are refused, never used silently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmhall import files
from mmhall.errors import DataError, MmhallError, ModelError, OptionError, UnknownNameError
from mmhall.models import contrasted, described, differing, facts, learned_at, warn_if_unknown
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
    """Return where the options tuned for a model are looked for: in its folder, else among the user's settings.

    Args:
        name: As `mmhall.load` takes it.
    """
    return learned_at(name, FILE, "tuned/{}.json")


def find(name: str | Path, where: Where) -> Path | None:
    """Return the file to use for a model, if there is one.

    Args:
        name: As `mmhall.load` takes it.
        where: A file; False for none; None to look in the usual place.

    Raises:
        OptionError: It is none of these.
        DataError: The file named cannot be one.
    """
    if where is False:
        return None
    if where is None:
        return found if files.no_file(found := default_file(name)) is None else None
    if not isinstance(where, str | Path) or not str(where):
        raise OptionError("load", "tuned", where, "a file written by `mmhall tune`, or False for none")
    reason = files.no_file(Path(where))
    if reason is not None:
        raise DataError(f"{where}: {reason}; give a file written by `mmhall tune`, or tuned=False for none")
    return Path(where)


def read(path: Path) -> dict[str, Any]:
    """Read a file and check it: its form, and that every strategy, option and value exists.

    Raises:
        DataError: It is damaged, or holds what this mmhall does not know.
    """
    try:
        held = json.loads(files.read_text(path))
        if held["format"] != FORMAT:
            raise ValueError(f"its format is {held['format']!r}, expected {FORMAT!r}")
        if not isinstance(held["model"], dict) or not isinstance(held["model"]["name"], str):
            raise TypeError("it does not say which model it is for")
        for name, entry in held["strategies"].items():
            check_options(name, entry["options"])
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {_WAYS}") from error
    except MmhallError as error:
        raise DataError(f"{path}: {error}; correct it, or {_WAYS}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: is no file of tuned options, or is damaged ({type(error).__name__}: {error}); {_WAYS}"
        ) from error
    return dict(held)


_WAYS = "run `mmhall tune` again, give a file it wrote for this model, or use tuned=False (--tuned none)"


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a strategy's tuned options if they exist, depend on the model, and have possible values.

    Args:
        name: Of the strategy, or of several as in "vcd+vhr".
        options: By name; of several strategies as "vhr.layers".

    Raises:
        MmhallError: They cannot be used.
    """
    parts = {part: strategy(part) for part in name.split("+")}
    values: dict[str, Any] = {}
    for option, value in options.items():
        part, _, own = option.rpartition(".")
        owner = parts.get(part if len(parts) > 1 else name)
        if owner is None:
            raise OptionError(name, option, value, f"written with the part it is of, one of {', '.join(parts)}")
        rule = rules(type(owner)).get(own)
        if rule is not None and not rule.by_model:
            raise OptionError(name, option, value, "left out: it does not depend on the model")
        values[option] = tuple(value) if isinstance(value, list) else value
        strategy(owner, **{own: values[option]})
    return values


def options_for(path: Path | None, adapter: Adapter) -> Options:
    """Return a file's options by strategy, if they were found for this model.

    Raises:
        DataError: The file is damaged, or holds what this mmhall does not know.
        ModelError: They were found for another model.
    """
    if path is None:
        return {}
    held = read(path)
    check_model(path, held, adapter)
    entries = held["strategies"].items()
    return {name: check_options(name, entry["options"]) for name, entry in entries if _known(name)}


def _known(name: str) -> bool:
    """Whether every part is there: what was tuned for a plug-in that is not installed waits for it."""
    try:
        return all(strategy(part) for part in name.split("+"))
    except UnknownNameError:
        return False


def check_model(path: Path, held: Mapping[str, Any], adapter: Adapter) -> None:
    """Refuse values found for another model, and warn where that cannot be told.

    Raises:
        ModelError: They were, naming what differs.
    """
    model, own = held["model"], facts(adapter)
    differ = differing(model, own)
    if differ:
        told = contrasted(differ, model, own)
        raise ModelError(
            f"{path}: was tuned for {model['name']!r} with other weights than this model's ({told}); {_WAYS}"
        )
    warn_if_unknown(str(path), model, own)


def write(path: Path, held: Mapping[str, Any]) -> None:
    """Write a file in one step, so that it is whole or not there.

    Raises:
        DataError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as scratch:
            scratch.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}; choose another file with --out") from error


def open_options(method: Strategy) -> dict[str, tuple[Any, ...]]:
    """Return a strategy's options that are left open and worth trying, with the values to try.

    What a strategy that learns was fitted with is not: its artifact says it.
    """
    fixed = rules(type(method)).keys() - method.adjustable if isinstance(method, LearnedStrategy) else ()
    return {
        option: rule.tries
        for option, rule in rules(type(method)).items()
        if rule.by_model and rule.tries and option not in fixed and getattr(method, option) is None
    }


def open_or_create(path: Path, adapter: Adapter, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's content, or that of a new one, to add a strategy's options to.

    Args:
        path: The file.
        adapter: The model.
        identity: What `LVLM.identity` tells of it.

    Raises:
        DataError: The file is damaged.
        ModelError: It is another model's.
    """
    own = described(adapter, identity)
    if files.no_file(path) == "does not exist":
        return {"format": FORMAT, "model": own, "strategies": {}}
    held = read(path)
    check_model(path, held, adapter)
    known = held["model"]
    if known.get("dtype") == own["dtype"] and known.get("weights") not in (None, own["weights"]):
        raise ModelError(
            f"{path}: was tuned for {known['name']!r} with other weights than this model's; "
            "choose another with --out, or delete it"
        )
    return held
