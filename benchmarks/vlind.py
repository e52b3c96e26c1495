"""VLind-Bench: chains of questions that tell a language prior from other reasons for a wrong answer.

Paper    Lee et al., arXiv:2406.08702; klee972/VLind-Bench.
Items    A context contradicts common sense, and pictures show it. Four stages, each with a statement that is true and
         one that is false: CK, common knowledge, on a usual picture (what the context denies is true there); VP, visual
         perception, on the best counterfactual picture (an existent and an absent thing); CB, commonsense bias, on it
         with the context in words; LP, language prior, on every good counterfactual picture without these words.
         Read from the authors' data.json and folder images (`mmhall.benchmarks.data.vlind`). Without --data, instances
         are drawn (`mmhall.benchmarks.data.scene_priors`): an object with its usual companion, and `pictures` pictures
         of it with something unusual instead; the common sense of drawn scenes is which objects go together. Pictures
         are written to `priors` beside the scenes.
Prompt   "official": the authors' words; "official-reversed": those they use for InstructBLIP, the instruction first,
         and without the sentence that asks to forget common sense; "official-newline": the instruction on a line of its
         own, as in third-party code; "plain": mmhall's words. "question": yes/no questions, for drawn instances and
         models that read nothing else.
Rule     "official": of the words true and false, without commas and full stops, the first one. "strict", mmhall's:
         the same, but both words are no answer, and without either, yes is true and no is false (`yesno`).
Metrics  A stage is passed with both answers right. S_CK, S_VP: share of instances passed. S_CB: of those passing CK.
         S_LP: of those passing CK, VP and CB the mean share of good pictures passed. LP, the first: this share over all
         instances, which depends on no other stage, so that strategies are compared on the same instances; CB
         likewise. "in S_LP": share of instances that reach S_LP. The group "same instances" compares each strategy with
         the baseline in S_CB and S_LP on the instances that both reach. In a table of their own: accuracy of single
         answers by stage, and the share of "true".
Chance   A coin passes a stage in 25 % of the instances ("by chance"), a model that always says true, or false, in none.
Differs  S_CB and S_LP without any instance have no value; the authors' script says 0. An instance counts once all of
         its questions are answered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmhall.benchmarks.base import Benchmark, Counts, Item, Material, Metric, Source, by_strategy
from mmhall.benchmarks.data.pope_wording import SUFFIX
from mmhall.benchmarks.data.redrawn import is_drawn, write_plans
from mmhall.benchmarks.data.scene_priors import PRIORS, draw_instances
from mmhall.benchmarks.data.vlind import FILE, READS, Instance, read_instances
from mmhall.benchmarks.evidence.unknown_words import unknown_remark
from mmhall.benchmarks.rules.thoughts import remove_thoughts
from mmhall.benchmarks.rules.yesno import parse_strict
from mmhall.errors import DataError
from mmhall.options import option
from mmhall.results.store import Row

STAGES = ("CK", "VP", "CB", "LP")
_FORGET = "Forget real-world common sense and just follow the information provided in the {source}."
_ASK = "Based on {source}, is the given statement true or false?"
_ONLY = "Only respond in True or False."
SAME = "same instances"


def parse_official(answer: str) -> bool | None:
    """Parse an answer as the authors' script does: the first of the words true and false.

    >>> parse_official("It is true."), parse_official("FALSE, not true"), parse_official("Yes")
    (True, False, None)
    """
    words = answer.lower().replace("\n", " ").replace(",", "").replace(".", "").split(" ")
    return next((word == "true" for word in words if word in ("true", "false")), None)


def parse_both(answer: str) -> bool | None:
    """Parse true or false; without either word yes or no; None: neither, or both.

    >>> parse_both("**True**"), parse_both("No."), parse_both("true or false")
    (True, False, None)
    """
    words = set(re.findall(r"\b(?:true|false)\b", answer.lower()))
    if words:
        return None if len(words) == 2 else words == {"true"}
    said = parse_strict(answer)
    return None if said is None else said == "yes"


RULES: dict[str, Callable[[str], bool | None]] = {"strict": parse_both, "official": parse_official}


def _statement(stage: str, statement: str, context: str, *, only: str, forget: bool = True) -> str:
    """Write the authors' prompt of a stage.

    Args:
        stage: One of `STAGES`.
        statement: The statement.
        context: The context, for CB.
        only: What stands before the last sentence.
        forget: Whether CB and LP ask to forget common sense.
    """
    source = {"CK": "common sense", "CB": "the context"}.get(stage, "the image")
    given = f"Context: {context}\n" if stage == "CB" else ""
    asked = f"{given}Statement: {statement}\n{_ASK.format(source=source)}"
    if forget and stage in ("CB", "LP"):
        asked += " " + _FORGET.format(source=source.removeprefix("the "))
    return f"{_ONLY}\n{asked}" if only == "first" else f"{asked}{only}{_ONLY}"


def _plain(stage: str, statement: str, context: str) -> str:
    """Write a prompt in mmhall's words."""
    begins = {
        "CK": "Judge this statement by what is usually so.",
        "VP": "Judge this statement by the picture.",
        "CB": f"Suppose that this is so: {context} Judge this statement by that, even if it is unusual.",
        "LP": "Judge this statement by the picture, even if it is unusual.",
    }
    return f"{begins[stage]}\n{statement}\nAnswer with one word, True or False."


