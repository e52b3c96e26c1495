"""HallusionBench: control groups of questions about charts, illusions and edited pictures, some without a picture.

Paper    Guan et al., CVPR 2024, arXiv:2310.14566; tianyi-lab/HallusionBench.
Items    HallusionBench.json: 951 questions with a picture (visual dependent, VD, and visual supplement, VS)
         and 178 without one (VS, figure 0); `text_only=False` leaves these out. Pictures by `filename` in
         --images or beside the file.
Prompt   "plain": the question; "llava": with "Answer the question using a single word or phrase." on a new
         line; "yes-no": with "Please answer yes or no." on a new line.
Rule     "strict", mmhall's: the first word is yes or no. "vlmevalkit": the words yes and no, one without the
         other. "contains": yes if the answer contains yes in any case (the "intern" rule of lmms-eval), else no.
         "judge", the authors': a judge compares the answer with the reference; `mmhall judge` asks one.
         All of them read the answer after a model's thoughts (`thoughts`).
Metrics  aAcc, right answers; fAcc, figures with every question right (VS figure 0 aside); qAcc, questions
         right with every figure they are asked about. Groups: overall, VD, VS, easy (no edited figure),
         hard (edited). Public tables show the mean of overall aAcc, fAcc and qAcc, or aAcc.
Differs  Under "judge", "unclear" is wrong, except for VS figure 0, as in the original; an answer without judgement
         does not count, while the original calls it unclear. Figures and questions are scored on those of
         their items that are answered with all strategies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mmhall.benchmarks.base import Counts, Item, Material, Metric, Source
from mmhall.benchmarks.data.reading import Record, check_unique, find_pictures, read_records
from mmhall.benchmarks.rules.judged import Judged, judge_reply
from mmhall.benchmarks.rules.thoughts import is_thoughts_only, remove_thoughts
from mmhall.benchmarks.rules.yesno import Label, parse_strict, parse_vlmevalkit
from mmhall.errors import DataError
from mmhall.options import option
from mmhall.results.store import Row

Verdict = Literal["correct", "incorrect", "unclear"]

FILE = "HallusionBench.json"
SUFFIXES = {
    "plain": "",
    "llava": "\nAnswer the question using a single word or phrase.",
    "yes-no": "\nPlease answer yes or no.",
}
_KEYS = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
TEMPLATE = """\
A question was answered. Compare the answer with the reference and say whether it tells the same.

Question: {question}
Reference: {reference}
Answer: {answer}

