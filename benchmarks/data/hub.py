"""Benchmarks from the Hugging Face hub: a dataset at one commit is converted to files of the official format.

Benchmarks read only files. `fetch` writes them once for each commit to $XDG_CACHE_HOME/mmhall/hub, atomically;
a commit in this cache is not downloaded again. Without a revision the dataset's current commit is used, and
named in the results, so that it can be pinned. A dataset copied from the hub as a folder or file of Parquet, or
saved by `save_to_disk` as Arrow, is converted in the same way, once for each SHA-256 of its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmhall.benchmarks.data import hub_formats as formats
from mmhall.errors import DataError
from mmhall.results.kinds import describe_file

PREFIX = "hub:"
NOTE = "hub.json"
_KINDS = (".parquet", ".arrow")
_PATIENCE = 10.0  # seconds to wait for the hub to say which commit is current
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPEC = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)?(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A hub dataset with the data of a benchmark.

    Attributes:
        id: Id of the dataset; a user may give another dataset with the same columns.
        splits: Splits to read, in order.
        convert: Function that writes the splits to a folder.
        config: Configuration of the dataset; None for the only one.
        data: File in the folder that the benchmark reads; "" for the folder.
    """

    id: str
    splits: tuple[str, ...]
    convert: formats.Converter
    config: str | None = None
    data: str = ""


HUB_DATASETS = {
    "pope": HubDataset("lmms-lab-encoder/POPE", ("test",), formats.pope, "default"),
    "chair": HubDataset("tsunghanwu/mscoco_chair", ("test",), formats.chair, data=formats.COCO),
    "amber-g": HubDataset("Kyunnilee/amber_g", ("train",), formats.amber_captions),
    "amber-d": HubDataset("qgallouedec/amber", ("train",), formats.amber_questions, "discriminative"),
    "dash-b": HubDataset("YanNeu/DASH-B", ("test",), formats.dash, data=formats.MANIFEST),
    "mme": HubDataset("lmms-lab-encoder/MME", ("test",), formats.mme, data=formats.MANIFEST),
    "hallusion": HubDataset("lmms-lab-encoder/HallusionBench", ("image", "non_image"), formats.hallusion),
}


def data_path(value: str, benchmark: str) -> Path:
    """Return the path of a benchmark's data: a file or folder unchanged; a hub dataset or its copy converted.

    Args:
        value: A file or folder, or "hub:" with a folder or the argument of `fetch`.
        benchmark: Name of the benchmark.

    Raises:
        DataError: See `fetch`; or Parquet or Arrow files do not hold the benchmark's data.
    """
    marked = value.startswith(PREFIX)
    path = Path(value.removeprefix(PREFIX))
    if marked and not (value.removeprefix(PREFIX) and path.exists()):
        return fetch(value, benchmark)
    files = _stored_files(path)
    if files:
        return _convert_local(path, files, benchmark)
    if marked:
        raise DataError(f"{path}: holds no Parquet files, but is {describe_file(path)}; give it without {PREFIX}")
    return path


def fetch(spec: str, benchmark: str) -> Path:
    """Return a benchmark's files; download and convert the dataset if it is not in the cache.

    Args:
        spec: "hub:ID@REVISION"; by default the id in `HUB_DATASETS` and the current commit.
        benchmark: Name of the benchmark.

    Returns:
        Path of the benchmark's data.

    Raises:
        DataError: There is no such dataset, it is unsuitable, or the hub cannot be reached.
    """
    dataset, name, revision = _parse(spec, benchmark)
    folder = _cache() / name.replace("/", "--")
    at_hand = _find_converted(folder, benchmark, revision)
    if at_hand is not None:
        return at_hand / dataset.data
    commit = commit_of(name, revision)
    target = folder / commit / benchmark
    if not (target / NOTE).is_file():
        _convert(_load(dataset, name, commit), dataset, target, {"dataset": name, "commit": commit})
    return target / dataset.data


def is_cached(spec: str, benchmark: str) -> bool:
    """Tell whether `fetch` would find a dataset in the cache, without asking the hub.

    Raises:
        DataError: It is no hub dataset.
    """
    _, name, revision = _parse(spec, benchmark)
    return _find_converted(_cache() / name.replace("/", "--"), benchmark, revision) is not None


def remarks(data: Path | None) -> tuple[str, ...]:
    """Return a note on the source of files that `fetch` wrote; else nothing."""
    if data is None:
        return ()
    note = (data if data.is_dir() else data.parent) / NOTE
    try:
        source = json.loads(note.read_text(encoding="utf-8"))
        for kind in (kind.removeprefix(".") for kind in _KINDS):
            if kind in source:
                return (f"from {kind.capitalize()} files, SHA-256 {source[kind][:16]}...",)
        pinned = f"{PREFIX}{source['dataset']}@{source['commit']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ()
    return (f"from the hub; --data {pinned} takes the same again.",)


def _stored_files(path: Path) -> list[Path]:
    """Return a dataset's Parquet or Arrow files, in the layout of the hub or of `save_to_disk`.

    The cache files of `map` and `filter`, cache-....arrow, are left out.
    """
    if path.is_dir():
        by_kind = (sorted(path.glob(f"{below}*{kind}")) for kind in _KINDS for below in ("", "*/", "*/*/"))
        without_caches = (
            [file for file in files if not re.fullmatch(r"cache-.*\.arrow", file.name)] for files in by_kind
        )
        return next(filter(None, without_caches), [])
    return [path] if path.suffix in _KINDS and path.is_file() else []


