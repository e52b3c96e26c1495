"""Decode batches in tests, from a strategy or a session and settings in force."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from mmhall._transformers.settings import ResolvedSettings
from mmhall.adapters._base import Adapter, Inputs
from mmhall.attention import Op
from mmhall.generation import _run as running
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._job import Decoding, Job, rewrite_inputs
from mmhall.strategies import Session, Strategy


def run(
    adapter: Adapter,
    inputs: Inputs,
    method: Strategy,
    config: ResolvedSettings,
    seed: int | Sequence[int] = 0,
    streamer=None,
    **more,
) -> Tensor:
    """Decode a batch with a strategy, as an `LVLM` does."""
    inputs, session = prepared(adapter, inputs, method)
    seeds = [seed] * len(inputs["input_ids"]) if isinstance(seed, int) else seed
    return running.run(Job(adapter, inputs, session, config, seeds, method.name, streamer=streamer, **more))


def prepared(adapter: Adapter, inputs: Inputs, method: Strategy) -> tuple[Inputs, Session]:
    """Return the inputs that a strategy decodes instead of some, and its session for them."""
    method = method.fitted(adapter)
    inputs = rewrite_inputs(adapter, inputs, method)
    with torch.inference_mode():
        return inputs, method.prepare(adapter, inputs)


def decode(
    adapter: Adapter, inputs: Inputs, session: Session, config: ResolvedSettings, seeds: Sequence[int] = (), **more
) -> Tensor:
    """Decode a batch with a session; what its prompts have in common is not shared."""
    return running.run(Job(adapter, inputs, session, config, seeds, share=False, **more))


def opened(
    adapter: Adapter, inputs: Inputs, session: Session, config: ResolvedSettings, watch: Sequence[Op] = ()
) -> tuple[Decoding, DecodeBatch]:
    """Read a batch and its branches, ready for a search."""
    main = running.plan_batch(adapter, inputs, (*watch, *session.ops), config)
    rows = running.prefill_batch(adapter, main, session, config)
    job = Job(adapter, inputs, session, config, [])
    return Decoding(job, main.prepared, rows, partial(running._prefill_other, job)), rows
