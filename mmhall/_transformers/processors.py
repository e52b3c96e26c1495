"""Logits processors of transformers for some of the rows that they were made for."""

from __future__ import annotations

import copy

from torch import Tensor
from transformers import LogitsProcessorList

_MODULE = "transformers.generation"
_BY_ROW = {  # edit each row by itself
    *("TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "TopHLogitsWarper", "MinPLogitsWarper"),
    *("TypicalLogitsWarper", "EpsilonLogitsWarper", "EtaLogitsWarper"),
    *("RepetitionPenaltyLogitsProcessor", "NoRepeatNGramLogitsProcessor", "NoBadWordsLogitsProcessor"),
    *("SequenceBiasLogitsProcessor", "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor"),
    *("ForcedEOSTokenLogitsProcessor", "SuppressTokensLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor"),
}
_OF_ROWS = "prompt_ignore_length"  # the one attribute of these that may have a value for each row: padding of prompts


def can_select(processors: LogitsProcessorList) -> bool:
    """Whether processors can edit some of their rows; of others it is unknown what they hold of their rows."""
    return all(type(each).__name__ in _BY_ROW and type(each).__module__.startswith(_MODULE) for each in processors)


def select(processors: LogitsProcessorList, rows: Tensor) -> LogitsProcessorList:
    """Return processors for some of the rows that they were made for, by 0-based index, which may repeat."""
    selected = [copy.copy(each) for each in processors]
    for each in selected:
        held = getattr(each, _OF_ROWS, None)
        if isinstance(held, Tensor) and held.ndim:
            setattr(each, _OF_ROWS, held[rows.to(held.device)])
    return LogitsProcessorList(selected)
