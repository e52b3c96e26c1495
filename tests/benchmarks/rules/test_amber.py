from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from mmhall.benchmarks.amber import parse_contains, parse_exact, parse_first_word
from mmhall.benchmarks.rules.amber import (
    DIMENSIONS,
    Figures,
    amber_score,
    mark_nouns,
    official_caption_figures,
    official_figures,
)

STATE, NUMBER, ACTION, EXISTENCE, IS, IS_NOT = (
    "discriminative-attribute-state",
    "discriminative-attribute-number",
    "discriminative-attribute-action",
    "discriminative-hallucination",
    "discriminative-relation",
    "relation",
)


@pytest.mark.parametrize(
    ("answer", "exact", "contains", "first_word"),
    [
        ("Yes", "Yes", "Yes", "Yes"),
        ("No", "No", "No", "No"),
        ("yes", None, "Yes", "Yes"),
        ("NO", None, "No", "No"),
        (" No", None, "No", "No"),
        ("No.", None, "No", "No"),
        ("", None, None, None),
        ("Yes and no", None, "Yes", None),
        ("There is no cloud.", None, "No", None),
        ("I do not know", None, "No", None),
        ("Eyes", None, "Yes", None),
        ("Maybe", None, None, None),
    ],
)
def test_rules_read_answers_as_described(answer, exact, contains, first_word):
    assert (parse_exact(answer), parse_contains(answer), parse_first_word(answer)) == (exact, contains, first_word)


def test_a_hundred_right_answers_of_a_hundred_are_printed_as_100_but_small_sets_are_biased():
    """100 / 100.001 = 0.99999 -> 100.0, but 1 / 1.001 = 0.999 -> 99.9; F1 = 2 * .999 * .999 / (1.998 + .001) = 99.85.

    Round to one decimal: 0.998001 * 2 / 1.999 = 0.998500 -> 99.9 (99.85003 is above the tie).
    """
    assert official_figures([(EXISTENCE, "No", "No")] * 100)["existence"].accuracy == 100.0
    assert official_figures([(EXISTENCE, "No", "No")])["existence"] == Figures(99.9, 99.9, 99.9, 99.9)


def test_rounding_goes_before_combining_and_epsilon_differs():
    """Three no, two found; two yes, one called no.

    accuracy 3 / 5.001 = 0.59988 -> 60.0; precision 2 / 3.001 = 0.66644 -> 66.6; recall alike 66.6.
    F1 = 2 * 0.666 * 0.666 / (1.332 + e): e = 0.0001: 0.66595 -> 66.6; e = 0.001: 0.66550 -> 66.6 (66.5500 up).
    """
    answers = [("No", "No"), ("No", "No"), ("No", "Yes"), ("Yes", "Yes"), ("Yes", "No")]
    got = official_figures([(STATE, truth, said) for truth, said in answers])
    assert got["overall"] == got["attribute"] == got["state"] == Figures(60.0, 66.6, 66.6, 66.6)
    assert got["number"] == Figures(0.0, 0.0, 0.0, 0.0)


def test_an_answer_that_is_neither_counts_in_accuracy_and_recall_but_not_in_precision():
    """One no found, one not read: accuracy and recall 1 / 2.001 = 0.49975 -> 50.0, precision 1 / 1.001 -> 99.9."""
    got = official_figures([(ACTION, "No", "No"), (ACTION, "No", None)])["action"]
    assert (got.accuracy, got.recall, got.precision) == (50.0, 50.0, 99.9)


def test_relations_are_two_types_and_attributes_are_pooled():
    got = official_figures([(IS, "Yes", "Yes"), (IS_NOT, "No", "No"), (STATE, "No", "No"), (NUMBER, "No", "Yes")])
    assert got["relation"].accuracy == 100.0  # 2 / 2.001 = 0.9995 -> 99.95 -> 100.0 in binary
    assert got["attribute"].accuracy == 50.0
    assert got["overall"].accuracy == 75.0
    assert set(got) == set(DIMENSIONS)


