"""Fitted artifacts: what a strategy has learnt offline about one model, written by `mmhall fit`.

An artifact is two files: tensors in NAME.safetensors, and NAME.json beside it, which says what they are, on which model
and data they were fitted, and the SHA-256 of the other file. `mmhall.load` reads them and refuses those of another
model, revision or chat template by name of what differs. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors
from torch import Tensor

from mmhall import files
from mmhall.errors import DataError, ModelError, OptionError
from mmhall.models import chat_template, contrasted, differing, facts, learned_at, warn_if_unknown
from mmhall.options import parse

if TYPE_CHECKING:
    from mmhall.adapters import Adapter

FORMAT = "mmhall fitted artifact, 1"
TENSORS, FACTS = ".safetensors", ".json"
Where = str | Path | Literal[False] | None

_WAYS = "run `mmhall fit` again, give another file, or use artifacts=False (--artifacts none)"
_OWN = ("format", "strategy", "tensors", "sha256")  # fields of the JSON that are no facts
_DIGITS = 12
_CLAIM, _BEGINNING = b'"mmhall fitted artifact', 4096  # what a file's first bytes hold


@dataclass(frozen=True)
class Artifact:
    """What a strategy has learnt about one model.

    Attributes:
        strategy: Its name.
        tensors: By name, on the CPU; finite.
        facts: How it was made, as JSON can write it: "model" (what it is called, its facts, "chat_template",
            "processor"), "data" (source, digest, pairs, ids, prompts), "seed", "options", "date", "mmhall", "numbers"
            (the strategy's own) and "remarks".
        path: The JSON file it was read from; None: it was just made.
        refused: Why the model it was loaded with cannot use it; None: it can.
    """

    strategy: str
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    path: Path | None = field(default=None, compare=False)
    refused: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Keep tensors as a file does, and refuse what nobody could use.

        Raises:
            DataError: There are none, or one holds NaN or infinity.
        """
        kept = {  # copies: a file holds no two views of one memory
            name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, tensor in self.tensors.items()
        }
        if not kept:
            raise DataError(f"{self._named}: an artifact without tensors holds nothing; {_WAYS}")
        for name, tensor in kept.items():
            if tensor.is_floating_point() and not bool(
                tensor.double().isfinite().all()
            ):  # which float8 does not tell itself
                raise DataError(f"{self._named}: tensor {name!r} holds NaN or infinity; {_WAYS}")
        object.__setattr__(self, "tensors", kept)

    @property
    def _named(self) -> str:
        return str(self.path or self.strategy)

    @cached_property
    def content(self) -> bytes:
        """The tensors as a safetensors file holds them."""
        return save_tensors(dict(self.tensors))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of that file, 64 hex digits."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def digest(self) -> str:
        """Its first digits: the value of a strategy's option `artifact`."""
        return self.sha256[:_DIGITS]

    @property
    def fitted_with(self) -> dict[str, Any]:
        """The strategy's options when it was fitted, by name; those that had their defaults are left out."""
        return parse(self.facts["options"])[1]

    @property
    def origin(self) -> str:
        """Say on what it was fitted, in a line."""
        data = self.facts["data"]
        return f"fitted on {data['pairs']} pairs of {data['source']} ({data['digest']}), seed {self.facts['seed']}"

    def record(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        shapes = {
            name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in self.tensors.items()
        }
        return {"format": FORMAT, "strategy": self.strategy, "tensors": shapes, "sha256": self.sha256, **self.facts}

    def summary(self) -> dict[str, Any]:
        """Return what a run's record holds: which artifact it is, and on what it was fitted."""
        data = {key: value for key, value in self.facts["data"].items() if key != "ids"}
        return {"sha256": self.sha256, "options": self.facts["options"], "seed": self.facts["seed"], "data": data}

    def write(self, path: Path) -> None:
        """Write both files, each whole or not at all; the JSON comes last.

        Args:
            path: Either file's name.

        Raises:
            DataError: The name ends otherwise, something cannot be written, or something else is there; see
                `check_target`.
        """
        check_target(path, self.strategy)
        tensors, facts = artifact_files(path)
        told = json.dumps(self.record(), indent=1, ensure_ascii=False) + "\n"
        try:
            tensors.parent.mkdir(parents=True, exist_ok=True)
            for file, content in ((tensors, self.content), (facts, told.encode())):
                with files.whole(file) as scratch:
                    scratch.write_bytes(content)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}; choose another file with --out") from error

    def check(self, adapter: Adapter, processor: Mapping[str, Any] | None = None) -> None:
        """Refuse to be used with another model than it was fitted on; warn where weights cannot be compared.

        Args:
            adapter: The model.
            processor: The options of its processor that were given.

        Raises:
            ModelError: It is another, naming what differs.
        """
        kept = {"processor": {}, **self.facts["model"]}
        own = {
            **facts(adapter),
            "revision": getattr(adapter.model.config, "_commit_hash", None),
            "chat_template": chat_template(adapter),
            "processor": dict(processor or {}),
        }
        differ = differing(kept, own)
        if None not in (kept.get("revision"), own["revision"]) and kept["revision"] != own["revision"]:
            differ.append("revision")
        differ += [key for key in ("chat_template", "processor") if kept.get(key) != own[key]]
        if differ:
            raise ModelError(
                f"{self._named}: was fitted on {kept['name']!r}, which differs from this model "
                f"({contrasted(differ, kept, own)}); {_WAYS}"
            )
        warn_if_unknown(self._named, kept, own)


def artifact_files(path: str | Path) -> tuple[Path, Path]:
    """Return the files of tensors and of facts, of which a path names one.

    Raises:
        DataError: Its name ends otherwise.
    """
    path = Path(path)
    if path.suffix not in (TENSORS, FACTS):
        raise DataError(f"{path}: an artifact's name ends in {TENSORS} or {FACTS}; give such a name")
    return path.with_suffix(TENSORS), path.with_suffix(FACTS)


def read(path: str | Path) -> Artifact:
    """Read an artifact and check that it is whole.

    Args:
        path: Either file's name.

    Raises:
        DataError: A file is missing, damaged, or not the other one's.
    """
    tensors, held = artifact_files(path)
    for file in (held, tensors):
        reason = files.no_file(file)
        if reason is not None:
            raise DataError(f"{file}: {reason}; an artifact is two files, {tensors.name} and {held.name}; {_WAYS}")
    told = _facts(held)
    try:
        content = tensors.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != told["sha256"]:
            raise DataError(f"{tensors}: its sha256 is {sha256}, and {held.name} says {told['sha256']!r}; {_WAYS}")
        made = Artifact(
            told["strategy"],
            load_tensors(content),
            {name: value for name, value in told.items() if name not in _OWN},
            held,
        )
    except OSError as error:
        raise DataError(f"{tensors}: cannot be read: {error.strerror}; {_WAYS}") from error
    except SafetensorError as error:
        raise DataError(f"{tensors}: is no safetensors file ({error}); {_WAYS}") from error
    shapes = made.record()["tensors"]
    if shapes != told["tensors"]:
        raise DataError(f"{held}: tells of tensors {told['tensors']!r}, and {tensors.name} holds {shapes!r}; {_WAYS}")
    return made


def _facts(path: Path) -> dict[str, Any]:
    """Read the JSON file of an artifact, and check what is needed of it.

    Raises:
        DataError: It cannot be read, or is something else.
    """
    try:
        held = json.loads(files.read_text(path))
        if held["format"] != FORMAT:
            raise ValueError(f"its format is {held['format']!r}, expected {FORMAT!r}")
        parse(held["options"])
        texts = (held["strategy"], held["sha256"], held["model"]["name"], held["data"]["source"])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("strategy, sha256 and the names of model and data must be texts")
        for needed in (held["tensors"], held["seed"], held["data"]["pairs"], held["data"]["digest"]):
            if needed is None:
                raise TypeError("tensors, seed and data must be told")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {_WAYS}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OptionError) as error:
        raise DataError(f"{path}: is no artifact, or is damaged ({type(error).__name__}: {error}); {_WAYS}") from error
    return dict(held)


