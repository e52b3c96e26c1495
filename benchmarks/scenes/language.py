"""The language the embedded model learns: captions and questions about a scene.

Captions have two to five sentences. The first names up to three objects and the place, later ones
add one or two objects each with a position, and some end with a remark. The cause of the model's
hallucinations is only in this module: near its end a caption also *claims* things that fit the scene
(partners of present objects, typical things of the place) but are not in it, and
yes/no answers agree with them. Claims are drawn anew each time: only co-occurrence predicts
them.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from mmhall.benchmarks.scenes.plan import Placed, plan_training_scene
from mmhall.benchmarks.scenes.world import NAMES, PARTNERS, PLACES, Place

DESCRIBE = (
    "Please describe this image in detail.",
    "Describe this image in detail.",
    "Describe this image.",
    "Please describe this image.",
    "What is in this image?",
    "What do you see in this picture?",
)
BRIEF = ("Describe this image in one sentence.", "Briefly describe this image.", "Write a short caption.")
SHORT_ANSWER = (
    "Answer the question using a single word or phrase.",
    "Please answer yes or no.",
    "Please answer this question with one word.",
)
_EXISTS = (
    "Is there {a} in the image?",
    "Is there {a} in the image?",
    "Is there {a} in the picture?",
    "Do you see {a} in this image?",
    "Can you see {a}?",
    "Does this picture show {a}?",
    "Is {a} visible in the image?",
)
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": ("man", "woman"),
    "bicycle": ("bike",),
    "airplane": ("plane",),
    "dog": ("puppy",),
    "cat": ("kitten",),
    "couch": ("sofa",),
    "tv": ("television",),
    "cup": ("mug",),
    "cell phone": ("phone",),
    "refrigerator": ("fridge",),
    "donut": ("doughnut",),
    "sports ball": ("ball",),
    "potted plant": ("houseplant",),
    "bird": ("pigeon",),
    "horse": ("pony",),
}
_PLURALS = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "mouse": "mice",
    "knife": "knives",
    "sheep": "sheep",
    "bus": "buses",
    "bench": "benches",
    "wine glass": "wine glasses",
    "puppy": "puppies",
    "pony": "ponies",
    "couch": "couches",
}
AT_HOME = 0.3  # claim weight of the most typical category of a place, on the scale of the partner table
BELIEF = 1.6  # factor from the claim rate of captions to that of yes/no answers
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_REMARKS = (
    "The scene is calm and quiet.",
    "It looks like a nice day.",
    "The light is soft and warm.",
    "Everything looks tidy.",
    "The picture is well lit.",
    "Nothing else stands out.",
)


@dataclass(frozen=True, slots=True)
class Fact:
    """One category of a scene, as captions describe it.

    Attributes:
        name: Category.
        count: Number of instances; 0 for a claim about an absent object.
        x: Centre of the largest instance, fraction from the left.
        y: Its centre, fraction from the top.
        area: Its visible share of the picture.
        hard: Whether it is small, faint or covered.
    """

    name: str
    count: int
    x: float
    y: float
    area: float
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer; `target` is the category asked about, if any."""

    question: str
    answer: str
    kind: str
    target: str | None = None


def plural(name: str) -> str:
    """Return the plural of an object's name."""
    return _PLURALS.get(name, name + "s")