def _convert_local(path: Path, files: Sequence[Path], benchmark: str) -> Path:
    """Return the path of a benchmark's data for stored files; convert them if they are not in the cache."""
    dataset = _dataset_for(benchmark)
    splits = _files_by_split(path, files, dataset)
    digest = hashlib.sha256()
    try:
        for file in (file for split in splits for file in split):
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    target = _cache() / "local" / digest.hexdigest() / benchmark
    if not (target / NOTE).is_file():
        with tempfile.TemporaryDirectory() as scratch:
            source = {files[0].suffix.removeprefix("."): digest.hexdigest()}
            _convert([_rows(path, split, scratch) for split in splits], dataset, target, source)
    return target / dataset.data


def _files_by_split(path: Path, files: Sequence[Path], dataset: HubDataset) -> list[list[Path]]:
    """Return the files of each split, by their names; for a single split all files if no name matches.

    Raises:
        DataError: A split has no files, or files in several folders.
    """
    if path.is_file():
        return [[path]]
    by_split = []
    for split in dataset.splits:
        members = [file for file in files if file.parent.name == split or re.fullmatch(rf"{split}(-.*)?", file.stem)]
        members = members or (list(files) if len(dataset.splits) == 1 else [])
        folders = sorted({file.parent for file in members})
        if len(folders) != 1:
            have = ", ".join(str(file.relative_to(path)) for file in files[:4])
            problem = f"split {split!r} in several folders" if folders else f"no file of split {split!r}"
            raise DataError(f"{path}: has {problem}, it has {have}; give the folder of one configuration")
        by_split.append(members)
    return by_split


def _rows(path: Path, files: Sequence[Path], scratch: str) -> Any:
    from datasets import load_dataset

    kind, names = files[0].suffix.removeprefix("."), [str(file) for file in files]
    try:
        return load_dataset(kind, data_files=names, split="train", cache_dir=scratch)
    except Exception as error:  # what the readers may raise differs from version to version
        reason = f"cannot be read as {kind.capitalize()}: {_one_line(error)}"
        raise DataError(f"{path}: {reason}; copy it from the hub again") from error


def _dataset_for(benchmark: str) -> HubDataset:
    if benchmark not in HUB_DATASETS:
        raise DataError(
            f"{benchmark}: no hub dataset is known for it, only for {', '.join(HUB_DATASETS)}; give a file or folder"
        )
    return HUB_DATASETS[benchmark]


def _parse(spec: str, benchmark: str) -> tuple[HubDataset, str, str | None]:
    dataset = _dataset_for(benchmark)
    match = _SPEC.fullmatch(spec.removeprefix(PREFIX))
    if match is None or ".." in spec:
        raise DataError(f"{spec}: is no hub dataset; write {PREFIX}{dataset.id}, or with @ and a revision")
    return dataset, match["id"] or dataset.id, match["revision"]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmhall" / "hub"


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _find_converted(folder: Path, benchmark: str, revision: str | None) -> Path | None:
    """Return the cached files of a commit, or offline of the only cached commit; None: not cached."""
    if revision is not None:
        written = [folder / revision / benchmark] if _COMMIT.fullmatch(revision) else []
    else:
        written = sorted(folder.glob(f"*/{benchmark}")) if _offline() else []
    whole = [path for path in written if (path / NOTE).is_file()]
    return whole[0] if len(whole) == 1 else None


def commit_of(name: str, revision: str | None, kind: str = "dataset") -> str:
    """Ask the hub for the commit of a revision.

    Args:
        name: Id of the repository.
        revision: Commit, tag or branch; None: the current commit.
        kind: "dataset" or "model".

    Raises:
        DataError: There is no such repository or revision, its terms must be accepted first, or the hub cannot be
            reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if _offline():
        if revision is not None and _COMMIT.fullmatch(revision):
            return revision
        raise _not_cached_error(name)
    try:
        commit = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=_PATIENCE).sha
    except RevisionNotFoundError as error:
        raise DataError(f"{name}: the hub has no revision {revision!r} of it; name another one") from error
    except GatedRepoError as error:
        raise DataError(
            f"{name}: the hub gives this {kind} only to users who accepted its terms; accept them on its page, then "
            "run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(f"{name}: the hub has no such {kind}, or shows it only to some; check its id") from error
    except Exception as error:  # what a network may raise differs from version to version of the hub's client
        raise _unreachable_error(name, error) from error
    if commit is None:
        raise DataError(f"{name}: the hub names no commit of it; give a file or folder")
    return commit


def _load(dataset: HubDataset, name: str, commit: str) -> list[Any]:
    """Load the splits."""
    from datasets import load_dataset

    try:
        return [load_dataset(name, dataset.config, split=split, revision=commit) for split in dataset.splits]
    except ValueError as error:
        splits = ", ".join(dataset.splits)
        raise DataError(
            f"{name}: has no splits {splits} to read: {_one_line(error)}; give one like {dataset.id}"
        ) from error
    except Exception as error:
        raise (_not_cached_error(name) if _offline() else _unreachable_error(name, error)) from error


def _convert(splits: Sequence[Any], dataset: HubDataset, target: Path, note: dict[str, str]) -> None:
    """Write the files atomically."""
    partial = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
        dataset.convert(splits, partial)
        (partial / NOTE).write_text(json.dumps(note), encoding="utf-8")
        partial.rename(target)
    except OSError as error:
        if not (target / NOTE).is_file():  # else another process was first
            raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _not_cached_error(name: str) -> DataError:
    return DataError(
        f"{name}: is not in the cache, and the hub may not be used (HF_HUB_OFFLINE is set); run once without it, pin a "
        "commit in the cache, or give a file or folder"
    )


def _unreachable_error(name: str, error: Exception) -> DataError:
    return DataError(f"{name}: cannot be taken from the hub: {_one_line(error)}; try again, or give a file or folder")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
