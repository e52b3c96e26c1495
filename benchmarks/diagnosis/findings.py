"""What a diagnosis suggests: which strategies can act on a model, from measured figures and declared thresholds.

`RULES` is the whole of it: the figure that shows a mechanism, the range that counts as present, the strategies that
claim to act on it, and what is said where it is present and where it is absent. The ranges of sinks, stripes, gaze,
heads and sure hallucination were declared before any run; the others before they were measured, but with what `var` and
`gift` do on the models that ship known (docs/diagnosis.md). "Can act" means that answers will differ, not that they
will be better: that is what twins and controls are for. A statement is sure only where the whole interval of the figure
lies on one side of the threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmhall.benchmarks.diagnosis.diagnosis import Diagnosis
from mmhall.benchmarks.diagnosis.targets import Range
from mmhall.decoders import STRATEGIES

PRESENT, ABSENT, NOT_MEASURED = "present", "absent", "not measured"
_UNSURE = "?"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A property of a model that strategies act on.

    Attributes:
        name: In words.
        key: The figure of the diagnosis that shows it.
        present: Range of the figure in a model that has it.
    """

    name: str
    key: str
    present: Range


@dataclass(frozen=True, slots=True)
class Rule:
    """What a mechanism means for strategies.

    Attributes:
        mechanism: The mechanism.
        strategies: Strategies that act on it; only registered ones are named.
        present: What is suggested where it is present, about "{strategies}".
        absent: What is suggested where it is absent.
    """

    mechanism: Mechanism
    strategies: tuple[str, ...]
    present: str
    absent: str


SINKS = Mechanism("visual sinks", "sink_share", Range(15, None))
STRIPES = Mechanism("stripes", "stripe_ratio", Range(8, None))
GAZE = Mechanism("gaze", "gaze_lift", Range(2, None))
HEADS = Mechanism("unequal heads", "vhd_variation", Range(0.4, None))
PRIOR_BELIEF = Mechanism("sure hallucination", "entropy_auroc", Range(None, 75))
MARKED = Mechanism("visual sinks marked by a massive dimension", "marked_sinks", Range(1, None))
FIRST = Mechanism("attention sink at the first token", "first_sink", Range(10, None))
SECONDARY = Mechanism("secondary sinks", "secondary_sinks", Range(1, None))
CAPTION_LIFT = Mechanism("captions that depend on attention to the picture", "lifted_captions", Range(10, None))
ANSWER_LIFT = Mechanism("yes/no answers that depend on attention to the picture", "lifted_answers", Range(10, None))
TEXT = Mechanism("dominance of text beside the first token, middle layers", "mdi_middle_bare", Range(1, None))
LATE_ERRORS = Mechanism("errors at the end of captions", "last_dropped", Range(None, -25))
THRESHOLD = Mechanism("a yes/no threshold at the wrong place", "headroom", Range(3, None))
COPYING = Mechanism("heads that copy words", "copy_head", Range(10, None))

