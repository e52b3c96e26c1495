"""Follow an answer token by token: where each token looked, and which tokens were likely in its place.

The plain model's probabilities come from one pass over prompt and answer, the strategy's from its own scores while the
answer's tokens are forced, so that an answer that was sampled, searched for or stopped is followed as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mmhall.adapters import Adapter
from mmhall.analysis._teacher_forcing import pad_answers, read_answer
from mmhall.analysis._trace import Trace
from mmhall.analysis._tracing import follow_tokens
from mmhall.answers import Answer
from mmhall.generation import Images, Prompt, Recipe, make_request


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that was likely at some place of an answer.

    Attributes:
        text: The token as text.
        plain: Its probability by the plain model.
        strategy: Its probability by the strategy, before a temperature; None: the strategy scores no single token.
        chosen: Whether it is the answer's.
    """

    text: str
    plain: float
    strategy: float | None
    chosen: bool


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """An answer, followed token by token.

    Attributes:
        trace: Its attention to the picture.
        candidates: Likely tokens at each of its tokens: those of the largest probability, plain or by the strategy,
            the likelier ones first. The answer's own is always among them.
    """

    trace: Trace
    candidates: tuple[tuple[Candidate, ...], ...]

    @property
    def size(self) -> int:
        """Approximate bytes of its tensors and pictures."""
        trace = self.trace
        tensors = (trace.image_attention, trace.gaze, *trace.findings.values())
        pictures = (3 * picture.width * picture.height for picture in trace.pictures)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + sum(pictures)


def follow_answer(
    adapter: Adapter,
    recipe: Recipe,
    image: Images,
    prompt: Prompt,
    answer: Answer,
    model: Mapping[str, str | None],
    count: int,
) -> Followed:
    """Follow an answer.

    Args:
        adapter: The model.
        recipe: The strategy that gave the answer; its settings leave room for it.
        image: As in `LVLM.generate`.
        prompt: As in `LVLM.generate`.
        answer: The answer.
        model: Facts about the model to keep in the trace.
        count: Number of candidates at each token.

    Raises:
        MmhallError: As in `LVLM.trace`.
    """
    job = recipe.job(adapter, adapter.inputs([make_request(image, prompt)]))
    tokens, chosen = list(answer.token_ids), list[tuple[Candidate, ...]]()
    plain = torch.empty(0)
    if tokens:
        padded = pad_answers([tokens], job.inputs["input_ids"].device)
        with torch.inference_mode():
            plain = read_answer(adapter, adapter.append_answer(job.inputs, padded), len(tokens))[0].softmax(dim=-1)

    def keep(index: int, scores: Tensor) -> None:
        if index == len(chosen) < len(tokens):
            own = scores.float().softmax(dim=-1).to(plain)
            chosen.append(_choose(adapter, plain[index], own, tokens[index], count))

    trace = follow_tokens(job, recipe, answer, model, keep)
    unscored = (_choose(adapter, plain[index], None, tokens[index], count) for index in range(len(chosen), len(tokens)))
    return Followed(trace, (*chosen, *unscored))


def _choose(adapter: Adapter, plain: Tensor, own: Tensor | None, token: int, count: int) -> tuple[Candidate, ...]:
    """Choose candidates by their larger probability, (vocabulary,) each; `own` are the strategy's."""
    larger = plain.clone() if own is None else torch.maximum(plain, own)
    larger[token] = 2.0  # always among them
    ids = larger.topk(min(count, len(larger))).indices.tolist()
    larger[token] = plain[token] if own is None else torch.maximum(plain[token], own[token])
    return tuple(
        Candidate(
            text=adapter.tokenizer.decode([index]),
            plain=float(plain[index]),
            strategy=None if own is None else float(own[index]),
            chosen=index == token,
        )
        for index in sorted(ids, key=lambda index: -float(larger[index]))
    )
