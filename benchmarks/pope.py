"""POPE: polling-based object probing.

Paper    Li et al., EMNLP 2023, arXiv:2305.10355; RUCAIBox/POPE.
Items    Of pictures with known objects: for each with at least three, a yes question for each of the first
         three listed, and after each a no question. The absent object is drawn by the setting: *random*
         (any), *popular* (the most frequent absent one), *adversarial* (the one that most often
         appears together with the object just asked for). Frequencies are counted on the pictures used.
         Or those of question files, one or a folder with three, or of POPEv2's annotations.json (setting
         *v2*): `pope_files`. A folder with files of COCO, A-OKVQA and GQA gives a setting for each set and
         setting, such as *gqa popular*: the nine cells of published tables (`pope_cells`).
Prompt   The question, then the suffix of a profile. "llava" and "lmms-eval": "Answer the question
         using a single word or phrase." on a new line; "vcd": " Please answer this question with one
         word."; "clearsight": " Please just answer yes or no."; "opera" and "vlmevalkit": nothing. The
         authors let answers have 128 tokens (llava), 1024 (vcd, clearsight) or 10 (opera). `sample` draws
         at temperature 1, as the "regular" rows of vcd's tables do: 2 to 6 points below greedy.
Rule     "strict" (mmhall's), "official", "opera", "vcd", "lmms-eval", "vlmevalkit": see `yesno`.
Metrics  accuracy, F1, precision, recall (positive class "yes"), yes ratio of the answers, unparsed; in tables
         of their own false yes, d' and c (`yes_bias`), and recall by visibility of the object, where known.
         A row for each setting; `pooled` adds a row of all questions; one asked in two settings counts twice.
         One table shows accuracy and F1 of all settings and their mean, which papers print: pooled F1 is not the
         mean of F1s. Its interval is by picture, with the questions of all settings.
Differs  Seeded; pictures and categories are sorted first. The three settings share their yes
         questions, as in the paper; a question of several settings is asked once. Labels are
         unchanged, wrong ones included. The typo "imange" of question files is corrected unless
         text="legacy_typo". wording="proper" writes "a unicycle" and "any skis".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from mmhall.benchmarks.base import Counts, Item, Material, Metric, Source
from mmhall.benchmarks.data.pictures import PictureBenchmark, PictureSet
from mmhall.benchmarks.data.pope_cells import CELLS, find_cell_pictures
from mmhall.benchmarks.data.pope_files import POPE_V2, is_questions, read_questions
from mmhall.benchmarks.data.pope_maker import (
    FREQUENCIES,
    PER_PICTURE,
    POSITIVES,
    SETTINGS,
    Question,
    Recipe,
    crowded_pictures,
    make_questions,
)
from mmhall.benchmarks.data.pope_wording import PROMPTS, SUFFIX, WORDINGS, in_version, question_about
from mmhall.benchmarks.rules import yes_bias, yesno
from mmhall.benchmarks.rules.yesno import RULES, Label, parse_official, parse_strict, read, score, tally
from mmhall.options import option

__all__ = ["SETTINGS", "SUFFIX", "Pope", "parse_official", "parse_strict", "question_about", "score"]

VISIBILITIES = ("clear", "small", "faint", "covered")
BY_VISIBILITY = tuple(
    Metric(f"recall, {how}", {f"found {how}": 1}, {f"asked {how}": 1}, "higher", table="by visibility")
    for how in VISIBILITIES
)


@dataclass(frozen=True)
class ObjectQuestions(PictureBenchmark):
    """Yes/no questions about objects in pictures, made from annotations or read from question files.

    Attributes:
        rule: Rule that reads answers.
        max_new_tokens: Limit of tokens of an answer.
        prompt: Profile of the text after the question.
        text: Version of the question text: "fixed", or "legacy_typo" of early releases.
        wording: Wording of questions made from annotations: the "official" template, or "proper" English.
        per_picture: Number of present objects asked for in a picture, and of absent ones.
        positives: Which present objects: the "first" listed, or drawn at "random".
        draw: Number of pictures to draw from those with enough objects; 0: all.
        frequency: Where object frequencies are counted: on the pictures "sampled", or the "whole" file.
        sample: Whether to sample answers at temperature 1 instead of decoding greedily.
        sample_seed: Seed of the sampling.
        gqa_images: Folder of GQA's pictures, for question files of several sets; "": the folder of the others.
    """

    yes_no: ClassVar[bool] = True
    reads: ClassVar[str] = "a COCO detection file, POPE or POPEv2 question file, or folder of POPE's question files"

    rule: str = option("strict", choices=tuple(RULES))
    max_new_tokens: int = option(8, low=1)
    prompt: str = option("llava", choices=tuple(PROMPTS))
    text: str = option("fixed", choices=("fixed", "legacy_typo"))
    wording: str = option("official", choices=WORDINGS)
    per_picture: int = option(PER_PICTURE, low=1)
    positives: str = option("first", choices=POSITIVES)
    draw: int = option(0, low=0)
    frequency: str = option("sampled", choices=FREQUENCIES)
    sample: bool = option(False)
    sample_seed: int = option(0, low=0)
    gqa_images: str = option("", expected="a path, as text")

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        self.check("sample_seed", self.sample or self.sample_seed == 0, "0 unless sample=True")

    @property
    def settings(self) -> dict[str, Any]:
        """Generation settings of the answers."""
        drawn = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": self.sample_seed}
        return {"max_new_tokens": self.max_new_tokens, **(drawn if self.sample else {})}

    def material(self, source: Source) -> Material:
        """Read question files, or make questions from annotated pictures."""
        if source.data is None or not is_questions(source.data):
            self.check("gqa_images", not self.gqa_images, "left out: the data has no question files")
            return super().material(source)
        question_set = read_questions(source.data, self.text)
        pictures = find_cell_pictures(
            [(q.picture, q.ids) for q in question_set.questions],
            source.folder or Path(),
            Path(self.gqa_images) if self.gqa_images else None,
            source.limit,
            source.pictures,
        )
        items = self.phrase([q for q in question_set.questions if q.picture in pictures], source.seed)
        return Material(tuple(items), {str(i.picture): pictures[str(i.picture)] for i in items}, question_set.remarks)

    def complete_pictures(self, pictures: PictureSet) -> tuple[PictureSet, list[str]]:
        """Add a remark on pictures left out because too few categories are absent."""
        left_out = len(crowded_pictures(pictures, self._recipe))
        remark = (
            f"{left_out} of {len(pictures.pictures)} pictures are left out: fewer than {self.per_picture} of the "
            f"{len(pictures.categories)} categories are absent from them."
        )
        return pictures, [remark] if left_out else []

    def items(self, pictures: PictureSet, seed: int) -> list[Item]:
        """Make the questions of all three settings; a question of several settings is one item."""
        texts = {name: self._question_text(name) for name in pictures.categories}
        questions = make_questions(pictures, seed, self._recipe, texts)
        return self.phrase(questions, seed)

    @property
    def _recipe(self) -> Recipe:
        return Recipe(self.per_picture, self.positives, self.draw, self.frequency)

    def _question_text(self, name: str) -> str:
        return in_version(question_about(name, self.wording), self.text)

    @abstractmethod
    def phrase(self, questions: Sequence[Question], seed: int) -> list[Item]:
        """Turn questions into items.

        Raises:
            DataError: A question is unsuitable.
        """

    def count(self, item: Item, text: str) -> Counts:
        """Count one answer against its label."""
        return dict(_count(self.rule, item.truth["label"], text, item.truth.get("visibility")))

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark the whole answer as right or wrong."""
        return [(0, len(text), read(self.rule, item.truth["label"], text) == item.truth["label"])]


