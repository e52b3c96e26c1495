"""Fitted artifacts: the result of fitting a strategy to one model, written by `mmhall fit`.

An artifact is two files: tensors in NAME.safetensors, and NAME.json beside it with the facts of the fit (model, data,
options) and the SHA-256 of the other file. `mmhall.load` reads them and refuses artifacts of another model, revision or
chat template with a message that names the difference. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors, save as save_tensors
from torch import Tensor

from mmhall import files
from mmhall.errors import DataError, ModelError, OptionError
from mmhall.models import chat_template, differing_facts, facts, find_learned_path, format_differences, warn_if_unknown
from mmhall.options import parse

if TYPE_CHECKING:
    from mmhall.adapters import Adapter

FORMAT = "mmhall fitted artifact, 1"
TENSORS, FACTS = ".safetensors", ".json"
Where = str | Path | Literal[False] | None

_WAYS = "run `mmhall fit` again, give another file, or use artifacts=False (--artifacts none)"
_OWN = ("format", "strategy", "tensors", "sha256")  # keys of the JSON that are not facts
_DIGITS = 12
_MARKER, _HEAD_BYTES = b'"mmhall fitted artifact', 4096  # the marker, and in how many first bytes it stands


@dataclass(frozen=True)
class Artifact:
    """The result of fitting a strategy to one model.

    Attributes:
        strategy: Name of the strategy.
        tensors: Finite tensors by name, on the CPU.
        facts: The facts of the fit, as JSON can write them: "model" (name, facts, "chat_template", "processor"), "data"
            (source, digest, pairs or questions, ids), "options", "chosen" (by the fit), "numbers", "seed" and others.
        path: The JSON file it was read from; None: it is new.
        refused: Why the loaded model cannot use it; None: it can.
    """

    strategy: str
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    path: Path | None = field(default=None, compare=False)
    refused: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Copy the tensors and check them.

        Raises:
            DataError: There are no tensors, or one holds NaN or infinity.
        """
        copies = {  # a safetensors file cannot hold two views of one memory
            name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, tensor in self.tensors.items()
        }
        if not copies:
            raise DataError(f"{self._named}: an artifact without tensors holds nothing; {_WAYS}")
        for name, tensor in copies.items():
            finite = bool(tensor.double().isfinite().all())  # in float64: float8 has no isfinite
            if tensor.is_floating_point() and not finite:
                raise DataError(f"{self._named}: tensor {name!r} holds NaN or infinity; {_WAYS}")
        object.__setattr__(self, "tensors", copies)

    @property
    def _named(self) -> str:
        return str(self.path or self.strategy)

    @cached_property
    def content(self) -> bytes:
        """The content of the safetensors file."""
        return save_tensors(dict(self.tensors))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the safetensors file, 64 hex digits."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def digest(self) -> str:
        """The first 12 digits of `sha256`, the value of a strategy's option `artifact`."""
        return self.sha256[:_DIGITS]

    @property
    def fitted_with(self) -> dict[str, Any]:
        """The options of the fit that differ from their defaults, by name."""
        return parse(self.facts["options"])[1]

    @property
    def origin(self) -> str:
        """The provenance of the artifact: its data and seed, in a line."""
        data = self.facts["data"]
        unit = "pairs" if "pairs" in data else "questions"
        return f"fitted on {data[unit]} {unit} of {data['source']} ({data['digest']}), seed {self.facts['seed']}"

    def record(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        shapes = {
            name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for name, t in self.tensors.items()
        }
        return {"format": FORMAT, "strategy": self.strategy, "tensors": shapes, "sha256": self.sha256, **self.facts}

    def summary(self) -> dict[str, Any]:
        """Return the digest, options, seed and data of the fit, for the record of a run."""
        data = {key: value for key, value in self.facts["data"].items() if key != "ids"}
        return {"sha256": self.sha256, "options": self.facts["options"], "seed": self.facts["seed"], "data": data}

    def write(self, path: Path) -> None:
        """Write both files, named by the path of either; each is written whole or not at all, the JSON last.

        Raises:
            DataError: The name has another ending, a file cannot be written, or as in `check_target`.
        """
        check_target(path, self.strategy)
        tensors, facts = artifact_files(path)
        record = json.dumps(self.record(), indent=1, ensure_ascii=False) + "\n"
        try:
            tensors.parent.mkdir(parents=True, exist_ok=True)
            for file, content in ((tensors, self.content), (facts, record.encode())):
                with files.atomic_path(file) as scratch:
                    scratch.write_bytes(content)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror}; choose another file with --out") from error

    def check(self, adapter: Adapter, processor: Mapping[str, Any] | None = None) -> None:
        """Check that a model is the one of the fit; warn if its weights cannot be compared.

        Args:
            adapter: The model.
            processor: The options given to its processor.

        Raises:
            ModelError: It is another model; the message names the difference.
        """
        fitted = {"processor": {}, **self.facts["model"]}
        own = {
            **facts(adapter),
            "revision": getattr(adapter.model.config, "_commit_hash", None),
            "chat_template": chat_template(adapter),
            "processor": dict(processor or {}),
        }
        differ = differing_facts(fitted, own)
        if None not in (fitted.get("revision"), own["revision"]) and fitted["revision"] != own["revision"]:
            differ.append("revision")
        differ += [key for key in ("chat_template", "processor") if fitted.get(key) != own[key]]
        if differ:
            raise ModelError(
                f"{self._named}: was fitted on {fitted['name']!r}, which differs from this model "
                f"({format_differences(differ, fitted, own)}); {_WAYS}"
            )
        warn_if_unknown(self._named, fitted, own)


