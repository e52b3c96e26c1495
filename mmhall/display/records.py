"""Column records: an answer as plain data that JSON can write, for pages, notebooks and programs.

A record holds (times in seconds):

    strategy, prompt        as asked
    state                   waiting, reading, writing, done, cut (the most tokens it may have), stopped or failed
    error                   why it failed
    text                    the answer; while it grows, without `words`
    tokens, reading_seconds, seconds, passes_per_token (None: not counted)
    words                   text; start and end, characters of the text; tokens, indices; sentence, index; object, its
                            name or ""; mark, "supported", "hallucinated", "unknown" or ""; head, whether it is the
                            first word of the object, so that "wine glass" is marked once; and the signals gain, share
                            and entropy, means over its tokens (None: not measured)
    objects                 named, made_up, missing and unknown, each once, in order
    known                   number of objects known to be in the picture; None: not known
    verdict                 for a question of yes or no: says, truth ("yes", "no" or "") and right (None: not known)
    id                      key of the answer, for its maps; "": none

Texts are printable: control and bidirectional characters stand as codes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmhall.answers import Answer, Uncertainty
from mmhall.display.marks import asked_object, find_mentions, is_closed, is_present, judge_object, says_yes_or_no
from mmhall.text import printable
from mmhall.words import Word, find_words

_SENTENCE = re.compile(r"[.!?]\W*\s|\n")
_ENDS = {"length": "cut", "stopped": "stopped"}


@dataclass(frozen=True, slots=True)
class Signal:
    """A number for every word, from the plain model's scores of an answer.

    Attributes:
        name: Its key in the words of a record.
        label: Name for readers.
        hint: Explanation for newcomers.
        unit: Unit of the numbers.
    """

    name: str
    label: str
    hint: str
    unit: str


SIGNALS = (
    Signal(
        "gain",
        "picture's worth",
        "How much likelier the word is with the picture than without it (log-probability gained). "
        "A word that the picture adds nothing to may be made up.",
        "nats",
    ),
    Signal(
        "share",
        "attention on the picture",
        "Share of attention that falls on the picture while the word is predicted, mean over layers and heads.",
        "%",
    ),
    Signal(
        "entropy",
        "uncertainty",
        "How undecided the model is about the word: entropy of the next-token distribution.",
        "nats",
    ),
)
_FIELDS = {"gain": "image_gains", "share": "image_shares", "entropy": "entropies"}  # of `Uncertainty`


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of the objects in a picture.

    Attributes:
        present: Objects in it; None: not known.
        absent: Objects that are not in it; None: all others of the vocabulary, if `present` is known.
    """

    present: Collection[str] | None = None
    absent: Collection[str] | None = None


UNKNOWN = Truth()


def answer_record(
    answer: Answer, located: tuple[str, Sequence[tuple[Word, int]]], prompt: str, truth: Truth = UNKNOWN, **facts: Any
) -> dict[str, Any]:
    """Return the record of a complete or stopped answer.

    Args:
        answer: The answer.
        located: What `mmhall.words.locate_words` returns for it.
        prompt: The user's text.
        truth: The objects in the picture.
        **facts: Fields of the record to set, such as `strategy` or `id`.
    """
    decoded, words = located
    shift = decoded.find(answer.text)  # the answer is stripped, and ends before a stop string
    text, shift = (answer.text, shift) if shift >= 0 else (decoded, 0)
    shifted = [(word, start - shift) for word, start in words]
    inside = [(word, at) for word, at in shifted if at >= 0 and at + len(word.text) <= len(text)]
    usage = answer.usage
    counted = {
        "strategy": answer.strategy,
        "state": _ENDS.get(answer.stopped_by, "done"),
        "tokens": usage.new_tokens,
        "seconds": usage.seconds,
        "passes_per_token": usage.rows / (usage.new_tokens - 1) if usage.rows and usage.new_tokens > 1 else None,
    }
    return text_record(text, prompt, truth, inside, answer.uncertainty, **counted | facts)