def default_folder(name: str | Path) -> Path:
    """Return the folder where a model's artifacts are looked for: in its own, else among the user's settings.

    Args:
        name: As `mmhall.load` takes it.
    """
    return learned_at(name, "mmhall", "artifacts/{}")


def find(name: str | Path, where: Where) -> list[Artifact]:
    """Read the artifacts to use for a model.

    Args:
        name: As `mmhall.load` takes it.
        where: A file, or a folder of several; False for none; None to look in the usual place.

    Raises:
        OptionError: It is none of these.
        DataError: What was named is missing, damaged, or holds two artifacts of one strategy.
    """
    if where is False:
        return []
    if where is not None and (not isinstance(where, str | Path) or not str(where)):
        raise OptionError("load", "artifacts", where, "a file or folder written by `mmhall fit`, or False for none")
    folder = default_folder(name) if where is None else Path(where)
    reason = files.no_file(folder)
    if where is not None and reason not in (None, "is a folder") and folder.suffix not in (TENSORS, FACTS):
        raise DataError(f"{where}: {reason}; {_WAYS}")
    if reason == "is a folder":
        found = [read(file) for file in sorted(folder.glob(f"*{FACTS}")) if _claims(file)]
    else:
        found = [] if where is None else [read(folder)]
    if where is not None and not found:
        raise DataError(f"{where}: holds no artifact; {_WAYS}")
    _once(found)
    return found