def artifact_files(path: str | Path) -> tuple[Path, Path]:
    """Return the two files of an artifact, tensors and facts, from the path of either.

    Raises:
        DataError: The name has another ending.
    """
    path = Path(path)
    if path.suffix not in (TENSORS, FACTS):
        raise DataError(f"{path}: an artifact's name ends in {TENSORS} or {FACTS}; give such a name")
    return path.with_suffix(TENSORS), path.with_suffix(FACTS)


def read(path: str | Path) -> Artifact:
    """Read and check an artifact.

    Args:
        path: Either file's name.

    Raises:
        DataError: A file is missing or damaged, or the two do not belong together.
    """
    tensors, facts = artifact_files(path)
    for file in (facts, tensors):
        reason = files.why_not_a_file(file)
        if reason is not None:
            raise DataError(f"{file}: {reason}; an artifact is two files, {tensors.name} and {facts.name}; {_WAYS}")
    record = _read_facts(facts)
    try:
        content = tensors.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != record["sha256"]:
            raise DataError(f"{tensors}: its sha256 is {sha256}, and {facts.name} says {record['sha256']!r}; {_WAYS}")
        rest = {name: value for name, value in record.items() if name not in _OWN}
        artifact = Artifact(record["strategy"], load_tensors(content), rest, facts)
    except OSError as error:
        raise DataError(f"{tensors}: cannot be read: {error.strerror}; {_WAYS}") from error
    except SafetensorError as error:
        raise DataError(f"{tensors}: is no safetensors file ({error}); {_WAYS}") from error
    shapes = artifact.record()["tensors"]
    if shapes != record["tensors"]:
        raise DataError(
            f"{facts}: tells of tensors {record['tensors']!r}, and {tensors.name} holds {shapes!r}; {_WAYS}"
        )
    return artifact


def _read_facts(path: Path) -> dict[str, Any]:
    """Read the JSON file of an artifact and check its required keys.

    Raises:
        DataError: It cannot be read, or is no artifact.
    """
    try:
        record = json.loads(files.read_text(path))
        if record["format"] != FORMAT:
            raise ValueError(f"its format is {record['format']!r}, expected {FORMAT!r}")
        parse(record["options"])
        texts = (record["strategy"], record["sha256"], record["model"]["name"], record["data"]["source"])
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("strategy, sha256 and the names of model and data must be texts")
        data = record["data"]
        for needed in (record["tensors"], record["seed"], data.get("pairs", data.get("questions")), data["digest"]):
            if needed is None:
                raise TypeError("tensors, seed and data must be given")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {_WAYS}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OptionError) as error:
        raise DataError(f"{path}: is no artifact, or is damaged ({type(error).__name__}: {error}); {_WAYS}") from error
    return dict(record)