PROMPTS: Mapping[str, Callable[[str, str, str], str]] = {
    "official": lambda stage, statement, context: _statement(stage, statement, context, only=" "),
    "official-reversed": lambda stage, statement, context: _statement(
        stage, statement, context, only="first", forget=False
    ),
    "official-newline": lambda stage, statement, context: _statement(stage, statement, context, only="\n"),
    "plain": _plain,
    "question": lambda stage, question, context: (
        f"{context} {question}{SUFFIX}" if stage == "CB" else question + SUFFIX
    ),
}


@dataclass(frozen=True)
class Vlind(Benchmark):
    """Chains of questions about pictures against common sense.

    Attributes:
        rule: Rule that reads answers.
        max_new_tokens: Limit of tokens of an answer.
        prompt: Wording of a question.
        pictures: Counterfactual pictures of a drawn instance.
    """

    name: ClassVar[str] = "vlind"
    groups: ClassVar[tuple[str, ...]] = ("all", SAME)
    pairwise: ClassVar[tuple[str, ...]] = (SAME,)
    pairing: ClassVar[str] = "on the instances that both reach; the baseline's own line is alone"
    plotted: ClassVar[str] = "all"
    drawn: ClassVar[bool] = True
    asks_in_words: ClassVar[bool] = True
    reads: ClassVar[str] = READS
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("LP", {"LP": 1}, {"instances": 1}, "higher"),
        Metric("S_CK", {"CK": 1}, {"instances": 1}, "higher"),
        Metric("S_VP", {"VP": 1}, {"instances": 1}, "higher"),
        Metric("S_CB", {"S_CB": 1}, {"reach S_CB": 1}, "higher"),
        Metric("S_LP", {"S_LP": 1}, {"reach S_LP": 1}, "higher"),
        Metric("CB", {"CB": 1}, {"instances": 1}, "higher"),
        Metric("in S_LP", {"reach S_LP": 1}, {"instances": 1}),
        Metric("by chance", {"by chance": 1}, {"instances": 1}, fixed=True),
        Metric("unparsed", {"unparsed": 1}, {"n": 1}, "lower"),
        *(
            Metric(f"accuracy {stage}", {f"right {stage}": 1}, {f"n {stage}": 1}, "higher", table="single answers")
            for stage in STAGES
        ),
        Metric("true ratio", {"true": 1}, {"n": 1}, table="single answers"),
    )

    rule: str = option("strict", choices=tuple(RULES))
    max_new_tokens: int = option(64, low=1)
    prompt: str = option("official", choices=tuple(PROMPTS))
    pictures: int = option(2, low=1)

    def material(self, source: Source) -> Material:
        """Read the instances, or draw them."""
        data = source.data_path(self.name, self.reads)
        remarks: list[str] = []
        if is_drawn(data):
            instances, plans = draw_instances(data, source.seed, self.pictures, source.limit)
            folder = data.parent / PRIORS
            files = write_plans(plans, folder) if source.pictures else {name: folder / name for name in plans}
        else:
            path = data / FILE if data.is_dir() else data
            instances, files, left = read_instances(path, source.folder or path.parent, source.pictures)
            instances = instances[: source.limit]
            remarks += [f"{left} instances are left out: they have no good picture."] if left else []
        items = [item for instance in instances for item in self._items(instance)]
        return Material(tuple(items), {str(i.picture): files[str(i.picture)] for i in items}, tuple(remarks))

    def _items(self, instance: Instance) -> list[Item]:
        """Make the items of an instance: two of each stage, of LP two of each good picture."""
        if self.prompt == "question" and not instance.questions:
            raise DataError("vlind: prompt 'question' is for drawn instances; statements of files are no questions")
        true, false, existent, absent = (
            instance.questions
            if self.prompt == "question"
            else (
                instance.true,
                instance.false,
                f"There is {instance.existent} in the given image.",
                f"There is {instance.absent} in the given image.",
            )
        )
        asked = [
            ("CK", instance.factual, (false, true)),
            ("VP", instance.best, (existent, absent)),
            ("CB", instance.best, (true, false)),
            *(("LP", picture, (true, false)) for picture in instance.good),
        ]
        return [
            Item(
                f"{instance.id}/{stage}{'' if stage != 'LP' else f'/{Path(picture).stem}'}/{label}",
                picture,
                PROMPTS[self.prompt](stage, statement, instance.context),
                self.groups,
                {
                    "label": label,
                    "stage": stage,
                    "instance": instance.id,
                    "concept": instance.concept,
                    "shown": picture,
                    "asked": 6 + 2 * len(instance.good),
                },
                instance.id,
            )
            for stage, picture, statements in asked
            for label, statement in zip(("true", "false"), statements, strict=True)
        ]

    def count(self, item: Item, text: str) -> Counts:
        """Count one answer alone."""
        said, stage = RULES[self.rule](remove_thoughts(text)), item.truth["stage"]
        right = int(said is not None and said == (item.truth["label"] == "true"))
        counts: Counts = {"n": 1, "right": right, "unparsed": int(said is None), "true": int(said is True)}
        counts |= {f"{name} {each}": 0 for each in STAGES for name in ("n", "right")}
        counts |= {f"n {stage}": 1, f"right {stage}": right, "instances": 0, "by chance": 0, **dict.fromkeys(STAGES, 0)}
        return {**counts, **dict.fromkeys(("reach S_CB", "S_CB", "reach S_LP", "S_LP"), 0)}

    def counts(self, items: Sequence[Item], rows: Sequence[Row]) -> list[Counts]:
        """Count answers; an instance is counted in its first item, once all of its questions are answered."""
        counts = [self.count(item, row.text) for item, row in zip(items, rows, strict=True)]
        for members in _instances(items).values():
            if len(members) == items[members[0]].truth["asked"]:
                passed = _passed([(items[i], counts[i]) for i in members])
                counts[members[0]] |= _scores(passed)
        return counts

    def paired(
        self, items: Sequence[Item], rows: Sequence[Row], base_rows: Sequence[Row], group: str = ""
    ) -> tuple[list[Counts], list[Counts]]:
        """Count a strategy and the baseline; S_CB and S_LP on the instances that both reach."""
        both = self.counts(items, rows), self.counts(items, base_rows)
        for own, other in zip(*both, strict=True):
            for score in ("S_CB", "S_LP"):
                shared = own[f"reach {score}"] * other[f"reach {score}"]
                for counts in (own, other):
                    counts |= {f"reach {score}": shared, score: counts[score] * shared}
        return both

    def reading_remarks(self, items: Sequence[Item], rows: Sequence[Row]) -> tuple[str, ...]:
        """Say which questions the model cannot read, and how many instances each score rests on."""
        remarks = list(unknown_remark(items, rows))
        for strategy, answers in by_strategy(rows).items():
            texts = {row.item: row for row in answers}
            asked = [item for item in items if item.id in texts]
            total: Counter[str] = Counter()
            for counts in self.counts(asked, [texts[item.id] for item in asked]):
                total.update({name: int(counts[name]) for name in ("instances", "reach S_CB", "reach S_LP")})
            remarks.append(
                f"{strategy}: S_CB rests on {total['reach S_CB']} and S_LP on {total['reach S_LP']} of "
                f"{total['instances']} instances."
            )
        return tuple(remarks)

    def mark(self, item: Item, text: str) -> Sequence[tuple[int, int, bool]]:
        """Mark the whole answer as right or wrong."""
        return [(0, len(text), bool(self.count(item, text)["right"]))]


