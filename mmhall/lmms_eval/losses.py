"""How well the plain model predicts a given continuation: what multiple-choice tasks rank by."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmhall.adapters.base import Adapter, Request
from mmhall.errors import PromptError
from mmhall.generation.choose import choosable
from mmhall.generation.score import check_room, read_answer


def losses(adapter: Adapter, requests: Sequence[Request], continuations: Sequence[str]) -> list[tuple[float, bool]]:
    """Score one continuation for each prompt of a batch.

    Whether an answer begins with a space depends on the model's tokenizer and chat format, not on the task: it is
    read with and without one, and the likelier counts.

    Args:
        adapter: The model.
        requests: Prompts, all or none with pictures.
        continuations: Texts; white space around them does not count.

    Returns:
        Of each, the negative log-probability of its tokens in nats, mean over tokens, and whether greedy decoding
        would write it. lmms-eval takes the choice with the smallest: its own models return the mean loss too,
        although its documentation speaks of log-probabilities.

    Raises:
        PromptError: A continuation is empty, or too long together with its prompt.
    """
    spelled = [_spelled(adapter, continuation.strip()) for continuation in continuations]
    owners = [index for index, spellings in enumerate(spelled) for _ in spellings]
    answers = [answer for spellings in spelled for answer in spellings]
    inputs = adapter.inputs([requests[owner] for owner in owners])
    width, device = max(map(len, answers)), inputs["input_ids"].device
    check_room(adapter, inputs, width)
    padded = torch.tensor([[*answer, *[0] * (width - len(answer))] for answer in answers], device=device)
    with torch.inference_mode():
        logits = read_answer(adapter, adapter.extended(inputs, padded), width)
    choosable(logits.flatten(0, 1))
    picked = logits.log_softmax(dim=-1).gather(2, padded[:, :, None])[:, :, 0]
    best = logits.argmax(dim=-1) == padded
    found: list[tuple[float, bool]] = [(float("inf"), False)] * len(requests)
    for row, (owner, answer) in enumerate(zip(owners, answers, strict=True)):
        loss = -float(picked[row, : len(answer)].mean())
        greedy = bool(best[row, : len(answer)].all())
        found[owner] = min(loss, found[owner][0]), greedy or found[owner][1]
    return found


def _spelled(adapter: Adapter, text: str) -> list[tuple[int, ...]]:
    """Return the distinct ways to tokenise a text, with a space before it and without."""
    if not text:
        raise PromptError("a continuation is empty; there is nothing to score")

    def read(written: str) -> tuple[int, ...]:
        return tuple(adapter.tokenizer(written, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    return list(dict.fromkeys((read(text), read(f" {text}"))))