def slow_figures(answers, epsilon):
    """The same by plain loops over one dimension's answers."""
    n = 0.001
    for _ in answers:
        n += 1
    said_no = 0.001
    for _, said in answers:
        if said == "No":
            said_no += 1
    is_no = 0.001
    for truth, _ in answers:
        if truth == "No":
            is_no += 1
    right = len([1 for truth, said in answers if truth == said])
    both = len([1 for pair in answers if pair == ("No", "No")])
    a, p, r = round(100 * (right / n), 1), round(100 * (both / said_no), 1), round(100 * (both / is_no), 1)
    return Figures(a, p, r, round(100 * (2 * (p / 100) * (r / 100) / ((p / 100) + (r / 100) + epsilon)), 1))


@given(st.integers(0, 2**32))
def test_official_figures_equal_plain_loops_on_random_answers(seed):
    rng = random.Random(seed)
    kinds = {
        STATE: ("attribute", "state"),
        NUMBER: ("attribute", "number"),
        ACTION: ("attribute", "action"),
        EXISTENCE: ("existence",),
        IS: ("relation",),
        IS_NOT: ("relation",),
    }
    answers = [
        (rng.choice(list(kinds)), rng.choice(["Yes", "No"]), rng.choice(["Yes", "No", None]))
        for _ in range(rng.randrange(40))
    ]
    got = official_figures(answers)
    for name in DIMENSIONS:
        own = [(t, s) for k, t, s in answers if name == "overall" or name in kinds[k]]
        assert got[name] == slow_figures(own, 0.001 if name == "existence" else 0.0001)


ASSOCIATIONS = {
    "person": ["people", "man", "woman"],
    "man": ["person", "boy"],
    "tree": ["forest", "leave"],
    "forest": ["tree"],
    "dog": [],
    "sky": [],
    "sea": ["water"],
}


def test_an_association_of_another_object_goes_before_the_object_itself():
    """Words of [tree, forest]: forest, leave (tree's), tree (forest's), then tree, forest.

    "tree" is first found as an association of forest, "forest" as one of tree.
    """
    marked = mark_nouns(["tree"], ["tree", "forest"], [], ASSOCIATIONS, ())
    assert marked.covered == (False, True)
    marked = mark_nouns(["forest"], ["tree", "forest"], [], ASSOCIATIONS, ())
    assert marked.covered == (True, False)


def test_of_an_object_listed_twice_only_the_first_is_marked():
    marked = mark_nouns(["dog", "dog"], ["dog", "sky", "dog"], ["sea", "sea"], ASSOCIATIONS, ())
    assert marked.covered == (True, False, False)
    assert mark_nouns(["sea"], [], ["sea", "sea"], ASSOCIATIONS, ()).foreseen == (True, False)


def test_neutral_words_are_not_hallucinated_and_cover_nothing():
    marked = mark_nouns(["dog", "sky"], ["dog"], [], ASSOCIATIONS, ("dog",))
    assert marked.hallucinated == (False, True)
    assert marked.covered == (False,)


def test_an_expected_hallucination_is_marked_and_still_hallucinated():
    marked = mark_nouns(["water", "tree"], ["dog"], ["sky", "sea"], ASSOCIATIONS, ())
    assert marked.hallucinated == (True, True)
    assert marked.foreseen == (False, True)


def test_a_word_that_is_there_is_never_looked_for_among_the_expected():
    assert mark_nouns(["sea"], ["sea"], ["sea"], ASSOCIATIONS, ()).foreseen == (False,)


def test_a_similar_word_is_fine_and_marks_both_lists():
    """0.8 is not above 0.8; puppy is like dog (0.9), and like sky (0.81), which is expected."""
    table = {("puppy", "dog"): 0.9, ("puppy", "sky"): 0.81, ("puppy", "sea"): 0.8}
    marked = mark_nouns(
        ["puppy"], ["sea", "dog"], ["sea", "sky"], ASSOCIATIONS, (), lambda a, b: table.get((a, b), float(a == b))
    )
    assert marked.hallucinated == (False,)
    assert marked.covered == (False, True)
    assert marked.foreseen == (False, True)


