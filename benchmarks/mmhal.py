"""MMHal-Bench: 96 open questions of eight types, answers rated by a judge.

Paper    Sun et al., arXiv:2309.14525; Shengcao1006/MMHal-Bench.
Items    The response template of the data set (a list of question, gt_answer, image_content, ...): question i
         is of type i mod 8, so the order matters. Pictures by the file name in image_src, or by image_id.
Prompt   The question.
Rule     "official": a judge's reply is rated k if it contains "rating: k" for exactly one k of 0 to 6, else 0.
         "strict": a reply without one rating has none, and counts as unparsed. The judge gets the answer without the
         thoughts of a reasoning model (`thoughts`).
Metrics  score, the mean rating (0 to 6); hallucination, the share of ratings below 3; unparsed replies; judged,
         the share of answers that count. By type, too.
Judge    Answers are only judged by `mmhall judge`. The authors' prompt is part of their repository:
         give the file with --template. With 96 items the standard error of the mean is about 0.2, and
         judges change over time: do not compare ratings of different judges.
Differs  An answer without judgement does not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmhall.benchmarks.base import Counts, Item, Material, Metric, Source
from mmhall.benchmarks.data.reading import Record, find_pictures, read_records
from mmhall.benchmarks.rules.judged import Judged, judge_reply
from mmhall.benchmarks.rules.thoughts import remove_thoughts
from mmhall.errors import DataError
from mmhall.options import option
from mmhall.results.store import Row

TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
HALLUCINATED = 3  # ratings below it
FILES = ("response_template.json", "test_data.json")


def parse_rating(reply: str) -> int | None:
    """Parse the rating in a judge's reply; None unless there is exactly one.

    >>> parse_rating("Fine. Rating: 4"), parse_rating("rating: 2 or rating: 3"), parse_rating("Rating: 7")
    (4, None, None)
    """
    ratings = [k for k in range(7) if f"rating: {k}" in reply.lower()]
    return ratings[0] if len(ratings) == 1 else None


@dataclass(frozen=True)
class MmHal(Judged):
    """Open questions whose answers a judge rates.

    Attributes:
        rule: How a reply without exactly one rating counts.
        max_new_tokens: Limit of tokens of an answer.
    """

    name: ClassVar[str] = "mmhal"
    groups: ClassVar[tuple[str, ...]] = ("overall", *TYPES)
    leading: ClassVar[tuple[tuple[str, str], ...]] = (("overall", "score"), ("overall", "hallucination"))
    reads: ClassVar[str] = "MMHal-Bench's response_template.json, or the folder that holds it"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("score", {"rating": 1}, {"rated": 1}, "higher", percent=False, margin=0.1),
        Metric("hallucination", {"hallucinated": 1}, {"rated": 1}, "lower"),
        Metric("unparsed", {"unparsed": 1}, {"judged": 1}, "lower"),
        Metric("judged", {"judged": 1}, {"n": 1}),
    )

    rule: str = option("official", choices=("official", "strict"))
    max_new_tokens: int = option(512, low=1)

    @property
    def wants_judge(self) -> bool:
        """Whether a judge scores the answers: always."""
        return True

    def material(self, source: Source) -> Material:
        """Read the questions, in order."""
        data = source.data_path(self.name, self.reads)
        path = next((data / f for f in FILES if (data / f).is_file()), data / FILES[0]) if data.is_dir() else data
        folder = source.folder or path.parent
        folders = (folder, folder / "images", folder / "test_data", folder / "test_data" / "images")
        records = read_records(path, self.reads)[: source.limit]
        names = [_picture(record, folders) for record in records]
        items = [self._item(n, record, name) for n, (record, name) in enumerate(zip(records, names, strict=True))]
        return Material(tuple(items), find_pictures(names, folders, source.pictures))

    def _item(self, number: int, record: Record, picture: str) -> Item:
        kind = TYPES[number % len(TYPES)]
        listed = record.text("question_type") if "question_type" in record.fields else kind
        if listed != kind:
            raise DataError(
                f"{record.where}: is of type {listed!r}, expected type {kind!r} here; MMHal-Bench's order must be kept"
            )
        question = record.text("question")
        truth = {
            "type": kind,
            "question": question,
            "reference": record.text("gt_answer"),
            "contents": ", ".join(record.texts("image_content")),
        }
        return Item(f"{number}", picture, question, ("overall", kind), truth, cluster=f"{number}")

    def judge_fields(self, item: Item, text: str) -> Mapping[str, str]:
        """Return the fields for the judge's prompt, in the order of the authors' template."""
        return {
            **{name: item.truth[name] for name in ("contents", "question", "reference")},
            "answer": remove_thoughts(text),
        }

    def count(self, item: Item, text: str) -> Counts:
        """Count an answer without judgement."""
        return self.rate(None)

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Count answers by their judgements."""
        return [self.rate(judge_reply(row)) for row in rows]

    def rate(self, reply: str | None) -> Counts:
        """Count a judge's reply; None: there is no reply."""
        if reply is None:
            return {"n": 1, "judged": 0, "rated": 0, "rating": 0, "hallucinated": 0, "unparsed": 0}
        read = parse_rating(reply)
        rating = 0 if read is None and self.rule == "official" else read
        return {
            "n": 1,
            "judged": 1,
            "rated": int(rating is not None),
            "rating": rating or 0,
            "hallucinated": int(rating is not None and rating < HALLUCINATED),
            "unparsed": int(read is None),
        }

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark nothing: the judge rates an answer as a whole."""
        return []


def _picture(record: Record, folders: Sequence[Path]) -> str:
    """Return the file name of a record's picture: `image`, or the last part of `image_src`, or `image_id` with .jpg."""
    if "image" in record.fields:
        return record.text("image")
    names = [Path(record.text("image_src").split("?")[0]).name] if "image_src" in record.fields else []
    names += [f"{re.sub(r'[.](jpe?g|png)$', '', record.text('image_id'))}.jpg"] if "image_id" in record.fields else []
    if not names:
        raise DataError(f"{record.where}: names no picture; expected image, image_src or image_id")
    return next((n for n in names if any((folder / n).is_file() for folder in folders)), names[0])
