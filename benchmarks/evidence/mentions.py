"""How sure the plain model is of each object that the baseline's captions name, as scores for controls.

Stored with a caption of the baseline (`Row.extra`), for each mention: where it stands, the log-probability of its first
token, and the answer to "Is there a dog in the image?" as log P(yes) - log P(no) of the first token (None where the
model's tokens of yes and no are not known). Costs one pass over each caption, and a short prompt for each object named.
Pictures are processed and encoded again, unless the caller keeps them (`process_once`, `reuse_features`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmhall.benchmarks.base import Benchmark, Item
from mmhall.benchmarks.data.vocabulary import Mention
from mmhall.benchmarks.evidence.threshold import yes_score
from mmhall.errors import DataError
from mmhall.objects import question_about
from mmhall.results.store import Row
from mmhall.words import token_spans, tokens_in_span

if TYPE_CHECKING:
    from mmhall.adapters import Batch
    from mmhall.answers import Answer
    from mmhall.lvlm import LVLM

STORED = "certainty"  # in `Row.extra`
_AT_ONCE = 4  # captions read together: the scores of all their tokens are held in memory
_QUESTIONS = 16  # asked together, but no more than there are captions: a batch may have been halved to fit in memory


@dataclass(frozen=True, slots=True)
class Certainty:
    """The plain model's certainty of one mention.

    Attributes:
        start: First character.
        end: Character after the last one.
        logprob: Log-probability of the mention's first token, in nats.
        yes: log P(yes) - log P(no) when asked about the object; None: not known.
    """

    start: int
    end: int
    logprob: float
    yes: float | None


def measure_mentions(
    lvlm: LVLM, benchmark: Benchmark, batch: Batch, items: Sequence[Item], answers: Sequence[Answer]
) -> list[dict[str, Any]]:
    """Measure the certainty of the mentions of captions, as stored with them.

    Args:
        lvlm: The model.
        benchmark: The benchmark, which finds mentions.
        batch: The inputs of the items.
        items: The items asked.
        answers: The caption of each item.
    """
    from mmhall.analysis import token_logprobs  # reading stored captions needs no torch

    found = [benchmark.named(item, answer.text) for item, answer in zip(items, answers, strict=True)]
    stored: list[dict[str, Any]] = [{STORED: []} for _ in answers]
    chosen = [number for number, mentions in enumerate(found) if mentions]
    asked = [(number, name) for number in chosen for name in dict.fromkeys(m.name for m in found[number])]
    yes = _ask(lvlm, batch, asked)
    for start in range(0, len(chosen), _AT_ONCE):
        part = chosen[start : start + _AT_ONCE]
        ids = [answers[number].token_ids for number in part]
        sure = token_logprobs(lvlm.adapter, lvlm.adapter.picked(batch, part), ids)
        for number, logprobs in zip(part, sure, strict=True):
            places = tokens_of(lvlm.adapter.tokenizer, answers[number], found[number])
            stored[number][STORED] = [
                [mention.start, mention.end, round(logprobs[tokens[0]], 4), yes.get((number, mention.name))]
                for mention, tokens in zip(found[number], places, strict=True)
            ]
    return stored


def stored_certainties(
    benchmark: Benchmark, items: Sequence[Item], rows: Sequence[Row]
) -> list[list[Certainty]] | None:
    """Return the certainties stored with captions; None where a mention has none, as with another rule than the run's.

    Args:
        benchmark: The benchmark with the rule that finds mentions.
        items: Items of the group.
        rows: Caption of each item.

    Raises:
        DataError: What is stored cannot be read.
    """
    found = []
    for item, row in zip(items, rows, strict=True):
        if row.extra is None or STORED not in row.extra:
            return None
        try:
            known = [Certainty(int(s), int(e), float(p), y and float(y)) for s, e, p, y in row.extra[STORED]]
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{benchmark.name}: the certainty stored with the caption of {row.strategy} to item {row.item} cannot "
                f"be read ({error}); it is measured while a run answers, so run the benchmark into a new folder"
            ) from error
        by_place = {(one.start, one.end): one for one in known}
        places = [(start, end) for start, end, _ in benchmark.mark(item, row.text)]
        if not by_place.keys() >= set(places):
            return None
        found.append([by_place[place] for place in places])
    return found


def tokens_of(tokenizer: Any, answer: Answer, named: Sequence[Mention]) -> list[tuple[int, ...]]:
    """Return the 0-based tokens of each mention of an answer, in order.

    Args:
        tokenizer: The model's tokenizer.
        answer: Its text is the decoded text without surrounding white space, after an opening mark of thoughts if a run
            has added one.
        named: Mentions in the text of the answer.
    """
    text, spans = token_spans(tokenizer, answer.token_ids)
    written = text.lstrip()
    mark = next((at for at in range(len(answer.text)) if written.startswith(answer.text[at:])), 0)
    lead = len(text) - len(written) - mark
    return [tokens_in_span(spans, lead + mention.start, lead + mention.end) for mention in named]


def _ask(lvlm: LVLM, batch: Batch, asked: Sequence[tuple[int, str]]) -> dict[tuple[int, str], float | None]:
    """Ask the plain model about objects in pictures.

    Args:
        lvlm: The model.
        batch: The inputs of the captions, with their pictures.
        asked: 0-based number of the caption, and the name of an object.

    Returns:
        Number and name to log P(yes) - log P(no).
    """
    from mmhall.adapters import Request
    from mmhall.strategies import why_no_yes_no

    if why_no_yes_no(lvlm.adapter) is not None:
        return {}
    found: dict[tuple[int, str], float | None] = {}
    at_once = min(_QUESTIONS, len(batch.requests))
    for start in range(0, len(asked), at_once):
        part = asked[start : start + at_once]
        requests = [Request(question_about(name), batch.requests[number].images) for number, name in part]
        answers = lvlm.generate_batch(lvlm.adapter.inputs(requests), scores=1, max_new_tokens=1)
        for key, answer in zip(part, answers, strict=True):
            score = None
            if answer.scores is not None and len(answer.scores):  # an answer that ends at once has none
                score = yes_score(lvlm.adapter, answer.scores[0])
            found[key] = score if score is None else round(score, 4)
    return found
