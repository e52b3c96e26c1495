"""MME: two yes/no questions about each picture, one with the label yes and one with no.

Paper    Fu et al., arXiv:2306.13394.
Items    The authors' folders, one a category, with pictures and text files beside them (or pictures in
         `images`, text files in `questions_answers_YN`): two lines each, question, tab, Yes or No. Or a
         manifest: JSON Lines with question_id, image, question, answer, category. `subset`: the
         "hallucination" categories existence, count, position and color, or "all".
Prompt   "official": the unchanged question; it ends in "Please answer yes or no.". "llava" (lmms-eval's):
         without these words, then "Answer the question using a single word or phrase." on a new line.
Rule     "official", the authors': the answer is yes or no, or its first four characters contain yes, or else no
         ("not", "north"). "lmms-eval" ignores surrounding space and dots, and accepts a lone y or n. Both read the
         answer after a model's thoughts (`thoughts`).
Metrics  acc, the share of questions answered rightly; acc+, the share of pictures with both; score, the sum over
         categories of acc + acc+ (200 % for each). Reports show the authors' table, too.
Differs  An answer that is neither is wrong, as in the original. With an answer missing, a picture counts in
         acc only. One answer is 1.7 points of acc in a category of 30 pictures, and up to 3.3 of acc+.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmhall.benchmarks.base import Benchmark, Counts, Item, Material, Metric, OfficialFigures, Source, by_strategy
from mmhall.benchmarks.data.reading import Record, check_unique, find_pictures, read_records, read_text
from mmhall.benchmarks.rules.thoughts import remove_thoughts
from mmhall.benchmarks.rules.yesno import Label
from mmhall.errors import DataError
from mmhall.options import option
from mmhall.results.store import Row

HALLUCINATION = ("existence", "count", "position", "color")
PERCEPTION = (*HALLUCINATION, "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TOTALS = {"hallucination": HALLUCINATION, "perception": PERCEPTION, "cognition": COGNITION}
TAIL = " Please answer yes or no."
SUFFIX = "\nAnswer the question using a single word or phrase."
_PICTURES = (".jpg", ".jpeg", ".png")


def parse_official(answer: str) -> Label | None:
    """Parse an answer as the authors' script does.

    >>> parse_official("NO"), parse_official("It's not"), parse_official("northern"), parse_official("  yes")
    ('no', None, 'no', None)
    """
    answer = answer.lower()
    start = answer if answer in ("yes", "no") else answer[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def parse_lmms_eval(answer: str) -> Label | None:
    """Parse an answer as lmms-eval does.

    >>> parse_lmms_eval("  Yes."), parse_lmms_eval("N"), parse_lmms_eval("maybe")
    ('yes', 'no', None)
    """
    answer = answer.lower().strip().replace(".", "")
    return parse_official({"y": "yes", "n": "no"}.get(answer, answer))


RULES: dict[str, Callable[[str], Label | None]] = {"official": parse_official, "lmms-eval": parse_lmms_eval}


@dataclass(frozen=True, slots=True)
class Question:
    """One question: its id, file name of its picture, category, text and label; `where` is its file and line."""

    id: str
    image: str
    category: str
    text: str
    label: Label
    where: str


@dataclass(frozen=True)
class Mme(Benchmark):
    """Two questions about each picture.

    Attributes:
        rule: Rule that reads answers.
        max_new_tokens: Limit of tokens of an answer.
        subset: Categories that are asked.
        prompt: Wording of a question.
    """

    name: ClassVar[str] = "mme"
    yes_no: ClassVar[bool] = True
    groups: ClassVar[tuple[str, ...]] = (*TOTALS, *PERCEPTION, *COGNITION)
    official: ClassVar[str] = "acc + acc+ in percent"
    leading: ClassVar[tuple[tuple[str, str], ...]] = (("hallucination", "score"), ("hallucination", "acc+"))
    reads: ClassVar[str] = "MME's folder of categories, or a manifest in JSON Lines (question_id, image, question, ...)"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("score", {"points": 1}, {"pictures": 1}, "higher"),
        Metric("acc", {"right": 1}, {"n": 1}, "higher", flag="right"),
        Metric("acc+", {"both": 1}, {"pictures": 1}, "higher"),
        Metric("unparsed", {"unparsed": 1}, {"n": 1}, "lower"),
    )

    rule: str = option("official", choices=tuple(RULES))
    max_new_tokens: int = option(16, low=1)
    subset: str = option("hallucination", choices=("hallucination", "all"))
    prompt: str = option("official", choices=("official", "llava"))

    def material(self, source: Source) -> Material:
        """Read the questions."""
        data = source.data_path(self.name, self.reads)
        questions = list(_read_folders(data, source.images or data) if data.is_dir() else _read_manifest(data))
        questions = [q for q in questions if self.subset == "all" or q.category in HALLUCINATION]
        if not questions:
            raise DataError(f"{data}: holds no questions of MME's categories; expected {self.reads}")
        check_unique(((q.where, f"{q.category}, {q.image}: {q.text}") for q in questions), "question")
        _check_two_questions(questions)
        used = list(dict.fromkeys((q.category, q.image) for q in questions))[: source.limit]
        order = {key: place for place, key in enumerate(used)}
        chosen = [q for q in questions if (q.category, q.image) in order]
        pictures = find_pictures((q.image for q in chosen), (source.folder or data,), source.pictures)
        chosen.sort(key=lambda q: order[q.category, q.image])
        return Material(tuple(self._item(q) for q in chosen), pictures)

    def _item(self, question: Question) -> Item:
        text = question.text
        if self.prompt == "llava":
            text = text.replace(TAIL, "") + SUFFIX
        groups = (*(total for total, of in TOTALS.items() if question.category in of), question.category)
        truth = {"label": question.label, "category": question.category}
        return Item(question.id, question.image, text, groups, truth)

    def count(self, item: Item, text: str) -> Counts:
        """Count one answer alone."""
        answer = RULES[self.rule](remove_thoughts(text))
        right = int(answer == item.truth["label"])
        return {"n": 1, "right": right, "unparsed": int(answer is None), "both": 0, "pictures": 0, "points": 0}

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Count answers; pictures are counted in their first question.

        Points of a picture: its own acc + acc+, times all pictures over pictures of its category, so that the
        mean over pictures is the sum over categories.
        """
        counts = [self.count(item, row.text) for item, row in zip(items, rows, strict=True)]
        whole = _complete_pairs(items, counts)
        sizes = Counter(category for category, _ in whole)
        for (category, _), (first, second) in whole.items():
            right = first["right"] + second["right"]
            first["pictures"], first["both"] = 1, right // 2
            first["points"] = (right / 2 + right // 2) * len(whole) / sizes[category]
        return counts

    def official_figures(self, items: Sequence[Item], rows: Sequence[Row]) -> OfficialFigures:
        """Return the scores of the authors' script by category, if answers are parsed by its rule."""
        figures: dict[str, dict[str, tuple[float, ...]]] = {}
        for strategy, answers in by_strategy(rows).items() if self.rule == "official" else ():
            texts = {row.item: row.text for row in answers}
            members = [item for item in items if item.id in texts]
            pairs = _complete_pairs(members, [self.count(item, texts[item.id]) for item in members])
            scores = official_scores((c, bool(a["right"]), bool(b["right"])) for (c, _), (a, b) in pairs.items())
            if scores:
                figures[strategy] = {name: (scores[name],) for name in self.groups if name in scores}
        return figures

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark the whole answer as right or wrong."""
        return [(0, len(text), RULES[self.rule](remove_thoughts(text)) == item.truth["label"])]


def _complete_pairs(items: Sequence[Item], counts: Sequence[Counts]) -> dict[tuple[str, str | None], list[Counts]]:
    """Return the counts of both questions by category and picture; pictures with one answered question are left out."""
    pairs: dict[tuple[str, str | None], list[Counts]] = {}
    for item, count in zip(items, counts, strict=True):
        pairs.setdefault((item.truth["category"], item.picture), []).append(count)
    return {key: pair for key, pair in pairs.items() if len(pair) == 2}


def official_scores(pictures: Iterable[tuple[str, bool, bool]]) -> dict[str, float]:
    """Compute the authors' table: acc + acc+ in percent by category, and the totals of complete groups.

    Args:
        pictures: Category of each picture, and whether its first and its second answer are right.

    >>> official_scores([("count", True, True), ("count", True, False)])
    {'count': 125.0}
    """
    right: dict[str, list[tuple[bool, bool]]] = {}
    for category, first, second in pictures:
        right.setdefault(category, []).append((first, second))
    scores = {
        name: 100 * sum(a + b for a, b in pairs) / (2 * len(pairs)) + 100 * sum(a and b for a, b in pairs) / len(pairs)
        for name, pairs in right.items()
    }
    totals = {total: sum(scores[c] for c in of) for total, of in TOTALS.items() if set(of) <= set(scores)}
    return scores | totals


def _check_two_questions(questions: Sequence[Question]) -> None:
    """Check that each picture has exactly two questions."""
    numbers = Counter((q.category, q.image) for q in questions)
    for q in questions:
        number = numbers[q.category, q.image]
        if number != 2:
            raise DataError(f"{q.where}: {q.image} has {number} questions in {q.category}; each picture of MME has 2")


def _read_manifest(path: Path) -> Iterable[Question]:
    """Yield the questions of a manifest."""
    numbers: Counter[str] = Counter()
    for record in read_records(path, Mme.reads):
        category = record.choice("category", (*PERCEPTION, *COGNITION))
        label: Label = "yes" if record.choice("answer", ("yes", "no")) == "yes" else "no"
        image = record.text("image")
        name = f"{category}/{Path(image).name}"
        numbers[name] += 1
        yield Question(f"{name}/{numbers[name]}", image, category, record.text("question"), label, record.where)


def _read_folders(root: Path, images: Path) -> Iterable[Question]:
    """Yield the questions of the authors' folders."""
    for category in (*PERCEPTION, *COGNITION):
        for texts, shown in ((category, category), (f"{category}/questions_answers_YN", f"{category}/images")):
            files = sorted((root / texts).glob("*.txt"))
            pictures = _by_stem(images / shown) if files else {}
            for file in files:
                if file.stem not in pictures:
                    raise DataError(f"{file}: has no picture {file.stem} in {images / shown}; check --images")
                yield from _read_questions(file, category, f"{shown}/{pictures[file.stem]}")


def _by_stem(folder: Path) -> Mapping[str, str]:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.stem: file.name for file in files if file.suffix.lower() in _PICTURES}


def _read_questions(file: Path, category: str, image: str) -> Iterable[Question]:
    """Yield the questions of one picture's text file."""
    lines = [line for line in read_text(file, "lines of question, tab, Yes or No").splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        text, _, answer = line.rpartition("\t")
        where = f"{file}, line {number}"
        label: Label = "yes" if Record(where, {"answer": answer}).choice("answer", ("yes", "no")) == "yes" else "no"
        yield Question(f"{category}/{Path(image).name}/{number}", image, category, text.strip(), label, where)
    if not lines:
        raise DataError(f"{file}: is empty; expected two lines of question, tab, Yes or No")