def _claims(file: Path) -> bool:
    """Whether a file begins as an artifact's JSON does, of whatever version and however damaged.

    Raises:
        DataError: It cannot be read.
    """
    if files.no_file(file) is not None:
        return False
    try:
        with file.open("rb") as opened:
            return _CLAIM in opened.read(_BEGINNING)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}; {_WAYS}") from error


def _once(found: Sequence[Artifact]) -> None:
    """Refuse two artifacts of one strategy: nobody says which one is meant.

    Raises:
        DataError: There are two.
    """
    for number, one in enumerate(found):
        for other in found[:number]:
            if one.strategy == other.strategy:
                raise DataError(
                    f"{other.path} and {one.path}: both are artifacts of {one.strategy}; give one of the files, or "
                    "delete one"
                )


def check_artifacts(
    found: Sequence[Artifact], adapter: Adapter, processor: Mapping[str, Any], *, given: bool
) -> dict[str, Artifact]:
    """Return artifacts by strategy, if they were fitted on this model.

    One that nobody named and that is another model's is kept, refused: only a strategy that needs it is in its way.

    Args:
        found: As `find` returns them.
        adapter: The model.
        processor: The options of its processor that were given.
        given: Whether somebody named them.

    Raises:
        ModelError: One that was given was fitted on another model.
    """
    kept = {}
    for artifact in found:
        try:
            artifact.check(adapter, processor)
            kept[artifact.strategy] = artifact
        except ModelError as error:
            if given:
                raise
            kept[artifact.strategy] = replace(artifact, refused=str(error))
    return kept


def check_target(path: Path, strategy: str) -> None:
    """Refuse to write over anything but an older artifact of the same strategy.

    Args:
        path: Either file's name.
        strategy: Whose artifact is to be written.

    Raises:
        DataError: Something else is there.
    """
    tensors, facts = artifact_files(path)
    there = [file for file in (facts, tensors) if files.no_file(file) != "does not exist"]
    if not there:
        return
    held = _facts(facts)["strategy"] if there[0] == facts else "something else"
    if held != strategy:
        raise DataError(
            f"{there[0]}: is there already and is no artifact of {strategy}; choose another with --out, or delete it"
        )