def test_an_equal_word_marks_its_owner_and_a_similar_one_before_it_as_well():
    """The words of [sea, dog] are water, sea, dog. dog: equal to the last; the first one alike is water, sea's."""
    marked = mark_nouns(
        ["dog"], [], ["sea", "dog"], ASSOCIATIONS, (), lambda a, b: 1.0 if a == b or b == "water" else 0.0
    )
    assert marked.foreseen == (True, True)
    assert marked.hallucinated == (True,)


def slow_marks(nouns, truth, hallu, neutral, similarity):
    """The steps of the description one by one, with positions."""
    s = [w for o in truth for w in ASSOCIATIONS[o]] + list(truth)
    h = [w for o in hallu for w in ASSOCIATIONS[o]] + list(hallu)

    def owner(objects, position):
        lengths = [len(ASSOCIATIONS[o]) for o in objects]
        if position >= sum(lengths):
            return position - sum(lengths)
        i = 0
        while position >= lengths[i]:
            position -= lengths[i]
            i += 1
        return i

    covered, foreseen, wrong = set(), set(), []
    for n in nouns:
        if n in neutral:
            wrong.append(False)
            continue
        if n in s:
            covered.add(owner(truth, s.index(n)))
            wrong.append(False)
            continue
        if n in h:
            foreseen.add(owner(hallu, h.index(n)))
        like = [j for j, w in enumerate(h) if similarity(n, w) > 0.8]
        if like:
            foreseen.add(owner(hallu, like[0]))
        like = [j for j, w in enumerate(s) if similarity(n, w) > 0.8]
        if like:
            covered.add(owner(truth, like[0]))
        wrong.append(not like)
    return tuple(wrong), covered, foreseen


@given(st.integers(0, 2**32))
def test_owners_equal_the_description_step_by_step_on_random_captions(seed):
    rng = random.Random(seed)
    vocabulary = sorted({*ASSOCIATIONS, *(w for v in ASSOCIATIONS.values() for w in v)})
    table = {(a, b): rng.choice([0.0, 0.0, 0.0, 0.8, 0.9]) for a in vocabulary for b in vocabulary}

    def similarity(a, b):
        return 1.0 if a == b else table[a, b]

    captions = []
    for _ in range(4):
        nouns = rng.choices(vocabulary, k=rng.randrange(8))
        truth, hallu = (rng.choices(list(ASSOCIATIONS), k=rng.randrange(5)) for _ in range(2))
        neutral = rng.sample(vocabulary, 2)
        got = mark_nouns(nouns, truth, hallu, ASSOCIATIONS, neutral, similarity)
        wrong, covered, foreseen = slow_marks(nouns, truth, hallu, neutral, similarity)
        assert got.hallucinated == wrong
        assert {i for i, hit in enumerate(got.covered) if hit} == covered
        assert {i for i, hit in enumerate(got.foreseen) if hit} == foreseen
        captions.append(got)
    figures = official_caption_figures(captions)
    wrong, covered = [w for c in captions for w in c.hallucinated], [w for c in captions for w in c.covered]
    assert figures.chair == pytest.approx(100 * sum(wrong) / (len(wrong) + 0.001), abs=0.051)
    assert figures.cover == pytest.approx(100 * sum(covered) / (len(covered) + 0.001), abs=0.051)


def test_caption_figures_by_hand():
    """Two captions: 1 of 3 nouns absent, 1 of 2 objects covered, 1 of 1 foreseen; one of two captions clean.

    1 / 3.001 = 33.322 -> 33.3; 1 / 2.001 = 49.975 -> 50.0; 100 - 1 / 2.001 = 50.025 -> 50.0; 1 / 1.001 -> 99.9.
    """
    captions = [
        mark_nouns(["dog", "sea"], ["dog", "sky"], ["sea"], ASSOCIATIONS, ()),
        mark_nouns(["dog"], [], [], ASSOCIATIONS, ("dog",)),
    ]
    figures = official_caption_figures(captions)
    assert (figures.chair, figures.cover, figures.hal, figures.cog) == (33.3, 50.0, 50.0, 99.9)


def test_amber_score_of_the_published_figures():
    assert amber_score(7.8, 74.7) == pytest.approx(83.45)
