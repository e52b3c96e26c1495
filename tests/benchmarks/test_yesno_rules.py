from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, strategies as st
from scipy.stats import norm

from mmhall.benchmarks.rules.yes_bias import criterion, d_prime
from mmhall.benchmarks.rules.yesno import METRICS, RULES, tally

# The label, the answer, and how it is read (y, n, or - for neither) by official, opera, vcd where the label is
# yes, vcd where it is no, lmms-eval, vlmevalkit, strict. Derived from the rules' descriptions, not from the code.
MESSY = [
    ("y", "Yes", "yyyyyyy"),
    ("n", "No", "nnnnnnn"),
    ("y", "", "yyny---"),
    ("n", "NO", "ynnnnnn"),
    ("n", "No!", "yynn-nn"),
    ("n", "No;", "yynn-nn"),
    ("n", "(No)", "yynn-nn"),
    ("n", "**No**", "yynn--n"),
    ("n", "None", "yynn---"),
    ("n", "Nope", "yynn--n"),
    ("n", "Not visible", "yynn---"),
    ("n", "cannot", "yynn---"),
    ("n", "It isn't there", "ynny---"),
    ("n", "No\nThere is nothing", "yynn-nn"),
    ("n", ". No", "ynnn-nn"),
    ("n", "The image shows a street. There is no truck.", "ynnn-n-"),
    ("y", "Yes, there is no doubt", "nnyn--y"),
    ("y", "Yes, not only one", "nnyn-yy"),
    ("y", "I am not sure.", "nnnn---"),
    ("y", "Yes and no", "nnyn---"),
    ("y", "yes.", "yyyy-yy"),
    ("y", " yes ", "yyyyyyy"),
    ("n", "no, there is nothing", "nnnn-nn"),
    ("n", "Yes, there is a snowboard", "yyyn-yy"),
    ("y", "There is a piano", "yynn---"),
    ("y", "Ja", "yyny---"),
    ("n", "Non", "yynn---"),
    ("n", "Yes/no", "yyyn---"),
    ("n", "no.5 of 6", "nynn--n"),
    ("n", "street.There is No", "ynnn-n-"),
    ("n", "There are 1,000 dogs, no cats", "nnnn-n-"),
    ("y", "yes,1,000", "yyyy--y"),
    ("y", "yes,indeed", "yyyy-yy"),
    ("y", "yes,indeed, sir", "yyyy--y"),
    ("y", "Yeah", "yyny--y"),
    ("n", "<b>No</b>", "yynn-nn"),
    ("n", "The answer is No", "nnnn-n-"),
    ("n", "With 0.9 confidence, no dog", "ynnn-n-"),
    ("y", "Noël", "yynn---"),
    ("y", "Yes: two of them", "yyyy--y"),
    ("n", "It doesn't", "ynny---"),
    ("y", "I know", "yynn---"),
    ("y", "Eyes are visible", "yyyy---"),
]
NAMES = {"y": "yes", "n": "no", "-": None}
COLUMNS = [
    ("official", "yes", 0),
    ("official", "no", 0),
    ("opera", "yes", 1),
    ("opera", "no", 1),
    ("vcd", "yes", 2),
    ("vcd", "no", 3),
    ("lmms-eval", "yes", 4),
    ("vlmevalkit", "no", 5),
    ("strict", "yes", 6),
]


@pytest.mark.parametrize(("rule", "label", "column"), COLUMNS)
@pytest.mark.parametrize(("answer", "read"), [(answer, read) for _, answer, read in MESSY])
def test_messy_answers_are_read_as_described(rule, label, column, answer, read):
    assert RULES[rule](answer, label) == NAMES[read[column]]


def summed(rule, pairs):
    counts = Counter()
    for label, answer in pairs:
        counts.update(tally(rule, label, answer))
    return {
        m.name: (sum(w * counts[k] for k, w in m.over.items()), sum(w * counts[k] for k, w in m.under.items()))
        for m in METRICS
    }


@pytest.mark.parametrize(
    ("rule", "accuracy", "precision", "recall", "yes_ratio", "unparsed"),
    [
        ("official", 19, (14, 34), (14, 18), 34, 0),
        ("opera", 25, (14, 28), (14, 18), 28, 0),
        ("vcd", 34, (11, 13), (11, 18), 13, 0),
        ("lmms-eval", 4, (2, 2), (2, 2), 18, 39),
        ("vlmevalkit", 19, (5, 6), (5, 18), 6, 23),
        ("strict", 22, (10, 11), (10, 18), 11, 20),
    ],
)
def test_the_same_messy_answers_give_very_different_figures(rule, accuracy, precision, recall, yes_ratio, unparsed):
    """Counted in MESSY, 43 answers, 18 labelled yes: accuracies from 4 / 43 to 34 / 43.

    lmms-eval leaves 16 unparsed yes out of recall and has a yes ratio of labels, 18 / 43.
    F1 is 2 tp over the denominators of precision and recall.
    """
    got = summed(rule, [(NAMES[label], answer) for label, answer, _ in MESSY])
    assert got["accuracy"] == (accuracy, 43)
    assert got["precision"] == precision
    assert got["recall"] == recall
    assert got["F1"] == (2 * precision[0], precision[1] + recall[1])
    assert got["yes ratio"] == (yes_ratio, 43)
    assert got["unparsed"] == (unparsed, 43)


