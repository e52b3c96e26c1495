"""Answers yes and no at the first token: the tokens that spell them, and which of them a model prefers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mmhall.adapters import Adapter
from mmhall.errors import ModelError
from mmhall.words import tokenize_answer


class YesNoTokens(NamedTuple):
    """Ids of the tokens that stand for two answers.

    Attributes:
        yes: Ids of yes.
        no: Ids of no.
    """

    yes: tuple[int, ...]
    no: tuple[int, ...]

    def margin(self, scores: Tensor) -> Tensor:
        """Return the log-odds of yes against no, summed over their tokens, (...) in nats.

        Scores 1 and 2 of two tokens of yes, 1.5 and 1.9 of two of no give -0.0998.

        Args:
            scores: Logits or log-probabilities, (..., vocabulary).
        """
        yes, no = (scores[..., list(ids)].logsumexp(dim=-1) for ids in self)
        return yes - no

    def texts(self, adapter: Adapter) -> dict[str, list[str]]:
        """Return the tokens of each answer, for a record."""
        return {
            answer: [adapter.tokenizer.convert_ids_to_tokens(index) for index in ids]
            for answer, ids in self._asdict().items()
        }


def yes_no_tokens(adapter: Adapter) -> YesNoTokens:
    """Return the ids of the tokens that stand for yes and no.

    They are the single tokens that spell the word, in any case and with any white space around it. Where the tokenizer
    splits one of the words in all spellings, they are the first tokens of "yes", "Yes", " yes" and " Yes" that none of
    "no", "No", " no" and " No" begins with, and the reverse.

    Raises:
        ModelError: There is no tokenizer, or the words begin with the same tokens.
    """
    missing = "tokens of yes and no are found with the model's processor; hand it over too"
    reason = missing if adapter.tokenizer is None else why_no_yes_no(adapter)
    if reason is not None:
        raise ModelError(f"{adapter.model.config.model_type}: {reason}")
    return _tokens(adapter)


def why_no_yes_no(adapter: Adapter) -> str | None:
    """Return why a model has no tokens that stand for yes and no; None: it has, or there is no tokenizer to ask."""
    if adapter.tokenizer is None or all(_tokens(adapter)):
        return None
    return "its tokenizer begins yes and no with the same tokens"


def _tokens(adapter: Adapter) -> YesNoTokens:
    spelled = [adapter.spellings.get(answer, []) for answer in YesNoTokens._fields]
    if not all(spelled):
        yes, no = ({_first(adapter, text) for text in _written(answer)} for answer in YesNoTokens._fields)
        spelled = [sorted(yes - no), sorted(no - yes)]
    return YesNoTokens(*map(tuple, spelled))


def _written(answer: str) -> list[str]:
    return [before + word for before in ("", " ") for word in (answer, answer.capitalize())]


def _first(adapter: Adapter, text: str) -> int:
    return tokenize_answer(adapter.tokenizer, text)[0]
