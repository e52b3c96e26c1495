"""The record of a reproduction, `reproduce.json` in its folder: what was asked for, and the revisions it stays with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from mmhall.benchmarks.data.hub import commit_of
from mmhall.benchmarks.reproduce.data import Given, dataset_of
from mmhall.benchmarks.reproduce.pins import DATASETS, MODELS
from mmhall.benchmarks.reproduce.protocol import Protocol
from mmhall.errors import RunError
from mmhall.files import atomic_path, read_text
from mmhall.models import find_model_path
from mmhall.text import without_home

FILE = "reproduce.json"
PINNED, ASKED, CURRENT, LOCAL = (
    "pinned by the protocol",
    "given with --revision",
    "the hub's commit at the first run",
    "a local model, without a revision",
)
_CHOSEN_ONCE = ("revision", "revision_from", "datasets")


@dataclass(frozen=True, slots=True)
class Record:
    """What a reproduction is made of; a later call must ask for the same.

    Attributes:
        protocol: Name of the protocol.
        model: The model, as `mmhall.load` takes it.
        pope: Value of --pope.
        coco: Value of --coco.
        amber: Value of --amber.
        limit: Value of --limit.
        twins: Value of --twins.
        revision: Commit of the weights on the hub; None: a local model.
        revision_from: Where the revision comes from, in words.
        datasets: Dataset id to its commit on the hub.
    """

    protocol: str
    model: str
    pope: str | None = None
    coco: str | None = None
    amber: str | None = None
    limit: int | None = None
    twins: int = 0
    revision: str | None = None
    revision_from: str = ""
    datasets: Mapping[str, str | None] = field(default_factory=dict)


def wanted(protocol: Protocol, model: str, given: Given, twins: int, revision: str | None) -> Record:
    """Return what a user asks for, with the pinned revisions; the hub is not asked.

    Args:
        protocol: The protocol.
        model: The model.
        given: The data.
        twins: Number of random twins.
        revision: Value of --revision.
    """
    if find_model_path(model).is_dir():
        chosen, source = None, LOCAL
    elif revision is not None:
        chosen, source = revision, ASKED
    else:
        chosen = MODELS[model].revision if model in MODELS else None
        source = CURRENT if chosen is None else PINNED
    needed = dict.fromkeys(id_ for step in protocol.steps if (id_ := dataset_of(step, given)) is not None)
    return Record(
        protocol.name,
        without_home(model),
        None if given.pope is None else without_home(given.pope),
        None if given.coco is None else without_home(str(given.coco)),
        None if given.amber is None else without_home(str(given.amber)),
        given.limit,
        twins,
        chosen,
        source,
        {id_: DATASETS[id_].revision if id_ in DATASETS else None for id_ in needed},
    )


def settle(folder: Path, record: Record, datasets: Sequence[str]) -> Record:
    """Return the record of a folder: the one it holds, or this one, whose open revisions the hub is asked for.

    Args:
        folder: Folder of the reproduction.
        record: From `wanted`.
        datasets: Ids of the datasets that this call needs; others stay open.

    Raises:
        RunError: The folder holds another reproduction, a damaged record, or cannot be written.
        DataError: The hub cannot be asked.
    """
    kept = read_record(folder)
    if kept is not None:
        _refuse_other(folder, kept, record)
        record = kept
    revision = record.revision
    if revision is None and record.revision_from == CURRENT:
        revision = commit_of(record.model, None, "model")
    found = {
        id_: commit_of(id_, commit) if commit is None and id_ in datasets else commit
        for id_, commit in record.datasets.items()
    }
    settled = Record(**{**asdict(record), "revision": revision, "datasets": found})
    if settled != kept:
        _write(folder, settled)
    return settled


def read_record(folder: Path) -> Record | None:
    """Read the record of a folder; None: there is none yet.

    Raises:
        RunError: It is damaged.
    """
    path = folder / FILE
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); put it back, or choose another folder with --out") from error
    names = {option.name for option in fields(Record)}
    if not isinstance(content, dict) or set(content) != names:
        raise RunError(f"{path}: is no record of this version of mmhall; choose another folder with --out")
    return Record(**content)


def _refuse_other(folder: Path, kept: Record, record: Record) -> None:
    """Raise an error that names the first difference, apart from revisions that were chosen at the first run."""
    free = _CHOSEN_ONCE if record.revision_from != ASKED else _CHOSEN_ONCE[1:]
    for name, value in asdict(record).items():
        old = getattr(kept, name)
        if name not in free and old != value:
            raise RunError(
                f"{folder}: was started with {name} {old!r}, not {value!r}; give the same, or choose another "
                "folder with --out"
            )


def _write(folder: Path, record: Record) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / FILE) as partial:
            partial.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}; choose another --out") from error
