"""Words of questions that a model's tokenizer does not know.

A tokenizer of whole words replaces a word that it does not know by one unknown token: the model cannot read the
question, and its answer says nothing about the picture. Tokenizers of bytes or pieces of words have no such token.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmhall.benchmarks.base import Item
from mmhall.results.store import Row

UNKNOWN = "unknown_words"  # in `Row.extra`
_SHOWN = 8


def unknown_words(tokenizer: Any, texts: Sequence[str]) -> list[list[str]]:
    """Return the words of each text that a tokenizer replaces by its unknown token, each once.

    Args:
        tokenizer: Tokenizer of a model; None: of a model without one.
        texts: The texts.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    words = [list(dict.fromkeys(re.findall(r"\w[\w'-]*|[^\w\s]", text))) for text in texts]
    every = sorted({word for each in words for word in each})
    if unknown is None or not every:
        return [[] for _ in texts]
    ids = tokenizer(every, add_special_tokens=False)["input_ids"]
    lacking = {word for word, own in zip(every, ids, strict=True) if unknown in own}
    return [[word for word in each if word in lacking] for each in words]


def measure_unknown(tokenizer: Any, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return what is stored with the answer to each item: its unknown words; nothing if it has none."""
    found = unknown_words(tokenizer, [item.prompt for item in items])
    return [{UNKNOWN: words} if words else {} for words in found]


def unknown_remark(items: Sequence[Item], rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the note on questions with unknown words; none if there are none."""
    found = {row.item: words for row in rows if (words := (row.extra or {}).get(UNKNOWN))}
    if not found:
        return ()
    words = [word for word, _ in Counter(word for words in found.values() for word in words).most_common()]
    named = ", ".join(words[:_SHOWN]) + (", ..." if len(words) > _SHOWN else "")
    return (
        f"{len(found)} of {len(items)} questions have words that the model's tokenizer does not know ({named}): the "
        "model cannot read these questions, and figures on them are to be read beside chance.",
    )