def text_record(
    text: str,
    prompt: str,
    truth: Truth = UNKNOWN,
    words: Sequence[tuple[Word, int]] | None = None,
    uncertainty: Uncertainty | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """Return the record of an answer of which the text is known; by default without tokens and signals.

    Args:
        text: The answer.
        prompt: The user's text.
        truth: The objects in the picture.
        words: Its words, each with the index of its first character; None: found in the text, without tokens.
        uncertainty: The plain model's scores of its tokens; None: not measured.
        **facts: Fields of the record to set, such as `strategy`, `state` or `id`.
    """
    words = [(Word(word, ()), start) for word, start in find_words(text)] if words is None else words
    shown, entries = _words(text, words, truth, uncertainty)
    named = list(dict.fromkeys(entry["object"] for entry in entries if entry["object"]))
    kinds = {name: judge_object(name, truth.present, truth.absent) for name in named}
    present = None if truth.present is None else list(dict.fromkeys(truth.present))
    return {
        **growing_record(shown, prompt, "done"),
        "words": entries,
        "objects": {
            "named": named,
            "made_up": [name for name in named if kinds[name] == "hallucinated"],
            "missing": [name for name in present or () if name not in named],
            "unknown": [name for name in named if kinds[name] == "unknown"],
        },
        "known": None if present is None else len(present),
        "verdict": judge_answer(prompt, text, truth),
        **facts,
    }


def growing_record(text: str, prompt: str, state: str, **facts: Any) -> dict[str, Any]:
    """Return the record of an answer that is not complete, or failed: its text without marks.

    Args:
        text: The text so far.
        prompt: The user's text.
        state: As in a record.
        **facts: Fields of the record to set.
    """
    return {
        "strategy": "",
        "prompt": printable(prompt),
        "state": state,
        "error": "",
        "text": printable(text),
        "tokens": 0,
        "reading_seconds": 0.0,
        "seconds": 0.0,
        "passes_per_token": None,
        "words": [],
        "objects": {"named": [], "made_up": [], "missing": [], "unknown": []},
        "known": None,
        "verdict": None,
        "id": "",
        **facts,
    }


def judge_answer(prompt: str, text: str, truth: Truth) -> dict[str, Any] | None:
    """Judge the answer to a question of yes or no; None for other prompts."""
    if not is_closed(prompt):
        return None
    asked, says = asked_object(prompt), says_yes_or_no(text)
    there = None if asked is None else is_present(asked, truth.present, truth.absent)
    right = None if there is None else says == ("yes" if there else "no")
    return {"says": says, "truth": "" if there is None else "yes" if there else "no", "right": right}


def signals() -> list[dict[str, str]]:
    """Return the signals of words as data."""
    return [asdict(signal) for signal in SIGNALS]


def _words(
    text: str, words: Sequence[tuple[Word, int]], truth: Truth, uncertainty: Uncertainty | None
) -> tuple[str, list[dict[str, Any]]]:
    """Return the printable text, and an entry for each word with its place in it."""
    mentions = find_mentions(text, truth.present or ())
    shown, entries, at, sentence, seen = "", list[dict[str, Any]](), 0, 0, set[int]()
    for word, start in words:
        end, gap = start + len(word.text), text[at:start]
        sentence += bool(entries) and _SENTENCE.search(gap) is not None
        found = next((number for number, one in enumerate(mentions) if one.start < end and one.end > start), None)
        name = "" if found is None else mentions[found].name
        shown += printable(gap)
        entries.append(
            {
                "text": printable(word.text),
                "start": len(shown),
                "end": len(shown := shown + printable(word.text)),
                "tokens": list(word.tokens),
                "sentence": sentence,
                "object": name,
                "mark": judge_object(name, truth.present, truth.absent) if name else "",
                "head": found is not None and found not in seen,
                **{signal: _mean(uncertainty, field, word) for signal, field in _FIELDS.items()},
            }
        )
        seen |= set() if found is None else {found}
        at = end
    return shown + printable(text[at:]), entries


def _mean(uncertainty: Uncertainty | None, field: str, word: Word) -> float | None:
    values = None if uncertainty is None else getattr(uncertainty, field)
    if values is None or not word.tokens:
        return None
    return round(float(sum(values[token] for token in word.tokens)) / len(word.tokens), 4)
