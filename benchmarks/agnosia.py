"""Agnosia: fine-grained questions on pairs of pictures that differ in one thing (entity, number, colour, relation).

Paper    After EMMA, "Evaluation and Mitigation of Multimodal Agnosia" (arXiv:2309.04041), which asks for aspects of
         pictures one by one. Its questions are not public: pictures, questions and pairs are mmhall's. The name is that
         of what it measures, as EMMA also names a benchmark of reasoning (arXiv:2501.05444).
Items    Without --data, each drawn scene is changed once for each aspect (`mmhall.benchmarks.scenes.probes`): an object
         is removed and one is added (entity), one more of its kind is added (number), it has another colour (colour),
         or stands on the other side of another object (relation). Both pictures are asked the same: about the change,
         and about what stays. Pictures are written to `probes` beside the scenes. With --data, questions of your own
         with an aspect (`mmhall.benchmarks.data.aspects`), in pairs or not. Each question is also asked once without
         a picture (`blind=False`: it is not), for the controls alone.
Forms    "yes-no", or "choice" with lettered options; a run has one. As a choice, entity exchanges an object.
Prompt   "llava": then "Answer the question using a single word or phrase.", or for choices "Answer with the option's
         letter from the given choices directly."; "plain": nothing, and options on the question's line.
Rule     "strict", mmhall's, or any other of `yesno`. Choices: the letter, or the only option that the answer names
         (`choices`), under "strict".
Metrics  accuracy; both right, the share of changed pairs with both pictures right, beside what chance gives. Controls:
         the share of yes, what the best single answer gives (a letter, or the text of an option), accuracy of the
         answers without a picture to the same questions, and the share of answers equal to these. As in BEAF
         (arXiv:2407.13442), with each pair read from the picture of yes to that of no: "both right" is its TU, IG is no
         then yes, SBp and SBn yes and no both times, ID the share of answers that change where the truth does not, F1
         the mean of TU and 1 - ID. By kind of change (added, removed, ...). Of yes/no questions false yes, d' and c
         (`yes_bias`).
Differs  Unparsed answers are wrong and neither IG nor SB; a turn to one counts in ID. All pictures of a scene are
         resampled together. Sizes of groups count the questions without a picture, figures do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmhall.benchmarks.base import Benchmark, Counts, Item, Material, Metric, Source, by_strategy, series
from mmhall.benchmarks.beaf import f1_of_changes
from mmhall.benchmarks.data.aspects import LINES, AspectQuestion, read_aspects
from mmhall.benchmarks.data.pope_wording import SUFFIX
from mmhall.benchmarks.data.reading import find_pictures
from mmhall.benchmarks.data.redrawn import is_drawn, write_plans
from mmhall.benchmarks.data.scene_probes import PROBES, draw_probes
from mmhall.benchmarks.evidence.unknown_words import unknown_remark
from mmhall.benchmarks.rules import yes_bias
from mmhall.benchmarks.rules.choices import LETTERS, lettered, parse_choice
from mmhall.benchmarks.rules.yesno import RULES, read, score, tally
from mmhall.errors import DataError, OptionError
from mmhall.options import option
from mmhall.results.statistics import Resampler
from mmhall.results.store import Row

ASPECTS = ("entity", "number", "colour", "relation", "material", "shape", "size", "action", "text")
FORMS = ("yes-no", "choice")
PROMPTS = {
    "llava": (SUFFIX, "\nAnswer with the option's letter from the given choices directly."),
    "plain": ("", ""),
}
CHANGES = ("removed", "added", "exchanged", "recoloured", "moved")
_OF_PAIRS = ("pairs", "both", "both by chance", "yes-no pairs", "IG", "SBp", "SBn", "SB", "kept", "ID")
_OF_CONTROLS = ("constant", "blind", "blind right", "blind same")


@dataclass(frozen=True)
class Agnosia(Benchmark):
    """Questions about single aspects of two pictures that differ in one thing.

    Attributes:
        rule: Rule that reads answers.
        max_new_tokens: Limit of tokens of an answer.
        form: Whether to ask for yes or no, or with options.
        prompt: Profile of the text after the question.
        blind: Whether to ask each question once without a picture, too.
        aspects: Names of further aspects of your own questions, separated by spaces.
    """

    name: ClassVar[str] = "agnosia"
    groups: ClassVar[tuple[str, ...]] = ("all", *ASPECTS)
    plotted: ClassVar[str] = "all"
    leading: ClassVar[tuple[tuple[str, str], ...]] = tuple(
        ("all", metric) for metric in ("accuracy", "chance", "both right", "both by chance")
    )
    drawn: ClassVar[bool] = True
    asks_in_words: ClassVar[bool] = True
    yes_no: ClassVar[bool] = True
    reads: ClassVar[str] = f"{LINES}; or the annotations.json of drawn scenes"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", {"right": 1}, {"n": 1}, "higher", flag="right"),
        Metric("chance", {"chance": 1}, {"n": 1}, fixed=True),
        Metric("both right", {"both": 1}, {"pairs": 1}, "higher"),
        Metric("both by chance", {"both by chance": 1}, {"pairs": 1}, fixed=True),
        Metric("unparsed", {"unparsed": 1}, {"n": 1}, "lower"),
        Metric("yes ratio", {"yes": 1}, {"yes-no": 1}, table="controls"),
        Metric("best single answer", {"constant": 1}, {"n": 1}, table="controls", fixed=True),
        Metric("without a picture", {"blind right": 1}, {"blind": 1}, table="controls"),
        Metric("as without a picture", {"blind same": 1}, {"blind": 1}, "lower", table="controls"),
        Metric(
            "F1(TU, ID)",
            {},
            {},
            "higher",
            table="before and after",
            of=f1_of_changes,
            sums=("both", "pairs", "ID", "kept"),
        ),
        Metric("IG", {"IG": 1}, {"yes-no pairs": 1}, "lower", table="before and after"),
        Metric("SBp", {"SBp": 1}, {"yes-no pairs": 1}, "lower", table="before and after"),
        Metric("SBn", {"SBn": 1}, {"yes-no pairs": 1}, "lower", table="before and after"),
        Metric("same answer (SB)", {"SB": 1}, {"pairs": 1}, "lower", table="before and after"),
        Metric("ID", {"ID": 1}, {"kept": 1}, "lower", table="before and after"),
        *(
            Metric(change, {f"both {change}": 1}, {f"pairs {change}": 1}, "higher", table="both right by change")
            for change in CHANGES
        ),
        *yes_bias.METRICS,
    )

    rule: str = option("strict", choices=tuple(RULES))
    max_new_tokens: int = option(8, low=1)
    form: str = option("yes-no", choices=FORMS)
    prompt: str = option("llava", choices=tuple(PROMPTS))
    blind: bool = option(True)
    aspects: str = option("")

    def __post_init__(self) -> None:
        """Check the options; add groups of further aspects."""
        super().__post_init__()
        if self.form == "choice" and self.rule != "strict":
            raise OptionError(self.name, "rule", self.rule, "'strict' with form='choice'; the others read yes and no")
        own = tuple(name for name in dict.fromkeys(self.aspects.split()) if name not in type(self).groups)
        object.__setattr__(self, "groups", (*type(self).groups, *own))
        object.__setattr__(self, "yes_no", self.form == "yes-no")

    def material(self, source: Source) -> Material:
        """Read the questions, or change the drawn scenes and ask about them."""
        data = source.data_path(self.name, self.reads)
        if is_drawn(data):
            return self._drawn(data, source)
        questions = read_aspects(data, self.groups[1:])
        asked = [question for question in questions if bool(question.options) == (self.form == "choice")]
        if not asked:
            other = next(form for form in FORMS if form != self.form)
            raise DataError(f"{data}: holds no {self.form} questions; ask them with agnosia(form='{other}')")
        used = set(list(dict.fromkeys(question.scene for question in asked))[: source.limit])
        chosen = [question for question in asked if question.scene in used]
        pictures = find_pictures((q.image for q in chosen), (source.folder or data.parent,), source.pictures)
        left = len(questions) - len(asked)
        remark = f"{left} questions of another form than {self.form} are left out; another run can ask them."
        return Material(tuple(self._items(chosen)), pictures, (remark,) if left else ())

    def _drawn(self, annotations: Path, source: Source) -> Material:
        choice = self.form == "choice"
        probes = draw_probes(annotations, source.seed, source.limit, choice=choice, check=source.pictures)
        folder = annotations.parent / PROBES
        files = write_plans(probes.plans, folder) if source.pictures else {name: folder / name for name in probes.plans}
        items = self._items(probes.questions)
        named = {item.picture for item in items} - {None}
        pictures = {str(name): files.get(str(name), annotations.parent / str(name)) for name in named}
        remarks = [
            f"{n} scenes have no pair of {aspect}: nothing can be changed." for aspect, n in probes.skipped.items()
        ]
        return Material(tuple(items), dict(sorted(pictures.items())), tuple(remarks))

    def _items(self, questions: Sequence[AspectQuestion]) -> list[Item]:
        """Make an item of each question, and one without a picture of all that ask the same of a scene."""
        firsts: dict[str, str] = {}
        items: dict[str, Item] = {}
        for q in questions:
            blind = f"{q.scene}/without/{q.text}/{','.join(q.options)}"
            truth: dict[str, Any] = {"label": q.label, "question": q.text, "options": list(q.options)}
            other = firsts.setdefault(q.pair, q.id) if q.pair else q.id
            own = {"id": q.id, "change": q.change, "other": other, "blind": blind}
            prompt, groups = self._prompt(q), ("all", q.aspect)
            items[q.id] = Item(q.id, q.image, prompt, groups, truth | own, q.scene)
            if self.blind:
                items.setdefault(blind, Item(blind, None, prompt, groups, truth | {"id": blind}, q.scene))
        return list(items.values())

    def _prompt(self, question: AspectQuestion) -> str:
        yes_no, choice = PROMPTS[self.prompt]
        if not question.options:
            return question.text + yes_no
        between = " " if self.prompt == "plain" else "\n"
        return question.text + between + lettered(question.options, between) + choice

    def count(self, item: Item, text: str) -> Counts:
        """Count one answer alone."""
        options, label = item.truth["options"], item.truth["label"]
        counts: Counts
        if options:
            said = parse_choice(text, options)
            counts = dict.fromkeys(score("yes", None), 0.0)
            counts |= {"n": 1, "right": int(said == label), "unparsed": int(said is None)}
        else:
            counts = tally(self.rule, label, text)
        pairs = [f"{name} {change}" for name in ("pairs", "both") for change in CHANGES]
        others = dict.fromkeys((*_OF_PAIRS, *_OF_CONTROLS, *pairs), 0.0)
        return {**counts, **others, "yes-no": int(not options), "chance": 1 / (len(options) or 2)}

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Count answers; a pair is counted in its later answer. Answers without a picture only serve as controls."""
        answers = {item.truth["id"]: (item, row.text) for item, row in zip(items, rows, strict=True)}
        shown = [item for item in items if item.picture is not None]
        usual = _usual(shown)
        all_counts: list[Counts] = []
        for item, row in zip(items, rows, strict=True):
            counts = self.count(item, row.text)
            if item.picture is None:
                all_counts.append(dict.fromkeys(counts, 0.0))
                continue
            counts["constant"] = int(usual in _answers(item))
            counts |= self._pair(item, row.text, answers) | self._control(item, row.text, answers)
            all_counts.append(counts)
        return all_counts

    def _read(self, item: Item, text: str) -> str | None:
        """Return yes, no or the letter that an answer says; None: unparsed."""
        if item.truth["options"]:
            return parse_choice(text, item.truth["options"])
        return read(self.rule, item.truth["label"], text)

    def _pair(self, item: Item, text: str, answers: Mapping[str, tuple[Item, str]]) -> Counts:
        """Count the answers about both pictures of a pair; nothing without the first one."""
        if item.truth["other"] == item.truth["id"] or item.truth["other"] not in answers:
            return {}
        other, other_text = answers[item.truth["other"]]
        labels = other.truth["label"], item.truth["label"]
        said = self._read(other, other_text), self._read(item, text)
        if labels[0] == labels[1]:
            return {"kept": 1, "ID": int(said[0] != said[1])}
        counts: Counts = {
            "pairs": 1,
            "both": int(said == labels),
            "SB": int(said[0] is not None and said[0] == said[1]),
        }
        counts["both by chance"] = 1 / (len(item.truth["options"]) or 2) ** 2
        if item.truth["change"] in CHANGES:
            counts |= {f"pairs {item.truth['change']}": 1, f"both {item.truth['change']}": counts["both"]}
        if not item.truth["options"]:
            ordered = said if labels[0] == "yes" else said[::-1]
            names = {("no", "yes"): "IG", ("yes", "yes"): "SBp", ("no", "no"): "SBn"}
            counts |= {"yes-no pairs": 1, **{name: int(ordered == key) for key, name in names.items()}}
        return counts

    def _control(self, item: Item, text: str, answers: Mapping[str, tuple[Item, str]]) -> Counts:
        """Count the answer without a picture to the same question; nothing if it was not asked."""
        if item.truth["blind"] not in answers:
            return {}
        said = self._read(item, answers[item.truth["blind"]][1])
        return {
            "blind": 1,
            "blind right": int(said == item.truth["label"]),
            "blind same": int(said == self._read(item, text)),
        }

    def reading_remarks(self, items: Sequence[Item], rows: Sequence[Row]) -> tuple[str, ...]:
        """Say which questions the model cannot read, and which figures are those of chance."""
        near: dict[str, list[str]] = {}
        for strategy, answers in by_strategy(rows).items():
            texts = {row.item: row for row in answers}
            asked = [item for item in items if item.picture is not None and item.id in texts]
            counts = self.counts(asked, [texts[item.id] for item in asked])
            for group in self.groups[1:]:
                own = [(i, c) for i, c in zip(asked, counts, strict=True) if group in i.groups]
                if own and _is_no_better(own):
                    near.setdefault(strategy, []).append(group)
        return unknown_remark(items, rows) + tuple(
            f"{strategy}: accuracy of {', '.join(groups)} is not shown to be better than chance, or one answer to all."
            for strategy, groups in near.items()
        )

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark the whole answer as right or wrong."""
        return [(0, len(text), self._read(item, text) == item.truth["label"])]


def _answers(item: Item) -> tuple[str, ...]:
    """Return what is right to answer: yes or no, or a letter and its option."""
    label, options = item.truth["label"], item.truth["options"]
    return (label, options[LETTERS.index(label)]) if options else (label,)


def _usual(items: Sequence[Item]) -> str | None:
    """Return the one answer, a letter or an option, that is right for most questions; None: there are none."""
    most = Counter(answer for item in items for answer in dict.fromkeys(_answers(item))).most_common(1)
    return most[0][0] if most else None


def _is_no_better(counted: Sequence[tuple[Item, Counts]]) -> bool:
    """Tell whether the accuracy of some answers is not above that of chance, or of the best single answer."""
    total = Counter[str]()
    for _, count in counted:
        total.update({name: count[name] for name in ("n", "chance")})
    items = [item for item, _ in counted]
    best = _usual(items)
    usual = sum(best in _answers(item) for item in items)
    right, asked = (series([count for _, count in counted], {name: 1}) for name in ("right", "n"))
    share = Resampler([item.cluster for item, _ in counted], draws=1).estimate(right, asked)
    return share.low is not None and share.low <= max(total["chance"], usual) / total["n"]