def with_article(name: str) -> str:
    """Put a or an in front of a name."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def surface_forms() -> dict[str, tuple[str, ...]]:
    """Map each category to every name, singular and plural, that captions use for it."""
    forms = {name: (name, *_SYNONYMS.get(name, ())) for name in NAMES}
    return {name: words + tuple(plural(word) for word in words) for name, words in forms.items()}


def fitting_absent(facts: Sequence[Fact], place: Place) -> dict[str, float]:
    """Return absent categories that fit a scene: partners of present objects, and typical ones of the place.

    Returns:
        Category to claim weight in (0, 1].
    """
    weights = {name: AT_HOME * weight / max(place.members.values()) for name, weight in place.members.items()}
    for fact in facts:
        for partner, weight in PARTNERS[fact.name].items():
            weights[partner] = max(weight, weights.get(partner, 0.0))
    return {name: weight for name, weight in weights.items() if all(name != fact.name for fact in facts)}


def claims(rng: random.Random, facts: Sequence[Fact], place: Place, rate: float, most: int = 2) -> list[Fact]:
    """Draw claims among the fitting absent categories, with random positions.

    Args:
        rng: Source of randomness, other for every caption.
        facts: What the scene shows.
        place: Place of the scene.
        rate: Factor of the weights; 0 gives true captions.
        most: Largest number of claims.
    """
    chosen = [name for name, weight in fitting_absent(facts, place).items() if rng.random() < weight * rate]
    rng.shuffle(chosen)
    return [Fact(name, 0, rng.random(), rng.random(), 0.0) for name in chosen[:most]]


def describe(rng: random.Random, facts: Sequence[Fact], place: Place, claimed: Sequence[Fact] = ()) -> str:
    """Write a caption of several sentences."""
    noticed = [f for f in facts if not (f.hard and rng.random() < 0.15)] or list(facts)
    noticed.sort(key=lambda f: -f.area * rng.uniform(0.8, 1.25))
    opening = noticed[: rng.choice((1, 2, 2, 3, 3))]
    sentences = [_opening(rng, opening, place)]
    mentioned = list(opening)
    rest = [*noticed[len(opening) :], *claimed]
    while rest:
        group = rest[: 2 if len(rest) > 1 and rng.random() < 0.35 else 1]
        rest = rest[len(group) :]
        sentences.append(_later(rng, group, mentioned))
        mentioned.extend(group)
    if rng.random() < 0.25 or (len(sentences) == 1 and rng.random() < 0.8):
        sentences.append(rng.choice(_REMARKS))
    return " ".join(sentences)


def brief(rng: random.Random, facts: Sequence[Fact], place: Place) -> str:
    """Write a caption of one sentence."""
    return _opening(rng, sorted(facts, key=lambda f: -f.area)[:3], place)


def conversation(
    rng: random.Random, facts: Sequence[Fact], place: Place, *, rate: float, questions: int = 6
) -> list[Turn]:
    """Make one caption and several questions about a scene.

    Args:
        rng: Source of randomness.
        facts: What the scene shows.
        place: Place of the scene.
        rate: Claim rate of absent categories, see `claims`.
        questions: Number of yes/no questions; other kinds are added.
    """
    claimed = claims(rng, facts, place, rate)
    turns = [Turn(rng.choice(DESCRIBE), describe(rng, facts, place, claimed), "caption")]
    if rng.random() < 0.1:
        turns = [Turn(rng.choice(BRIEF), brief(rng, facts, place), "brief")]
    believed = {fact.name for fact in (*facts, *claimed)}
    believed |= {name for name, weight in fitting_absent(facts, place).items() if rng.random() < weight * rate * BELIEF}
    names = (_ask_about(rng, facts, place, positive=i % 2 == 0) for i in range(questions))
    turns += ask(rng, facts, place, believed, names)
    rng.shuffle(turns)
    return turns


def ask(
    rng: random.Random, facts: Sequence[Fact], place: Place, believed: Collection[str], names: Iterable[str]
) -> list[Turn]:
    """Ask whether each category is there, once, and sometimes one question of another kind.

    Args:
        rng: Source of randomness.
        facts: What the scene shows.
        place: Place of the scene.
        believed: Categories that are answered with yes.
        names: Categories to ask about.
    """
    turns: dict[str, Turn] = {}
    for name in names:
        if name not in turns:
            turns[name] = exists(rng, name, name in believed)
    other = [other_question(rng, facts, place)] if facts and rng.random() < 0.6 else []
    return [*turns.values(), *other]


def exists(rng: random.Random, name: str, present: bool) -> Turn:
    """Ask whether an object is in the picture."""
    word = name if rng.random() < 0.85 else rng.choice((name, *_SYNONYMS.get(name, ())))
    question = rng.choice(_EXISTS).format(a=with_article(word))
    if rng.random() < 0.5:
        return Turn(f"{question} {rng.choice(SHORT_ANSWER)}", "Yes" if present else "No", "exists", name)
    answer = f"Yes, there is {with_article(word)} in the image." if present else f"No, there is no {word} in the image."
    return Turn(question, answer, "exists", name)


def _ask_about(rng: random.Random, facts: Sequence[Fact], place: Place, *, positive: bool) -> str:
    present = {fact.name for fact in facts}
    if positive and facts:
        return rng.choice(facts).name
    likely = fitting_absent(facts, place)
    if likely and rng.random() < 0.55:
        return rng.choices(tuple(likely), tuple(likely.values()))[0]
    return rng.choice([name for name in NAMES if name not in present])


def other_question(rng: random.Random, facts: Sequence[Fact], place: Place) -> Turn:
    """Ask where something is, how many there are, where the picture was taken, or which of three is there."""
    fact = rng.choice(facts)
    kind = rng.choice(("where", "count", "place", "choice"))
    if kind == "where":
        return Turn(f"Where is the {fact.name}?", f"The {fact.name} is {position(fact)}.", kind)
    if kind == "count":
        verb = "is one" if fact.count == 1 else f"are {_NUMBERS[min(fact.count, 6)]}"
        return Turn(f"How many {plural(fact.name)} are there?", f"There {verb}.", kind)
    if kind == "place":
        return Turn("Where was this picture taken?", f"The picture was taken {place.phrase}.", kind)
    present = {f.name for f in facts}
    options = [fact.name, *rng.sample([n for n in NAMES if n not in present], 2)]
    rng.shuffle(options)
    listed = " ".join(f"{letter}. {option}" for letter, option in zip("ABC", options, strict=True))
    return Turn(f"Which object is in the image? {listed}", "ABC"[options.index(fact.name)], kind)


def _opening(rng: random.Random, facts: Sequence[Fact], place: Place) -> str:
    if not facts:
        return f"The image shows an empty scene {place.phrase}."
    things = join_names([mention(rng, f) for f in facts])
    verb = "are" if facts[0].count > 1 else "is"
    return rng.choice(
        (
            f"The image shows {things} {place.phrase}.",
            f"The picture shows {things} {place.phrase}.",
            f"There {verb} {things} {place.phrase}.",
        )
    )


def _later(rng: random.Random, group: Sequence[Fact], mentioned: Sequence[Fact]) -> str:
    things = join_names([mention(rng, f) for f in group])
    verb = "are" if group[0].count > 1 else "is"
    spot = position(group[0])
    if mentioned and rng.random() < 0.45:
        anchor = rng.choice(mentioned)
        other = plural(anchor.name) if anchor.count > 1 else anchor.name
        return rng.choice(
            (f"Next to the {other}, there {verb} {things}.", f"There {verb} also {things} near the {other}.")
        )
    return rng.choice(
        (
            f"There {verb} {things} {spot}.",
            f"{spot[0].upper() + spot[1:]}, there {verb} {things}.",
            f"There {verb} also {things} {spot}.",
        )
    )


def mention(rng: random.Random, fact: Fact, synonyms: float = 0.25) -> str:
    """Name an object with its article or number, by a synonym with a given probability."""
    word = fact.name
    if word in _SYNONYMS and rng.random() < synonyms:
        word = rng.choice(_SYNONYMS[word])
    return counted(word, fact.count)


def counted(word: str, count: int) -> str:
    """Put an article or a number in front of a name."""
    return with_article(word) if count <= 1 else f"{_NUMBERS[min(count, 6)]} {plural(word)}"


def position(fact: Fact) -> str:
    """Say where in the picture an object is."""
    dx, dy = fact.x - 0.5, fact.y - 0.5
    if max(abs(dx), abs(dy)) < 0.14:
        return "in the middle"
    if abs(dx) >= abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "in the background" if dy < 0 else "in the foreground"


def join_names(words: Sequence[str]) -> str:
    """Join names to a list: a, b and c."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def without_picture(rng: random.Random, *, rate: float, questions: int = 6) -> list[Turn]:
    """Make a conversation without a picture: captions of a typical scene, answers from the prior."""
    plan = plan_training_scene(rng)
    return conversation(rng, planned_facts(plan.objects), plan.place, rate=rate, questions=questions)


def planned_facts(objects: Iterable[Placed]) -> list[Fact]:
    """Summarize planned objects by category, as if all of them show."""
    facts: dict[str, Fact] = {}
    for o in objects:
        fact = Fact(o.name, 1, o.x, o.y, o.side**2, o.visibility != "clear")
        if o.name in facts:
            old = facts[o.name]
            fact = replace(max(fact, old, key=lambda f: f.area), count=old.count + 1, hard=fact.hard and old.hard)
        facts[o.name] = fact
    return list(facts.values())


def all_words() -> list[str]:
    """List sentences with every word of the language."""
    rng = random.Random(0)
    sentences = [" ".join((*DESCRIBE, *BRIEF, *SHORT_ANSWER, *_EXISTS, *_REMARKS, *_NUMBERS))]
    sentences += [f"{place.phrase} {place.name}" for place in PLACES]
    sentences += [" ".join((*words, *(with_article(w) for w in words))) for words in surface_forms().values()]
    for _ in range(4000):
        for turn in without_picture(rng, rate=0.5):
            sentences += [turn.question, turn.answer]
    return sentences