def test_contains_looks_for_yes_first_and_within_words():
    """Yes wins, wherever it stands; "no" is in know and not; a wrong answer is one that is neither."""
    read = {"Eyes, no": "yes", "No. Yes.": "yes", "I know": "no", "Nope": "no", "Maybe": None, "": None}
    assert {answer: RULES["contains"](answer, "yes") for answer in read} == read
    assert tally("contains", "no", "Maybe") == tally("contains", "no", "") | {"unparsed": 1}
    assert tally("contains", "no", "Maybe")["right"] == 0


def test_clean_answers_give_the_same_figures_by_every_rule():
    pairs = [("yes", "Yes"), ("yes", "No"), ("no", "No"), ("no", "Yes"), ("yes", "yes")]
    for rule in RULES:
        got = summed(rule, pairs)
        assert got["yes ratio"] == (3, 5)
        assert {k: v for k, v in got.items() if k != "yes ratio"} == {
            "accuracy": (3, 5),
            "precision": (2, 3),
            "recall": (2, 3),
            "F1": (4, 6),
            "unparsed": (0, 5),
        }


def test_lmms_evals_precision_can_look_fine_where_its_accuracy_does_not():
    got = summed("lmms-eval", [("yes", "yes")] + [("yes", "Yes, it is")] * 9)
    assert (got["accuracy"], got["F1"], got["recall"]) == ((1, 10), (2, 2), (1, 1))


def spaced(text, marks):
    """Cut at single characters, keeping empty pieces."""
    pieces, piece = [], ""
    for character in text:
        if character in marks:
            pieces.append(piece)
            piece = ""
        else:
            piece += character
    return [*pieces, piece]


def slow_official(answer):
    before = spaced(answer, ".")[0]
    kept = "".join(c for c in before if c != ",")
    return "no" if any(p in ("No", "no", "not") for p in spaced(kept, " ")) else "yes"


def slow_opera(answer):
    kept = "".join(c for c in answer if c not in ".,")
    return "no" if any(p in ("No", "not", "no", "NO") or p[-3:] == "n't" for p in spaced(kept, " ")) else "yes"


def slow_vcd(answer, label):
    low = answer.lower()
    there = any(low[i : i + len(label)] == label for i in range(len(low)))
    return label if there else {"yes": "no", "no": "yes"}[label]


def slow_exact(answer):
    return {"yes": "yes", "no": "no"}.get(answer.strip().lower())


def slow_vlmevalkit(answer):
    low = answer.lower()
    comma = any(low[i].isdigit() and low[i + 1] == "," and low[i + 2].isdigit() for i in range(len(low) - 2))
    kept = low
    for mark in [
        ";",
        "/",
        "[",
        "]",
        '"',
        "{",
        "}",
        "(",
        ")",
        "=",
        "+",
        "\\",
        "_",
        "-",
        ">",
        "<",
        "@",
        "`",
        ",",
        "?",
        "!",
    ]:
        beside = any(low[i : i + 2] in (mark + " ", " " + mark) for i in range(len(low)))
        kept = "".join(("" if beside or comma else " ") if c == mark else c for c in kept)
    out, gone = "", 0
    for i, c in enumerate(kept):
        digit = (i > 0 and kept[i - 1].isdigit()) or (i + 1 < len(kept) and kept[i + 1].isdigit())
        if c == "." and not digit and gone < 32:
            gone += 1
        else:
            out += c
    words = out.split()
    if "yes" in words:
        return None if "no" in words else "yes"
    return "no" if "no" in words else None


def slow_strict(answer):
    """Read the first word; one behind it, with white space, a stroke or quotes between, must not contradict it."""
    words, between = [""], [""]
    for c in answer:
        if c.isalpha():
            words[-1] += c.lower()
        else:
            if words[-1]:
                words.append("")
                between.append("")
            between[-1] += c
    known = {"yes": "yes", "yeah": "yes", "yep": "yes", "no": "no", "nope": "no"}
    said = [known.get(word) for word in words]
    joins = [set(gap) <= set(" /*'\"") for gap in between]
    joined = len(words) > 1 and joins[1] and {said[0], said[1]} == {"yes", "no"}
    return None if joined else said[0]


