"""The decoding loop of sessions with branches: greedy and sampling, one draw for all rows.

It is handed to `generate` as `custom_generate`, so that prompts, processors, stopping criteria and
defaults are prepared by transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from mmhall.errors import GenerationError
from mmhall.generation.branches import join, prefill, prepared_by_generate, step
from mmhall.strategies import Session

_FLOOR = -1e9  # a beam's score must stay finite: -inf would kill the whole hypothesis


class FiniteGuard(LogitsProcessor):
    """Refuse scores that no token can be chosen from; argmax over NaN would quietly return token 0."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores unchanged.

        Raises:
            GenerationError: A row holds NaN, or nothing but -inf.
        """
        top = scores.amax(dim=-1)
        if not torch.isfinite(top).all():
            what = "NaN" if torch.isnan(scores).any() else "nothing above -inf"
            raise GenerationError(
                f"the next-token scores hold {what}; try another dtype (float32, bfloat16) or weaker strategy options"
            )
        return scores


class StackedContrast(LogitsProcessor):
    """Combine stacked rows under transformers' beam search: every copy gets the same scores."""

    def __init__(self, session: Session) -> None:
        """Remember how the rows combine."""
        self._session = session

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return combined log-probabilities, repeated for each branch, (rows, vocabulary)."""
        copies = 1 + len(self._session.branches)
        combined = combine(self._session, scores, copies).log_softmax(dim=-1)
        return combined.clamp_min(_FLOOR).repeat(copies, 1)


def combine(session: Session, logits: Tensor, copies: int) -> Tensor:
    """Combine the rows of all branches into the main rows' scores.

    Args:
        session: Says how.
        logits: Logits or log-probabilities, (copies x batch, vocabulary).
        copies: The main inputs and the branches.

    Returns:
        (batch, vocabulary); the main rows' own log-probabilities where the session combines nothing.
    """
    rows = logits.log_softmax(dim=-1).chunk(copies)
    return session.combine(*rows) if session.combine is not None else rows[0]


def decode(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    streamer: BaseStreamer | None = None,
    *,
    session: Session,
    **model_kwargs: Any,
) -> Tensor:
    """Decode the main rows with the session's branches beside them.

    Returns:
        Prompt and new tokens of the main rows, (batch, position); finished rows are padded.
    """
    others = [prepared_by_generate(model, branch, generation_config) for branch in session.branches]
    state = join([prefill(model, ids, kwargs) for ids, kwargs in ((input_ids, model_kwargs), *others)])
    copies = 1 + len(others)
    pad = generation_config._pad_token_tensor
    if streamer is not None:
        streamer.put(input_ids.cpu())
    going = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
    while True:
        # back on the scale of the model's logits: a repetition penalty is not invariant to a constant
        level = state.logits[: len(input_ids)].logsumexp(dim=-1, keepdim=True)
        scores = logits_processor(input_ids, combine(session, state.logits, copies) + level)
        if generation_config.do_sample:
            chosen = torch.multinomial(scores.softmax(dim=-1), 1)[:, 0]
        else:
            chosen = scores.argmax(dim=-1)
        if pad is not None:
            chosen = torch.where(going, chosen, pad.to(chosen.device))
        input_ids = torch.cat([input_ids, chosen[:, None]], dim=1)
        if streamer is not None:
            streamer.put(chosen.cpu())
        going &= ~stopping_criteria(input_ids, scores)
        if not going.any():
            break
        step(model, state, chosen.repeat(copies))
    if streamer is not None:
        streamer.end()
    return input_ids
