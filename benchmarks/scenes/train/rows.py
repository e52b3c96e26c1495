"""Packing of one picture and several turns about it into one training row.

    <s> USER : [64 image positions]  question ASSISTANT : answer </s>  question ASSISTANT : answer </s> ...

Every turn sees the shared prefix and itself, but no other turn, and counts its positions from
the end of the prefix, so that one row is equivalent to as many separate prompts. A
turn may be *blind*: it does not see the image positions, and its positions close the gap, as in a
prompt without a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from mmhall.benchmarks.scenes.language import Turn, surface_forms
from mmhall.benchmarks.scenes.train.architecture import IMAGE_TOKENS
from mmhall.benchmarks.scenes.world import NAMES

HEAD = 3  # <s> USER :
PREFIX = HEAD + IMAGE_TOKENS
IGNORE = -100
_FORMS = surface_forms()


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of packed rows; B rows of T positions.

    Attributes:
        ids: Token ids, (B, T).
        positions: Position ids, (B, T).
        mask: Additive attention mask, (B, 1, T, T) bfloat16; 0 where a query may see a key.
        labels: Next-token targets, already shifted, (B, T); IGNORE where nothing is learned.
        weights: Loss weight of each target, (B, T).
        segments: Number of the turn, from 1; 0 for the prefix, -1 for padding, (B, T).
        words: Last token of the object's name in each yes/no question: row, position, index into NAMES, (N, 3).
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    labels: Tensor
    weights: Tensor
    segments: Tensor
    words: Tensor


class Packer:
    """Packs conversations into `Rows`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, length: int, answer_weight: float = 3.0) -> None:
        """Remember the tokenizer, the row length and the weight of a yes/no answer's first token."""
        self._encode = tokenizer.backend_tokenizer.encode_batch
        self._cache: dict[str, list[int]] = {}
        self._head = tokenizer("USER:").input_ids
        self._cue = tokenizer("ASSISTANT:", add_special_tokens=False).input_ids
        self._image = tokenizer.convert_tokens_to_ids("<image>")
        self._eos, self._pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._length, self._answer_weight = length, answer_weight

    def _ids(self, text: str) -> list[int]:
        if len(self._cache) > 200_000:
            self._cache.clear()
        if text not in self._cache:
            self._cache[text] = self._encode([text], add_special_tokens=False)[0].ids
        return self._cache[text]

    def pack(self, conversations: Sequence[Sequence[tuple[Turn, bool]]]) -> Rows:
        """Pack one conversation a row; each turn comes with whether it is blind.

        Turns that no longer fit are left out.
        """
        size, length = len(conversations), self._length
        ids = torch.full((size, length), self._pad)
        positions = torch.zeros((size, length), dtype=torch.long)
        segment = torch.full((size, length), -1)
        blind = torch.zeros((size, length), dtype=torch.bool)
        labels = torch.full((size, length), IGNORE)
        weights = torch.ones((size, length))
        words: list[tuple[int, int, int]] = []
        start = torch.tensor([*self._head, *[self._image] * IMAGE_TOKENS])
        ids[:, :PREFIX], positions[:, :PREFIX], segment[:, :PREFIX] = start, torch.arange(PREFIX), 0
        for row, turns in enumerate(conversations):
            at = PREFIX
            for number, (turn, is_blind) in enumerate(turns, start=1):
                question, answer = [*self._ids(turn.question), *self._cue], [*self._ids(turn.answer), self._eos]
                end = at + len(question) + len(answer)
                if end > length:
                    continue
                first = HEAD if is_blind else PREFIX
                ids[row, at:end] = torch.tensor(question + answer)
                positions[row, at:end] = torch.arange(first, first + end - at)
                segment[row, at:end], blind[row, at:end] = number, is_blind
                cue = at + len(question) - 1
                labels[row, cue : end - 1] = torch.tensor(answer)
                if turn.target is not None:
                    words.append((row, at + self._end_of_name(turn) - 1, NAMES.index(turn.target)))
                if turn.kind in ("exists", "choice"):
                    weights[row, cue] = self._answer_weight
                at = end
        order = torch.arange(length)
        attends = (order[:, None] >= order[None, :]) & (
            (segment[:, None, :] == 0) | (segment[:, :, None] == segment[:, None, :])
        )
        is_image = (order >= HEAD) & (order < PREFIX)
        attends &= ~(blind[:, :, None] & is_image)
        mask = torch.where(attends[:, None], 0.0, -30_000.0).to(torch.bfloat16)
        return Rows(ids, positions, mask, labels, weights, segment, torch.tensor(words).view(-1, 3))

    def _end_of_name(self, turn: Turn) -> int:
        """Count the tokens of a question up to and with the name of the object it asks about."""
        assert turn.target is not None
        ends = [turn.question.find(f" {w}") + len(w) + 1 for w in _FORMS[turn.target] if f" {w}" in turn.question]
        return len(self._ids(turn.question[: max(ends)]))
