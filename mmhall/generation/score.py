"""Read a written answer in one pass: how probable was each of its tokens, with and without the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import LongTensor, Tensor
from transformers import GenerationConfig

from mmhall.adapters.base import Adapter, Inputs, has_picture
from mmhall.answers import Uncertainty
from mmhall.attention import Call, Op, active
from mmhall.errors import PromptError
from mmhall.generation.branches import read
from mmhall.generation.choose import choosable
from mmhall.generation.prepare import prepare


class _ImageShare(Op):
    """Sums, for the last rows of a pass, the attention that falls on image columns."""

    def __init__(self, image: Tensor, rows: int) -> None:
        self._image, self._rows, self.shares = image, rows, list[Tensor]()

    def rows(self, call: Call) -> LongTensor:
        length = call.query.shape[2]
        return torch.arange(length - self._rows, length, device=call.query.device)  # type: ignore[return-value]

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        self.shares.append((probs * self._image[:, None, None].to(probs)).sum(dim=-1).mean(dim=1))


def score(adapter: Adapter, inputs: Inputs, answers: Sequence[Sequence[int]]) -> list[Uncertainty]:
    """Score one answer for each prompt of a batch by the plain model.

    Args:
        adapter: The model.
        inputs: A batch as the adapter makes it.
        answers: Token ids; may be empty.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
        GenerationError: The model's scores are not finite.
    """
    width = max(map(len, answers))
    check_room(adapter, inputs, width)
    if width == 0:
        pictured = () if has_picture(inputs) else None
        in_sequence = pictured if adapter.image_mask(inputs["input_ids"]).any() else None
        return [Uncertainty((), (), pictured, in_sequence) for _ in answers]
    device = inputs["input_ids"].device
    padded = torch.zeros(len(answers), width, dtype=torch.long, device=device)
    for row, answer in zip(padded, answers, strict=True):
        row[: len(answer)] = torch.tensor(answer, dtype=torch.long, device=device)
    whole = adapter.extended(inputs, padded)
    image = adapter.image_mask(whole["input_ids"])
    share = _ImageShare(image, width + 1) if image.any() else None
    with torch.inference_mode():
        logprobs = _logprobs(adapter, whole, width, share)
        said = _picked(logprobs, padded)
        entropy = -(logprobs.exp() * logprobs).nan_to_num(0).sum(dim=-1)
        gain = (
            said - _picked(_logprobs(adapter, adapter.extended(adapter.without_image(inputs), padded), width), padded)
            if has_picture(inputs)
            else None
        )
    shares = torch.stack(share.shares).mean(dim=0)[:, :-1] if share is not None else None

    def of(part: Tensor, row: int) -> tuple[float, ...]:
        return tuple(part[row, : len(answers[row])].tolist())

    return [
        Uncertainty(
            of(said, row),
            of(entropy, row),
            of(gain, row) if gain is not None else None,
            of(shares, row) if shares is not None else None,
        )
        for row in range(len(answers))
    ]


def _picked(logprobs: Tensor, tokens: Tensor) -> Tensor:
    return logprobs.gather(2, tokens[:, :, None])[:, :, 0]


def _logprobs(adapter: Adapter, inputs: Inputs, width: int, watch: Op | None = None) -> Tensor:
    """Return the log-probabilities from which each of the last `width` tokens was predicted, (batch, width, V)."""
    last = read_answer(adapter, inputs, width, [watch] if watch is not None else [])
    choosable(last.flatten(0, 1))
    return last.log_softmax(dim=-1)


def check_room(adapter: Adapter, inputs: Inputs, width: int) -> None:
    """Refuse an answer that does not fit behind its prompt.

    Raises:
        PromptError: It does not.
    """
    prompt, limit = inputs["input_ids"].shape[1], adapter.context_length
    if prompt + width > limit:
        raise PromptError(f"{prompt} prompt tokens and {width} of the answer exceed the model's context of {limit}")


def read_answer(adapter: Adapter, inputs: Inputs, width: int, ops: Sequence[Op] = ()) -> Tensor:
    """Read prompts that end in an answer, in one pass.

    Args:
        adapter: The model.
        inputs: A batch as `Adapter.extended` makes it.
        width: Tokens of the answer.
        ops: What to see on the way.

    Returns:
        The logits from which each token of the answer was predicted, (batch, width, V) float32.
    """
    config = GenerationConfig(max_new_tokens=1, pad_token_id=adapter.model.generation_config.pad_token_id)
    main = prepare(adapter.entry(inputs), inputs, config)
    if "logits_to_keep" in main.kwargs:
        length = main.input_ids.shape[1]
        # as positions: a number would make transformers drop rows of Gemma 4's last layers without a mask for it
        kept = torch.arange(length - width - 1, length, device=main.input_ids.device)
        main = replace(main, kwargs={**main.kwargs, "logits_to_keep": kept})
    with active(adapter.plan(ops)):
        logits: Tensor = read(main).logits
    return logits[:, -(width + 1) : -1].float()
