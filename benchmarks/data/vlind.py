"""Reader of VLind-Bench's data.json and its pictures.

data.json is a list of {"global_id": 0, "concept": "location", "context_id": 3, "context": "A car is in a lake.",
"factual_context": "A car is on a road.", "true_statement": "The car is in a lake.", "false_statement": "The car is on a
road.", "existent_noun": "a car", "non-existent_noun": "a horse", "best_img_id": "4",
"aggregated_human_label_good_images": {"4": 3, "7": 1}}. Pictures are counterfactual/CONCEPT/ID_CONTEXT/N.jpg and
factual/CONCEPT/ID_FACTUAL CONTEXT/0.jpg in the folder images. A counterfactual picture is good if at least two of three
people say that it shows the context; the authors leave out instances without a good picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmhall import files
from mmhall.benchmarks.data.reading import Record, check_unique, read_records
from mmhall.errors import DataError

FILE = "data.json"
READS = f"VLind-Bench's {FILE}, a folder that holds it, or the annotations.json of drawn scenes"
VOTES = 2  # of three, that make a picture good


@dataclass(frozen=True, slots=True)
class Instance:
    """One counterfactual context, with its pictures.

    Attributes:
        id: Unique.
        concept: What the context turns around, such as location.
        context: The context in words.
        true: A statement that is true in the context, and false by common sense.
        false: A statement that is false in the context, and true by common sense.
        existent: Something in the counterfactual picture, with its article.
        absent: Something that is not in it.
        factual: Id of the picture without the context.
        best: Id of the best counterfactual picture.
        good: Ids of all good counterfactual pictures.
        questions: The statements true, false, existent and absent as yes/no questions; empty: there are none.
    """

    id: str
    concept: str
    context: str
    true: str
    false: str
    existent: str
    absent: str
    factual: str
    best: str
    good: tuple[str, ...]
    questions: tuple[str, ...] = ()


def read_instances(path: Path, images: Path, required: bool = True) -> tuple[list[Instance], dict[str, Path], int]:
    """Read the instances, the files of their pictures, and how many instances have no good picture.

    Args:
        path: The file data.json.
        images: The folder images, or the one that holds it.
        required: Whether picture files must exist.

    Raises:
        DataError: The file or a picture is missing or malformed, or no instance has a good picture.
    """
    records = read_records(path, READS)
    check_unique(((record.where, _id(record)) for record in records), "instance")
    folder = images / "images" if (images / "images").is_dir() else images
    instances: list[Instance] = []
    pictures: dict[str, Path] = {}
    for record in records:
        good = [number for number, votes in _votes(record).items() if votes >= VOTES]
        if not good:
            continue
        factual = _folder(record, folder, "factual", "factual_context", required)
        counterfactual = _folder(record, folder, "counterfactual", "context", required)
        best = f"{counterfactual}/{record.text('best_img_id')}.jpg"
        named = f"{factual}/0.jpg", best, *(f"{counterfactual}/{number}.jpg" for number in good)
        pictures |= {name: _picture(record, folder / name, required) for name in named}
        instances.append(
            Instance(
                _id(record), record.text("concept"), record.text("context"), record.text("true_statement"),
                record.text("false_statement"), record.text("existent_noun"), record.text("non-existent_noun"),
                named[0], best, named[2:],
            )
        )  # fmt: skip
    if not instances:
        raise DataError(f"{path}: no instance has a picture with {VOTES} votes; expected {READS}")
    return instances, pictures, len(records) - len(instances)


def _id(record: Record) -> str:
    names = ("global_id",) if "global_id" in record.fields else ("concept", "context_id")
    return "_".join(record.text(name) for name in names)


def _votes(record: Record) -> dict[str, int]:
    votes = record.fields.get("aggregated_human_label_good_images")
    if not isinstance(votes, dict) or not all(isinstance(n, int) for n in votes.values()):
        raise DataError(
            f"{record.where}: 'aggregated_human_label_good_images' must be votes by picture, got {votes!s:.60}"
        )
    return votes


def _folder(record: Record, folder: Path, kind: str, context: str, required: bool) -> str:
    """Return the folder of an instance's pictures: named by its number and context, or by its number alone."""
    parent = f"{kind}/{record.text('concept')}"
    number = record.text("context_id")
    name = f"{number}_{record.text(context)}"
    if not required or files.is_file(folder / parent / name / "0.jpg"):
        return f"{parent}/{name}"
    found = sorted(each.name for each in _folders(folder / parent) if each.name.startswith(f"{number}_"))
    if len(found) != 1:
        told = f"has {len(found)} folders" if found else "has no folder"
        raise DataError(f"{record.where}: {folder / parent} {told} named {number}_...; check --images")
    return f"{parent}/{found[0]}"


def _folders(parent: Path) -> Sequence[Path]:
    return [each for each in parent.iterdir() if each.is_dir()] if parent.is_dir() else []


def _picture(record: Record, path: Path, required: bool) -> Path:
    if required and not files.is_file(path):
        raise DataError(f"{record.where}: {path}: no such picture; check --images")
    return path