Say "correct" if the answer agrees with the reference, "incorrect" if it contradicts it, and "unclear" if it \
does neither: if it is undecided, says that it cannot know, or is about something else. Reply with this one word.
"""


def parse_contains(answer: str) -> Label:
    """Parse an answer as yes if it contains yes, else as no.

    >>> parse_contains("YES!"), parse_contains("Eyes"), parse_contains("")
    ('yes', 'yes', 'no')
    """
    return "yes" if "yes" in answer.lower() else "no"


def parse_verdict(reply: str) -> Verdict:
    """Parse a judge's reply; "incorrect" is checked first because it contains "correct".

    >>> parse_verdict("Incorrect."), parse_verdict("It is correct"), parse_verdict("no idea")
    ('incorrect', 'correct', 'unclear')
    """
    reply = reply.lower()
    return "incorrect" if "incorrect" in reply else "correct" if "correct" in reply else "unclear"


RULES: dict[str, Callable[[str], Label | None]] = {
    "strict": parse_strict,
    "vlmevalkit": parse_vlmevalkit,
    "contains": parse_contains,
}


@dataclass(frozen=True)
class Hallusion(Judged):
    """Control groups of questions: a model must use the picture to answer a whole group correctly.

    Attributes:
        rule: Rule that reads answers.
        max_new_tokens: Limit of tokens of an answer.
        text_only: Whether to ask the questions without a picture, too.
        prompt: Profile of the text after a question.
    """

    name: ClassVar[str] = "hallusion"
    yes_no: ClassVar[bool] = True
    groups: ClassVar[tuple[str, ...]] = ("overall", "VD", "VS", "easy", "hard")
    leading: ClassVar[tuple[tuple[str, str], ...]] = (("overall", "aAcc"), ("overall", "qAcc"))
    keys: ClassVar[tuple[str, ...]] = _KEYS
    reads: ClassVar[str] = "HallusionBench.json, or the folder that holds it"
    template: ClassVar[str] = TEMPLATE
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("aAcc", {"right": 1}, {"n": 1}, "higher", flag="right"),
        Metric("fAcc", {"figure": 1}, {"figures": 1}, "higher"),
        Metric("qAcc", {"question": 1}, {"questions": 1}, "higher"),
        Metric("unparsed", {"unparsed": 1}, {"n": 1}, "lower"),
    )

    rule: str = option("strict", choices=(*RULES, "judge"))
    max_new_tokens: int = option(128, low=1)
    text_only: bool = option(True)
    prompt: str = option("yes-no", choices=tuple(SUFFIXES))

    @property
    def wants_judge(self) -> bool:
        """Whether a judge scores the answers."""
        return self.rule == "judge"

    def material(self, source: Source) -> Material:
        """Read the questions."""
        data = source.data_path(self.name, self.reads)
        records = read_records(data / FILE if data.is_dir() else data, self.reads)
        check_unique(((r.where, _id(r)) for r in records), "question")
        questions = [(r, _file(r)) for r in records]
        used = list(dict.fromkeys(file for _, file in questions if file is not None))[: source.limit]
        folder = source.folder or data.parent
        pictures = find_pictures(used, (folder, folder / "hallusion_bench"), source.pictures)
        sets = {_set(r) for r, f in questions if f in pictures} if source.limit else {_set(r) for r in records}
        items = [
            self._item(r, f)
            for r, f in questions
            if f in pictures or (f is None and self.text_only and _set(r) in sets)
        ]
        if not items:
            raise DataError(f"{data}: holds no questions with a picture; hallusion needs some")
        return Material(tuple(items), pictures)

    def _item(self, record: Record, file: str | None) -> Item:
        truth = {name: record.text(name) for name in _KEYS}
        truth["label"] = "yes" if record.choice("gt_answer", ("0", "1")) == "1" else "no"
        truth["question"] = record.text("question")
        truth["reference"] = record.text("gt_answer_details", "gt_answer")
        category = record.choice("category", ("VD", "VS"))
        groups = ("overall", category, "hard" if truth["visual_input"] == "2" else "easy")
        return Item(_id(record), file, truth["question"] + SUFFIXES[self.prompt], groups, truth, _set(record))

    def judge_fields(self, item: Item, text: str) -> Mapping[str, str]:
        """Return the fields for the judge's prompt."""
        return {
            "question": item.truth["question"],
            "reference": item.truth["reference"],
            "answer": remove_thoughts(text),
        }

    def count(self, item: Item, text: str) -> Counts:
        """Count one answer alone, by its text."""
        answer = None if self.wants_judge or is_thoughts_only(text) else RULES[self.rule](remove_thoughts(text))
        return _answer_counts(1, answer == item.truth["label"], answer is None)

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Count answers; figures and questions are counted in their first item."""
        counts = [self._count(item, row) for item, row in zip(items, rows, strict=True)]
        judged = [(item, count) for item, count in zip(items, counts, strict=True) if count["n"]]
        figures = [(item, count) for item, count in judged if not _without_figure(item)]
        _count_groups(figures, "figure", ("category", "subcategory", "set_id", "figure_id"))
        _count_groups(judged, "question", ("category", "subcategory", "set_id", "question_id"))
        return counts

    def _count(self, item: Item, row: Row) -> Counts:
        if not self.wants_judge:
            return self.count(item, row.text)
        reply = judge_reply(row)
        if reply is None:
            return _answer_counts(0, right=False, unparsed=False)
        verdict = parse_verdict(reply)
        right = verdict == "correct" or (verdict == "unclear" and _without_figure(item))
        return _answer_counts(1, right, verdict == "unclear" and "unclear" not in reply.lower())

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark the whole answer as right or wrong; mark nothing if a judge scores."""
        return [] if self.wants_judge else [(0, len(text), bool(self.count(item, text)["right"]))]


def _answer_counts(n: int, right: bool, unparsed: bool) -> Counts:
    shared = ("figure", "figures", "question", "questions")
    return {"n": n, "right": int(right), "unparsed": int(unparsed), **dict.fromkeys(shared, 0)}


def _count_groups(counted: Sequence[tuple[Item, Counts]], name: str, keys: Sequence[str]) -> None:
    """Count the groups of items that are right as a whole, each in its first item."""
    wholes: dict[tuple[str, ...], list[Counts]] = {}
    for item, count in counted:
        wholes.setdefault(tuple(item.truth[key] for key in keys), []).append(count)
    for members in wholes.values():
        members[0][f"{name}s"] = 1
        members[0][name] = int(all(member["right"] for member in members))


def _without_figure(item: Item) -> bool:
    return (item.truth["category"], item.truth["figure_id"]) == ("VS", "0")


def _id(record: Record) -> str:
    """Return the id of a record, as in VLMEvalKit."""
    return "_".join(record.text(name) for name in _KEYS)


def _set(record: Record) -> str:
    """Return the control group of a record; its items may have several figures."""
    return "/".join(record.text(name) for name in ("category", "subcategory", "set_id"))


def _file(record: Record) -> str | None:
    """Return the picture's file name of a record; None without a picture."""
    return None if record.fields.get("filename") in (None, "") else str(Path(record.text("filename")))
