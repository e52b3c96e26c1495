"""Yes/no answers: the parsing rules of published scripts, and the counts of parsed answers.

The positive class is "yes". Five public scripts score POPE by five rules, mmhall's is a sixth, and two other sets
have a seventh; on the same answers they give very different figures, so every result names its rule. Each rule reads
the answer without the thoughts of a reasoning model (`thoughts`); an answer of thoughts only is unparsed by all rules.

Rules    strict      mmhall's: the first word, without markup, if it is yes or no (yeah, yep, nope), so "No cat. Final
                     answer: Yes" is no. If it is another word, the last yes or no after "answer:", "answer is:"
                     or "final answer is" that ends its clause. Else unparsed, and so is "Yes and no"; an
                     unparsed answer is wrong for any label. A question or user turn that the model invents
                     ("Question:", "USER:") ends its answer.
         official    RUCAIBox/POPE: no, if a word of the first sentence is No, no or not; else yes.
         opera       shikiw/OPERA: no, if any word is No, NO, no, not or ends in "n't"; else yes.
         vcd         DAMO-NLP-SG/VCD: looks for the label inside the answer, also within words ("know"):
                     "Yes and no" is right for any label, an empty answer is wrong for any label.
         lmms-eval   the answer is the label and nothing else. What is neither yes nor no is wrong, but left
                     out of precision and recall. Its yes ratio counts labels, not answers.
         vlmevalkit  the words yes and no, one without the other, punctuation aside; else "Unknown", which
                     is wrong, and "not yes" in precision and recall.
         contains    DASH-B's and BEAF's: yes if the answer contains yes, also within words ("eyes"), else no if
                     it contains no ("know"); else neither, which is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from mmhall.benchmarks.base import Counts, Metric
from mmhall.benchmarks.rules.thoughts import is_thoughts_only, remove_thoughts

Label = Literal["yes", "no"]

METRICS = (
    Metric("accuracy", {"right": 1}, {"n": 1}, "higher", flag="right"),
    Metric("F1", {"tp": 2}, {"said_yes": 1, "is_yes": 1}, "higher"),
    Metric("precision", {"tp": 1}, {"said_yes": 1}, "higher"),
    Metric("recall", {"tp": 1}, {"is_yes": 1}, "higher"),
    Metric("yes ratio", {"yes": 1}, {"n": 1}),
    Metric("unparsed", {"unparsed": 1}, {"n": 1}, "lower"),
)

_WORDS: dict[str, Label] = {"yes": "yes", "yeah": "yes", "yep": "yes", "no": "no", "nope": "no"}
_JOINED = re.compile(  # from a first word to one that may contradict it
    r"(?:[^\w.,:;!?\n]*,?\s*(?:and|or)\b[^\w.,:;!?\n]*|[ \t/*_\"'`]*)(?!no\s+(?:doubt|more|one|other)\b)([^\W\d_]+)",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"<[^<>]*>|\\[A-Za-z]+")  # tags, LaTeX commands
_BOTH = re.compile(r"^\W*(?:yes\s*(?:or|/)\s*no|no\s*(?:or|/)\s*yes)\s*\?", re.IGNORECASE)  # a repeated question
_FURTHER = re.compile(r"(?<=\w)\W+(?:Question|USER)[*_\s]*:")
_LABELLED = re.compile(
    r"(?<!not\s)(?<!n['’]t\s)(?<!\bto\s)\b(?:answer[*_\"']*(?:\s+is)?\s*[:\n]|final\s+answer\s+is\b)[\s*_\"'`]*"
    r"(?P<said>yes|no)(?![ \t*_\"'`]*(?:[^\W_]|/))",
    re.IGNORECASE,
)
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_LONE_DOT = re.compile(r"(?<!\d)\.(?!\d)")


def parse_strict(answer: str) -> Label | None:
    """Parse yes or no after a model's thoughts: the first word, else the word marked as the answer.

    None if it is neither, or both.

    >>> parse_strict("Yes, there is."), parse_strict("**No**"), parse_strict("A dog. Final answer: Yes")
    ('yes', 'no', 'yes')
    >>> parse_strict("None"), parse_strict("Yes and no"), parse_strict("I cannot answer: no image was given.")
    (None, None, None)
    """
    text = _FURTHER.split(_BOTH.sub("", _MARKUP.sub(" ", remove_thoughts(answer))))[0]
    first = re.search(r"[^\W\d_]+", text)
    if first is None:
        return None
    spans = [first.span()] if first[0].lower() in _WORDS else [m.span("said") for m in _LABELLED.finditer(text)]
    if not spans:
        return None
    start, end = spans[-1]
    said, other = _WORDS[text[start:end].lower()], _JOINED.match(text, end)
    return said if other is None or _WORDS.get(other[1].lower(), said) == said else None


def parse_official(answer: str) -> Label:
    """Parse an answer as the authors' script does: no if the first sentence has the word No, no or not.

    >>> parse_official("No, there is not."), parse_official("I am not sure"), parse_official("")
    ('no', 'no', 'yes')
    """
    sentence = answer.split(".", 1)[0].replace(",", "")
    return "no" if {"No", "no", "not"} & set(sentence.split(" ")) else "yes"


def parse_opera(answer: str) -> Label:
    """Parse an answer as OPERA's script does: in all sentences, with NO and contractions.

    >>> parse_opera("It is a street. There is no truck."), parse_opera("There isn't."), parse_opera("street.No")
    ('no', 'no', 'yes')
    """
    words = answer.replace(".", "").replace(",", "").split(" ")
    return "no" if any(w in ("No", "not", "no", "NO") or w.endswith("n't") for w in words) else "yes"


def parse_vcd(answer: str, label: Label) -> Label:
    """Parse an answer as VCD's script does: the label if the answer contains it, else the other label.

    >>> parse_vcd("Yes, there is a snowboard", "no"), parse_vcd("Yes and no", "yes"), parse_vcd("", "no")
    ('no', 'yes', 'yes')
    """
    if label in answer.lower():
        return label
    return "no" if label == "yes" else "yes"


def parse_exact(answer: str) -> Label | None:
    """Parse an answer that is only yes or no, as lmms-eval does; else None.

    >>> parse_exact(" YES "), parse_exact("Yes.")
    ('yes', None)
    """
    answer = answer.lower().strip()
    return "yes" if answer == "yes" else "no" if answer == "no" else None


def parse_vlmevalkit(answer: str) -> Label | None:
    """Parse an answer as VLMEvalKit's exact matching does; None is its Unknown.

    >>> parse_vlmevalkit("There is no truck!"), parse_vlmevalkit("Yes/no"), parse_vlmevalkit("**No**")
    ('no', None, None)
    """
    answer = left = answer.lower()
    thousands = re.search(r"\d,\d", answer)
    for mark in _MARKS:
        glued = thousands or f"{mark} " in answer or f" {mark}" in answer
        left = left.replace(mark, "" if glued else " ")
    words = _LONE_DOT.sub("", left, count=32).split()
    if ("yes" in words) == ("no" in words):
        return None
    return "yes" if "yes" in words else "no"


def parse_contains(answer: str) -> Label | None:
    """Parse an answer as DASH-B's and BEAF's scripts do: yes if it contains yes, else no if it contains no.

    >>> parse_contains("NO, but YES"), parse_contains("I do not know"), parse_contains("Maybe")
    ('yes', 'no', None)
    """
    answer = answer.lower()
    return "yes" if "yes" in answer else "no" if "no" in answer else None


RULES: dict[str, Callable[[str, Label], Label | None]] = {
    "strict": lambda answer, label: parse_strict(answer),
    "official": lambda answer, label: parse_official(answer),
    "opera": lambda answer, label: parse_opera(answer),
    "vcd": parse_vcd,
    "lmms-eval": lambda answer, label: parse_exact(answer),
    "vlmevalkit": lambda answer, label: parse_vlmevalkit(answer),
    "contains": lambda answer, label: parse_contains(answer),
}


def read(rule: str, label: Label, answer: str) -> Label | None:
    """Parse an answer without its thoughts by a rule of `RULES`; None if it is unparsed or holds thoughts only.

    >>> read("official", "yes", "<think>No car here.</think>Yes"), read("official", "yes", "<think>No, wait")
    ('yes', None)
    """
    return None if is_thoughts_only(answer) else RULES[rule](remove_thoughts(answer), label)


def score(label: Label, answered: Label | None) -> Counts:
    """Count one parsed answer; an unparsed one is wrong, and "not yes".

    Counts: items; right answers; true yes; answers yes; labels yes and no; yes for the yes ratio; unparsed.

    >>> score("yes", None)
    {'n': 1, 'right': 0, 'tp': 0, 'said_yes': 0, 'is_yes': 1, 'is_no': 0, 'yes': 0, 'unparsed': 1}
    """
    return {
        "n": 1,
        "right": int(answered == label),
        "tp": int(answered == label == "yes"),
        "said_yes": int(answered == "yes"),
        "is_yes": int(label == "yes"),
        "is_no": int(label == "no"),
        "yes": int(answered == "yes"),
        "unparsed": int(answered is None),
    }


def tally(rule: str, label: Label, answer: str) -> Counts:
    """Parse and count one answer by a rule of `RULES`, with the peculiarities of its script.

    >>> tally("lmms-eval", "yes", "Yes.")
    {'n': 1, 'right': 0, 'tp': 0, 'said_yes': 0, 'is_yes': 0, 'is_no': 0, 'yes': 1, 'unparsed': 1}
    """
    answered = read(rule, label, answer)
    counts = score(label, answered)
    if rule == "lmms-eval":
        counts["yes"] = int(label == "yes")
        if answered is None:
            counts["is_yes"] = counts["is_no"] = 0
    return counts