def default_folder(name: str | Path) -> Path:
    """Return the default folder of a model's artifacts: in the model's folder, else among the user's settings.

    Args:
        name: As `mmhall.load` takes it.
    """
    return find_learned_path(name, "mmhall", "artifacts/{}")


def find(name: str | Path, where: Where) -> list[Artifact]:
    """Find and read the artifacts of a model.

    Args:
        name: As `mmhall.load` takes it.
        where: A file, or a folder of several; False: none; None: the default folder.

    Raises:
        OptionError: `where` is none of these.
        DataError: A file is missing or damaged, or two artifacts are of one strategy.
    """
    if where is False:
        return []
    if where is not None and (not isinstance(where, str | Path) or not str(where)):
        raise OptionError("load", "artifacts", where, "a file or folder written by `mmhall fit`, or False for none")
    folder = default_folder(name) if where is None else Path(where)
    reason = files.why_not_a_file(folder)
    if where is not None and reason not in (None, "is a folder") and folder.suffix not in (TENSORS, FACTS):
        raise DataError(f"{where}: {reason}; {_WAYS}")
    if reason == "is a folder":
        artifacts = [read(file) for file in sorted(folder.glob(f"*{FACTS}")) if _is_artifact(file)]
    else:
        artifacts = [] if where is None else [read(folder)]
    if where is not None and not artifacts:
        raise DataError(f"{where}: holds no artifact; {_WAYS}")
    _check_unique(artifacts)
    return artifacts


def _is_artifact(file: Path) -> bool:
    """Whether a file begins like an artifact's JSON, of any version, damaged or not.

    Raises:
        DataError: It cannot be read.
    """
    if files.why_not_a_file(file) is not None:
        return False
    try:
        with file.open("rb") as opened:
            return _MARKER in opened.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}; {_WAYS}") from error


def _check_unique(artifacts: Sequence[Artifact]) -> None:
    """Check that no two artifacts are of one strategy.

    Raises:
        DataError: Two are.
    """
    for one, other in combinations(artifacts, 2):
        if one.strategy == other.strategy:
            raise DataError(
                f"{one.path} and {other.path}: both are artifacts of {one.strategy}; "
                "give one of the files, or delete one"
            )


def check_artifacts(
    artifacts: Sequence[Artifact], adapter: Adapter, processor: Mapping[str, Any], *, given: bool
) -> dict[str, Artifact]:
    """Return artifacts by strategy, each checked against the model.

    An artifact of another model is an error if given by the caller. One from the default folder is returned with its
    `refused` set: only a strategy that needs it fails.

    Args:
        artifacts: As `find` returns them.
        adapter: The model.
        processor: The options given to its processor.
        given: Whether the caller gave them.

    Raises:
        ModelError: A given artifact was fitted on another model.
    """
    by_strategy = {}
    for artifact in artifacts:
        try:
            artifact.check(adapter, processor)
            by_strategy[artifact.strategy] = artifact
        except ModelError as error:
            if given:
                raise
            by_strategy[artifact.strategy] = replace(artifact, refused=str(error))
    return by_strategy


def check_target(path: Path, strategy: str) -> None:
    """Check that a strategy's artifact can be written: nothing is there, or an older one of the same strategy.

    Raises:
        DataError: Another file is there.
    """
    tensors, facts = artifact_files(path)
    there = [file for file in (facts, tensors) if files.why_not_a_file(file) != "does not exist"]
    if not there:
        return
    other = _read_facts(facts)["strategy"] if there[0] == facts else "something else"
    if other != strategy:
        raise DataError(
            f"{there[0]}: is there already and is no artifact of {strategy}; choose another with --out, or delete it"
        )