SLOW = {
    "official": lambda a, label: slow_official(a),
    "opera": lambda a, label: slow_opera(a),
    "vcd": slow_vcd,
    "lmms-eval": lambda a, label: slow_exact(a),
    "vlmevalkit": lambda a, label: slow_vlmevalkit(a),
    "strict": lambda a, label: slow_strict(a),
}
PIECES = ["yes", "Yes", "YES", "no", "No", "NO", "not", "isn't", "yeah", "nope", "dog", "know", "eyes", "1", "0", "ë"]
PIECES += [" ", " ", " ", ".", ",", ", ", ". ", "!", "-", "(", ")", "/", ":", "*", "'", '"', "\n", "." * 34]
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=7).map("".join)
LABELS = st.sampled_from(["yes", "no"])


@pytest.mark.slow
@given(st.lists(st.tuples(LABELS, ANSWERS), min_size=10, max_size=10))
def test_every_rule_equals_a_slow_reading_on_ten_thousand_answers(pairs):
    for label, answer in pairs:
        for rule, slow in SLOW.items():
            assert RULES[rule](answer, label) == slow(answer, label), (rule, label, answer)


@pytest.mark.slow
@given(st.lists(st.tuples(LABELS, ANSWERS), min_size=10, max_size=10))
def test_every_tally_equals_a_slow_confusion_table(pairs):
    for rule, slow in SLOW.items():
        read = [(label, slow(answer, label)) for label, answer in pairs]
        tp, fp = read.count(("yes", "yes")), read.count(("no", "yes"))
        tn, fn = read.count(("no", "no")), read.count(("yes", "no"))
        lost = 0 if rule == "lmms-eval" else read.count(("yes", None))
        got = summed(rule, pairs)
        assert got["accuracy"] == (tp + tn, 10)
        assert got["precision"] == (tp, tp + fp)
        assert got["recall"] == (tp, tp + fn + lost)
        assert got["yes ratio"][0] == (sum(a == "yes" for a, _ in pairs) if rule == "lmms-eval" else tp + fp)
        assert got["unparsed"][0] == sum(b is None for _, b in read)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("<answer>Yes</answer>", "yes"),
        ("\\boxed{No}", "no"),
        ("1. No", "no"),
        ("“Yes”", "yes"),
        ("yesterday", None),
        ("no one", "no"),
        ("Nothing", None),
        ("_no_", "no"),
        ("42", None),
        ("**Yes** and **no**", None),
        ("No or yes", None),
        ("yes, and no", None),
        ("Yes / No", None),
        ("Yes, no doubt", "yes"),
        ("Yes - no doubt about it.", "yes"),
        ("No (yes, I looked twice)", "no"),
        ("Yes and no one else", "yes"),
        ("Yes or no? Yes.", "yes"),
        ("Yes or no? No.", "no"),
        ("Yes or no?", None),
        ("Yes/no", None),
        ('"Yes" "no"', None),
        ("No. Yes, wait", "no"),
        ("No nope", "no"),
    ],
)
def test_the_strict_rule_looks_behind_markup(answer, read):
    assert RULES["strict"](answer, "yes") == read


def test_d_prime_and_c_by_hand():
    """Found 30 of 40: z(30.5 / 41) = 0.6554; false 5 of 20: z(5.5 / 21) = -0.6375.

    d' = 1.2929, c = -(0.6554 - 0.6375) / 2 = -0.0090.
    """
    assert d_prime(30, 40, 35, 20) == pytest.approx(1.2929, abs=1e-4)
    assert criterion(30, 40, 35, 20) == pytest.approx(-0.0090, abs=1e-4)


def test_who_only_shifts_the_threshold_changes_c_and_not_d_prime():
    """z(0.5) - z(0.5 - s) = z(0.5 + s) - z(0.5): totals of 199 so that shares are exact after smoothing."""
    strict, lax = (100 - 0.5, 199, 100 - 0.5 + 60 - 0.5, 199), (140 - 0.5, 199, 140 - 0.5 + 100 - 0.5, 199)
    assert d_prime(*strict) == pytest.approx(float(d_prime(*lax)))
    assert criterion(*strict) > 0 > criterion(*lax)


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50), st.integers(1, 50))
def test_signal_detection_equals_a_slow_version(tp, more, fp, rest):
    is_yes, is_no = tp + more, fp + rest
    hits, false = norm.ppf((tp + 0.5) / (is_yes + 1)), norm.ppf((fp + 0.5) / (is_no + 1))
    assert d_prime(tp, is_yes, tp + fp, is_no) == pytest.approx(hits - false)
    assert criterion(tp, is_yes, tp + fp, is_no) == pytest.approx(-(hits + false) / 2)


def test_without_both_labels_there_is_no_d_prime():
    assert math.isnan(d_prime(3, 4, 3, 0))
    assert math.isnan(criterion(0, 0, 2, 4))
