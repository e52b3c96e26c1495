"""The data of a step: local files in the published layout, or a pinned dataset of the hub.

COCO      a folder with annotations/instances_val2014.json, captions_val2014.json beside it, and the pictures in
          val2014; or a detection file. With synonyms.txt and lemmas.json in the folder, captions are read by the
          published rule "wordnet", else by mmhall's own words. Question files of POPE may lie in its folder `pope`.
POPE      what the benchmark `pope` reads as --data; pictures in its folder, else in that of COCO. Without question
          files, questions are made from the annotations of COCO.
AMBER     its authors' folder; a table similarities.json or similarities.csv in it is used. The hub has no copy with the
          word tables that captions are read by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmhall.benchmarks import benchmark as make_benchmark
from mmhall.benchmarks.base import Benchmark, Source
from mmhall.benchmarks.data.hub import HUB_DATASETS, PREFIX, data_path
from mmhall.benchmarks.reproduce.protocol import Step
from mmhall.errors import DataError
from mmhall.files import is_file, why_not_a_file

KINDS = ("pope", "coco", "amber")
OWN_QUESTIONS = (
    "the questions are made from the annotations of --coco, not POPE's published ones; give them with --pope"
)
_NAMES = ("annotations/instances_val2014.json", "instances_val2014.json", "annotations.json")
_FOLDERS = ("val2014", "images")


@dataclass(frozen=True, slots=True)
class Given:
    """The data that a user names.

    Attributes:
        pope: Question files, a folder, or hub:ID@REVISION.
        coco: Folder of COCO, or a detection file.
        amber: Folder of AMBER.
        limit: Largest number of pictures; None: the protocol's.
    """

    pope: str | None = None
    coco: Path | None = None
    amber: Path | None = None
    limit: int | None = None

    def check(self) -> None:
        """Check that the paths exist, before anything expensive is done.

        Raises:
            DataError: A path does not exist, or is no folder where one is needed.
        """
        pope = None if self.pope is None or self.pope.startswith(PREFIX) else Path(self.pope)
        for option, path in (("--pope", pope), ("--coco", self.coco), ("--amber", self.amber)):
            reason = None if path is None else why_not_a_file(path)
            if reason not in (None, "is a folder"):
                raise DataError(f"{path}: {reason}; give another {option}")
        if self.amber is not None and not self.amber.is_dir():
            raise DataError(f"{self.amber}: is a file; give AMBER's folder with --amber")


@dataclass(frozen=True, slots=True)
class Located:
    """Where the data of a step is.

    Attributes:
        data: A file, a folder, or hub:ID@REVISION.
        images: Folder of the pictures; None: that of the data.
        options: Further options of the benchmark, which depend on the data.
        remarks: In what the data differs from the published one.
    """

    data: str
    images: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def on_hub(self) -> bool:
        """Whether it is a dataset of the hub."""
        return self.data.startswith(PREFIX)

    def benchmark(self, spec: str) -> Benchmark:
        """Build a benchmark of the step with the options that depend on the data."""
        built = make_benchmark(spec)
        return replace(built, **self.options) if self.options else built

    def source(self, name: str, limit: int | None) -> Source:
        """Return the source of a benchmark; a dataset of the hub is downloaded if it is not in the cache.

        Raises:
            DataError: See `mmhall.benchmarks.data.hub.fetch`.
        """
        return Source(data_path(self.data, name), self.images, limit)


def dataset_of(step: Step, given: Given) -> str | None:
    """Return the id of the hub dataset that a step needs; None: its data is local, or not on the hub."""
    if step.reads == "pope" and given.pope is None and given.coco is None:
        return HUB_DATASETS["pope"].id
    if step.reads == "coco" and given.coco is None:
        return HUB_DATASETS["chair"].id
    return None


def locate(step: Step, given: Given, revisions: Mapping[str, str | None]) -> Located:
    """Return where the data of a step is; nothing is downloaded.

    Args:
        step: The step.
        given: What the user names.
        revisions: Dataset id to commit; None: not known yet.

    Raises:
        DataError: The data is missing.
    """
    dataset = dataset_of(step, given)
    if dataset is not None:
        revision = revisions.get(dataset)
        return Located(f"{PREFIX}{dataset}{f'@{revision}' if revision else ''}")
    if step.reads == "amber":
        return _amber(given.amber)
    if step.reads == "coco":
        return _captions(_coco(given))
    if given.pope is not None:
        on_hub = given.pope.startswith(PREFIX)
        own = on_hub or given.coco is None or any((Path(given.pope) / name).is_dir() for name in _FOLDERS)
        return Located(given.pope, None if own else _root(_coco(given)))
    coco = _coco(given)
    questions = _root(coco) / "pope"
    if questions.is_dir():
        return Located(str(questions), _root(coco))
    return Located(str(coco), _pictures(coco), remarks=(OWN_QUESTIONS,))


def _coco(given: Given) -> Path:
    """Return the detection file of COCO.

    Raises:
        DataError: The folder has none.
    """
    coco = given.coco
    if coco is None:
        raise DataError("COCO: no data; give its folder with --coco")
    if not coco.is_dir():
        return coco
    found = next((coco / name for name in _NAMES if is_file(coco / name)), None)
    if found is None:
        raise DataError(f"{coco}: holds no {' or '.join(_NAMES)}; give COCO's folder, or a detection file, with --coco")
    return found


def _root(annotations: Path) -> Path:
    """Return the folder of COCO that a detection file belongs to."""
    folder = annotations.parent
    return folder.parent if folder.name == "annotations" else folder


def _pictures(annotations: Path) -> Path:
    root = _root(annotations)
    return next((root / name for name in _FOLDERS if (root / name).is_dir()), root)


def _captions(annotations: Path) -> Located:
    """Return the data of CHAIR: annotations and, where they exist, reference captions and the published word lists."""
    root, options, remarks = _root(annotations), dict[str, str](), []
    captions = annotations.with_name(annotations.name.replace("instances", "captions"))
    if captions != annotations and is_file(captions):
        options["captions"] = str(captions)
    else:
        remarks.append("no reference captions lie beside the annotations: objects that only these name count as absent")
    words, lemmas = root / "synonyms.txt", root / "lemmas.json"
    if is_file(words) and is_file(lemmas):
        options |= {"rule": "wordnet", "vocabulary": str(words), "lemmas": str(lemmas)}
    else:
        remarks.append(
            "captions are read with mmhall's own words; the published rule needs synonyms.txt and lemmas.json"
        )
    return Located(str(annotations), _pictures(annotations), options, tuple(remarks))


def _amber(folder: Path | None) -> Located:
    if folder is None:
        raise DataError(
            "AMBER: no data, and the hub has no copy with its word tables; give the folder of junyangwang0410/AMBER "
            "with --amber"
        )
    table = next(
        (folder / f"similarities.{kind}" for kind in ("json", "csv") if is_file(folder / f"similarities.{kind}")), None
    )
    return Located(str(folder), options={} if table is None else {"similarities": str(table)})