RULES = (
    Rule(
        MARKED,
        ("var",),
        "{strategies} finds sinks to take attention from, and can act",
        "no visual sink is marked as `var` looks for them: {strategies} will do nothing",
    ),
    Rule(
        SINKS,
        ("pai", "vaf"),
        "a few image tokens draw much of the attention to the picture, so that what lifts all image columns "
        "({strategies}) lifts these most",
        "no image tokens stand out, so that {strategies} lift the picture evenly",
    ),
    Rule(
        STRIPES,
        ("opera",),
        "{strategies} has columns to penalise, and will act; whether for the better, `beam` beside it tells",
        "{strategies} finds no column that stands out: no gain over `beam` is to be expected",
    ),
    Rule(
        GAZE,
        ("gift",),
        "words of a question look at what they name, so that the map of {strategies} can point there",
        "words of a question look nowhere in particular: no gain is to be expected of {strategies}",
    ),
    Rule(
        HEADS,
        ("vhr",),
        "some heads depend on the picture more than others, so that {strategies} can choose them",
        "heads depend on the picture alike: reinforcing chosen ones ({strategies}) can do no more than reinforcing any",
    ),
    Rule(
        CAPTION_LIFT,
        ("pai", "vaf", "gift", "acg"),
        "twice the attention to the picture changes captions: {strategies} can act on captions",
        "twice the attention to the picture hardly changes captions: {strategies} will hardly act on captions",
    ),
    Rule(
        ANSWER_LIFT,
        ("pai", "vaf", "gift", "acg"),
        "twice the attention to the picture changes yes/no answers: {strategies} can act on them",
        "twice the attention to the picture hardly changes yes/no answers: {strategies} will hardly act on them",
    ),
    Rule(
        TEXT,
        ("pai", "vaf"),
        "a text token other than the first gets more attention than an image token, which {strategies} are made for",
        "an image token gets at least as much attention as a text token other than the first: what {strategies} are "
        "made for is not there",
    ),
    Rule(
        FIRST,
        ("zerotuning", "act"),
        "the first token draws attention that {strategies} can tune",
        "the first token draws little attention: {strategies} have little to tune",
    ),
    Rule(
        SECONDARY,
        ("act",),
        "columns other than the first draw attention, which {strategies} can take from them",
        "no other column draws attention: {strategies} finds none to take it from",
    ),
    Rule(
        PRIOR_BELIEF,
        ("vcd", "vdd", "icd", "m3id"),
        "the model is as sure of many absent objects as of present ones: a filter by its certainty does not find them, "
        "and contrasts ({strategies}) may",
        "the model is unsure where it is wrong: leaving out unsure mentions does what contrasts ({strategies}) do, so "
        "that their gain over greedy says little",
    ),
    Rule(
        LATE_ERRORS,
        ("brief",),
        "errors stand at the end of captions: shorter ones ({strategies}, a cut) mend much of them, so compare "
        "strategies at equal mentions",
        "errors stand anywhere in captions: shorter ones ({strategies}) do not mend them",
    ),
    Rule(
        THRESHOLD,
        ("yes-shift",),
        "another yes/no threshold ({strategies}) adds accuracy: a gain on POPE up to this figure is no evidence of "
        "better sight",
        "another yes/no threshold ({strategies}) adds little",
    ),
    Rule(
        COPYING,
        (),
        "some heads copy words of the prompt; no registered strategy acts on this",
        "no head copies words of the prompt; no registered strategy acts on this",
    ),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says about a model.

    Attributes:
        rule: The rule.
        state: "present" or "absent", with "?" where the interval holds the threshold; or "not measured".
        measured: The figure with its interval, in words.
        strategies: Registered strategies that it is about.
        text: What it suggests.
    """

    rule: Rule
    state: str
    measured: str
    strategies: tuple[str, ...]
    text: str


def findings(diagnosis: Diagnosis) -> Iterator[Finding]:
    """Yield what each rule says about a diagnosed model; rules whose strategies are not registered are left out."""
    figures = {figure.key: figure for figure in diagnosis.figures}
    registered = set(STRATEGIES.names())
    for rule in RULES:
        named = tuple(name for name in rule.strategies if name in registered)
        if rule.strategies and not named:
            continue
        figure = figures.get(rule.mechanism.key)
        if figure is None or figure.shown is None:
            yield Finding(rule, NOT_MEASURED, "", named, "Nothing can be said; see what was not measured")
            continue
        value, low, high = figure.shown
        wanted, unit, digits = rule.mechanism.present, " %" * figure.percent, 1 if figure.percent else 2
        holds = wanted.holds(value)
        sure = wanted.holds(low) == wanted.holds(high) == holds
        text = (rule.present if holds else rule.absent).format(strategies=", ".join(f"`{name}`" for name in named))
        yield Finding(
            rule,
            (PRESENT if holds else ABSENT) + _UNSURE * (not sure),
            f"{value:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]; present: {wanted}{unit}",
            named,
            text[0].upper() + text[1:],
        )
