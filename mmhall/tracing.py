"""Decode one request and watch: what its newest rows gave to the picture, and what the strategy's ops found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from mmhall._transformers.settings import Resolved, bare_settings
from mmhall.adapters.base import Adapter, Inputs, has_picture
from mmhall.answers import Said
from mmhall.attention import Op
from mmhall.gaze import Gaze, informative
from mmhall.generation.run import run
from mmhall.strategies import Session, Strategy
from mmhall.trace import Probe


@dataclass(frozen=True, slots=True)
class Seen:
    """What a watched request showed.

    Attributes:
        rows: New tokens, (1, length), as `mmhall.generation.run.run` returns them.
        attention: (S, layers, heads, N) float32.
        shifts: Of the gaze, (layers, N) float32; see `Gaze`.
        findings: Of the strategy's ops, by name; see `Op.findings`.
        again: Seconds that reading what a search found took.
    """

    rows: Tensor
    attention: Tensor
    shifts: Tensor
    findings: dict[str, Tensor]
    again: float = 0.0


def watched(
    adapter: Adapter,
    inputs: Inputs,
    method: Strategy,
    config: Resolved,
    seed: int,
    layers: Sequence[int],
    heads: Sequence[int],
) -> Seen:
    """Decode a single request and watch.

    What a search finds is read again, token by token, with what the strategy does to attention.

    Args:
        adapter: The model.
        inputs: A batch of one.
        method: The strategy.
        config: The generation settings in force.
        seed: Of its draws.
        layers: 0-based decoder layers to watch.
        heads: 0-based heads to watch.
    """
    mask = adapter.image_mask(inputs["input_ids"])
    probe = Probe(adapter, mask[0].nonzero()[:, 0], layers, heads)
    words = informative(adapter, inputs, adapter.query_mask(inputs))
    gaze = Gaze(frozenset(layers), mask, words, adapter.image_kinds)
    watch, again = (probe, gaze) if has_picture(inputs) else (), 0.0
    with torch.inference_mode():
        session = method.fitted(adapter).prepare(adapter, inputs)
        if config.num_beams > 1 or session.search is not None:
            rows = run(adapter, inputs, method, config, seed, session=session)[:1]
            began = perf_counter()
            session = method.fitted(adapter).prepare(adapter, inputs)  # ops remember what they have seen
            _read_again(adapter, inputs, session, rows[0], config, watch)
            again = perf_counter() - began
        else:
            rows = run(adapter, inputs, method, config, seed, watch=watch, session=session)
    findings = {name: found for op in session.ops for name, found in op.findings(len(adapter.layers)).items()}
    return Seen(rows, probe.attention(), gaze.of(layers, adapter.image_tokens(inputs)), findings, again)


def _read_again(
    adapter: Adapter, inputs: Inputs, session: Session, found: Tensor, config: Resolved, watch: tuple[Op, ...]
) -> None:
    """Decode once more without searching: each token is the one that was found, (length,)."""
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    said = Said.of(found.tolist(), adapter.tokenizer, ends, config.stop_strings or ()).token_ids or (ends[0],)
    tokens = iter(said)

    def told(main: Tensor) -> Tensor:
        scores = torch.full_like(main, -torch.inf)
        scores[:, next(tokens)] = 0
        return scores

    telling = replace(session, search=None, branches=(), combine=told)
    run(adapter, inputs, Strategy(), bare_settings(adapter.generator, len(said)), 0, watch=watch, session=telling)