@lru_cache(maxsize=4096)
def _count(rule: str, label: Label, text: str, shows: str | None) -> Counts:
    counts = tally(rule, label, text)
    for how in VISIBILITIES:
        counts[f"asked {how}"] = counts["is_yes"] * (shows == how)
        counts[f"found {how}"] = counts["tp"] * (shows == how)
    return counts


@dataclass(frozen=True)
class Pope(ObjectQuestions):
    """Yes/no questions about present and absent objects.

    Attributes:
        pooled: Whether to add a row of all questions; a question of two settings counts twice.
    """

    name: ClassVar[str] = "pope"
    groups: ClassVar[tuple[str, ...]] = (*SETTINGS, *CELLS, POPE_V2)
    grid: ClassVar[tuple[str, ...]] = (*SETTINGS, *CELLS)
    grid_metrics: ClassVar[tuple[str, ...]] = ("accuracy", "F1")
    leading: ClassVar[tuple[tuple[str, str], ...]] = ((SETTINGS[-1], "accuracy"), (SETTINGS[-1], "yes ratio"))
    metrics: ClassVar[tuple[Metric, ...]] = (*yesno.METRICS, *yes_bias.METRICS, *BY_VISIBILITY)

    pooled: bool = option(False)

    def __post_init__(self) -> None:
        """Check the options; add the group of pooled questions."""
        super().__post_init__()
        if self.pooled:
            object.__setattr__(self, "groups", (*type(self).groups, "pooled"))

    def phrase(self, questions: Sequence[Question], seed: int) -> list[Item]:
        """Make one item of each question; items share prompts and groups, of which a million have few."""
        shared: dict[Any, Any] = {}
        return [self._item(q, id_, shared) for q, id_ in zip(questions, item_ids(questions), strict=True)]

    def _item(self, question: Question, id_: str, shared: dict[Any, Any]) -> Item:
        prompt = question.text + PROMPTS[self.prompt]
        groups = tuple(setting for setting, numbers in question.ids.items() for _ in numbers)
        groups += ("pooled",) * (len(groups) if self.pooled else 0)
        return Item(
            id_,
            question.picture,
            shared.setdefault(prompt, prompt),
            shared.setdefault(groups, groups),
            {
                "label": question.label,
                "object": question.object or "",
                "visibility": question.visibility,
                "question": question.text,
                "ids": question.ids,
            },
        )


def item_ids(questions: Sequence[Question]) -> list[str]:
    """Return a unique id for each question: picture and object, with text and label if needed."""
    names: dict[str, None] = {}
    for q in questions:
        candidates = (q.object or q.text, q.text, f"{q.text} ({q.label})")
        names[next(name for name in (f"{q.picture}/{t}" for t in candidates) if name not in names)] = None
    return list(names)