def _instances(items: Sequence[Item]) -> dict[str, list[int]]:
    """Return the places of the items of each instance."""
    found: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        found.setdefault(item.truth["instance"], []).append(place)
    return found


def _passed(members: Sequence[tuple[Item, Counts]]) -> dict[str, float]:
    """Return whether an instance passes each stage; of LP the share of its pictures."""
    right: dict[tuple[str, str], list[float]] = {}
    for item, counts in members:
        right.setdefault((item.truth["stage"], item.truth["shown"]), []).append(counts["right"])
    passed: dict[str, list[float]] = {}
    for (stage, _), answers in right.items():
        passed.setdefault(stage, []).append(float(all(answers)))
    return {stage: sum(each) / len(each) for stage, each in passed.items()}


def _scores(passed: Mapping[str, float]) -> Counts:
    """Return the counts of one instance.

    >>> scores = _scores({"CK": 1, "VP": 1, "CB": 1, "LP": 0.5})
    >>> scores["reach S_LP"], scores["S_LP"]
    (1, 0.5)
    """
    reach_cb, reach_lp = passed["CK"], passed["CK"] * passed["VP"] * passed["CB"]
    return {
        "instances": 1,
        "by chance": 0.25,
        **passed,
        "reach S_CB": reach_cb,
        "S_CB": reach_cb * passed["CB"],
        "reach S_LP": reach_lp,
        "S_LP": reach_lp * passed["LP"],
    }
