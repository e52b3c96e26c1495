"""Reader of BEAF's questions about pictures before and after one object is removed.

Its beaf_qna.json is a list of {"id": 0, "image": "COCO_val2014_000000001171_00.png", "question": "Is there a train in
the image?", "orig_img": false, "removed_q": true, "gt": "no"}. The picture X_00.png is X.jpg without one object, and
`removed_q` marks the questions about objects that are removed in some picture of the same scene.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mmhall.benchmarks.data.reading import Record, check_unique, read_records
from mmhall.benchmarks.rules.yesno import Label
from mmhall.errors import DataError

FILE = "beaf_qna.json"
READS = f"BEAF's {FILE}, a folder that holds it, or the annotations.json of drawn scenes"

Kind = Literal["original", "removed", "kept", "other"]


@dataclass(frozen=True, slots=True)
class PairQuestion:
    """One question about the picture of a scene, or about the scene without an object.

    Attributes:
        id: Unique.
        image: File name of the picture.
        scene: File name of the scene's original picture.
        text: The question.
        label: The right answer.
        kind: "original": about the original picture; of an edited one "removed": about the object that is missing
            there, "kept": about an object that is removed nowhere, "other": about one that is removed elsewhere.
    """

    id: str
    image: str
    scene: str
    text: str
    label: Label
    kind: Kind


def read_pair_questions(path: Path) -> tuple[list[PairQuestion], int]:
    """Read BEAF's file; also return the number of questions whose label does not follow the removal.

    A removed object must be there before and not after, and nothing else may change; other questions belong to no pair.

    Raises:
        DataError: The file is missing or malformed, or an edited picture has no original with the same question.
    """
    records = read_records(path, READS)
    check_unique(((record.where, record.text("id")) for record in records), "question")
    scenes = {Path(r.text("image")).stem: r.text("image") for r in records if _flag(r, "orig_img")}
    questions = [_pair_question(record, scenes) for record in records]
    labels = {(q.scene, q.text): q.label for q in questions if q.kind == "original"}
    paired: list[PairQuestion] = []
    odd = 0
    for record, question in zip(records, questions, strict=True):
        before = labels.get((question.scene, question.text))
        if before is None:
            raise DataError(f"{record.where}: {question.scene} is not asked {question.text!r}; both pictures must be")
        wanted = {"removed": "yes", "kept": question.label}.get(question.kind, before)
        odd += before != wanted
        paired.append(question if before == wanted else replace(question, kind="other"))
    return paired, odd


def _pair_question(record: Record, scenes: Mapping[str, str]) -> PairQuestion:
    image, label = record.text("image"), record.choice("gt", ("yes", "no"))
    original, removed = _flag(record, "orig_img"), _flag(record, "removed_q")
    scene = image if original else scenes.get(Path(image).stem.rpartition("_")[0])
    if scene is None:
        raise DataError(f"{record.where}: {image} is an edited picture, and the file has no original of it")
    kind: Kind = "original" if original else "kept" if not removed else "removed" if label == "no" else "other"
    return PairQuestion(
        record.text("id"), image, scene, record.text("question"), "yes" if label == "yes" else "no", kind
    )


def _flag(record: Record, name: str) -> bool:
    value = record.fields.get(name)
    if not isinstance(value, bool):
        raise DataError(f"{record.where}: {name!r} must be true or false, got {value!r:.60}")
    return value
