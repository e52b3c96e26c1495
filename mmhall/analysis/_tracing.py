"""Decode one request and watch: what its newest rows gave to the picture, and what the strategy's ops found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from mmhall._transformers.settings import bare_settings
from mmhall.adapters import has_picture
from mmhall.analysis._saliency import SaliencyProbe, mark_informative
from mmhall.analysis._trace import AttentionProbe
from mmhall.answers import DecodedTokens
from mmhall.attention import Drop
from mmhall.errors import CompositionError
from mmhall.generation import Job, run
from mmhall.strategies import Step, Strategy


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """What a watched request showed.

    Attributes:
        rows: New tokens, (1, length), as `mmhall.generation.run` returns them.
        attention: (S, layers, heads, N) float32.
        shifts: Of the gaze, (layers, N) float32; see `SaliencyProbe`.
        findings: Of the strategy's ops, by name; see `Op.findings`.
        again: Seconds that reading what a search found took.
    """

    rows: Tensor
    attention: Tensor
    shifts: Tensor
    findings: dict[str, Tensor]
    again: float = 0.0


def trace_request(job: Job, strategy: Strategy, layers: Sequence[int], heads: Sequence[int]) -> TracedRequest:
    """Decode a single request and watch.

    What a search finds is read again, token by token, with what the strategy does to attention.

    Args:
        job: A batch of one.
        strategy: What it is decoded with.
        layers: 0-based decoder layers to watch.
        heads: 0-based heads to watch.
    """
    adapter, inputs, session = job.adapter, job.inputs, job.session
    if any(isinstance(op, Drop) and not op.empty for op in session.ops):
        raise CompositionError(
            f"{strategy.name}: drops tokens of the prompt, and a trace shows attention to all of them; trace another "
            "strategy"
        )
    mask = adapter.image_mask(inputs["input_ids"])
    probe = AttentionProbe(adapter, mask[0].nonzero()[:, 0], layers, heads)
    words = mark_informative(adapter, inputs, adapter.query_mask(inputs))
    gaze = SaliencyProbe(frozenset(layers), mask, words, adapter.image_kinds)
    watch, again = (probe, gaze) if has_picture(inputs) else (), 0.0
    if job.config.num_beams > 1 or session.search is not None:
        rows = run(job)[:1]
        began = perf_counter()
        with torch.inference_mode():
            session = strategy.prepare(adapter, inputs)  # ops remember what they have seen
        _read_again(replace(job, session=session, watch=watch), rows[0])
        again = perf_counter() - began
    else:
        rows = run(replace(job, watch=watch))
    findings = {name: found for op in session.ops for name, found in op.findings(len(adapter.layers)).items()}
    return TracedRequest(rows, probe.attention(), gaze.of(layers, adapter.image_tokens(inputs)), findings, again)


def _read_again(job: Job, found: Tensor) -> None:
    """Decode once more without searching: each token is the one that was found, (length,)."""
    config = job.config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    said = DecodedTokens.from_row(found.tolist(), job.adapter.tokenizer, ends, config.stop_strings or ()).token_ids or (
        ends[0],
    )

    remembers = any(op.remembers for op in job.session.ops) and job.session.combine is not None

    def told(step: Step) -> Tensor:
        if remembers and job.session.combine is not None:
            job.session.combine(step)  # an op may use what the combination remembers
        scores = torch.full_like(step.main, -torch.inf)
        scores[:, said[step.t]] = 0
        return scores

    branches = [branch for branch in job.session.branches if branch.lockstep or remembers]
    exits = job.session.exits if remembers else ()
    session = replace(job.session, search=None, branches=branches, combine=told, exits=exits)
    run(replace(job, session=session, config=bare_settings(job.adapter.generator, len(said))))
