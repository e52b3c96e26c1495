"""Decode one request and record its attention to the picture, and the findings of the strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from mmhall._transformers.settings import minimal_settings
from mmhall.adapters import Adapter, Batch, has_picture
from mmhall.analysis._saliency import SaliencyProbe, mark_informative
from mmhall.analysis._score import score
from mmhall.analysis._trace import AttentionProbe, Trace, check_indices, shrink_picture
from mmhall.answers import DecodedTokens
from mmhall.errors import OptionError
from mmhall.generation import Images, Job, Prompt, Recipe, build_answers, make_request, measure, run
from mmhall.strategies import Step
from mmhall.words import split_words


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What was recorded while a request was decoded.

    Attributes:
        tokens: New tokens, (1, length), as `mmhall.generation.run` returns them.
        attention: (S, layers, heads, N) float32.
        shifts: Attention shifts, (layers, N) float32; see `SaliencyProbe`.
        findings: The findings of the strategy, by name; see `Session.findings`.
        second_pass: Seconds that the second pass over a search's answer took; 0 without one.
    """

    tokens: Tensor
    attention: Tensor
    shifts: Tensor
    findings: dict[str, Tensor]
    second_pass: float = 0.0


def trace_request(
    adapter: Adapter,
    recipe: Recipe,
    image: Images,
    prompt: Prompt,
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    model: Mapping[str, str | None],
    *,
    uncertainty: bool = False,
) -> Trace:
    """Decode a request and return its answer with the attention recorded on the way.

    Args:
        adapter: The model.
        recipe: The strategy and settings, fitted to the model; one sequence.
        image: As in `LVLM.generate`.
        prompt: As in `LVLM.generate`.
        layers: 0-based decoder layers to record; None: all that attend to image tokens.
        heads: 0-based heads to record; None: all.
        model: Facts about the model to keep in the trace.
        uncertainty: Whether to score the answer as in `LVLM.generate`.

    Raises:
        OptionError: A layer or head does not exist or attends to no image token; several sequences.
        MmhallError: As in `mmhall.generation.run`.
    """
    sequences = recipe.settings.num_return_sequences
    if sequences > 1:
        raise OptionError("trace", "num_return_sequences", sequences, "1: a trace follows one sequence")
    with_image = [layer for layer, kind in enumerate(adapter.kinds) if kind in adapter.image_kinds]
    layers, heads = check_indices("layers", layers, with_image), check_indices("heads", heads, range(adapter.heads))
    with measure(adapter.device) as measured:
        job = recipe.job(adapter, adapter.inputs([make_request(image, prompt)]))
        recorded = _record(job, recipe, layers, heads)
    measured.seconds -= recorded.second_pass
    answer = build_answers(adapter, job.inputs, recorded.tokens, recipe, measured)[0]
    if uncertainty:
        answer = replace(answer, uncertainty=score(adapter, job.inputs, [answer.token_ids])[0])
    assert isinstance(job.inputs, Batch)
    (request,) = job.inputs.requests
    length = len(answer.token_ids)
    return Trace(
        answer=answer,
        prompt=str(request.conversation),
        image_attention=(
            recorded.attention[:length] if request.images else torch.zeros(length, len(layers), len(heads), 0)
        ),
        gaze=recorded.shifts,
        layers=layers,
        heads=heads,
        grid=adapter.places(request, job.inputs),
        words=split_words(adapter.tokenizer, answer.token_ids),
        pictures=tuple(map(shrink_picture, request.images)),
        model=dict(model),
        findings={name: part[:length] if part.ndim == 3 else part for name, part in recorded.findings.items()},
        notes=dict(job.session.notes),
    )


def _record(job: Job, recipe: Recipe, layers: Sequence[int], heads: Sequence[int]) -> _Recorded:
    """Decode a batch of one and record attention; a search's answer is decoded a second time for it."""
    adapter, inputs, session = job.adapter, job.inputs, job.session
    mask = adapter.image_mask(inputs["input_ids"])
    attention = AttentionProbe(adapter, mask[0].nonzero()[:, 0], layers, heads)
    words = mark_informative(adapter, inputs, adapter.query_mask(inputs))
    saliency = SaliencyProbe(frozenset(layers), mask, words, adapter.image_kinds)
    watch, second_pass = (attention, saliency) if has_picture(inputs) else (), 0.0
    if job.config.num_beams > 1 or session.search is not None:
        tokens = run(job)[:1]
        start = perf_counter()
        with torch.inference_mode():
            again = recipe.strategy.prepare(adapter, inputs)  # new ops: the first ones hold state of the search
        session = replace(again, search=session.search)
        _decode_again(replace(job, session=session, watch=watch), tokens[0], recipe)
        second_pass = perf_counter() - start
    else:
        tokens = run(replace(job, watch=watch))
    findings = session.findings(len(adapter.layers))
    shifts = saliency.of(layers, adapter.image_tokens(inputs))
    return _Recorded(tokens, attention.attention(), shifts, findings, second_pass)


def _decode_again(job: Job, tokens: Tensor, recipe: Recipe) -> None:
    """Decode with teacher forcing: each new token is that of the search's answer, (length,)."""
    ends, stops = recipe.end_ids, job.config.stop_strings or ()
    forced = DecodedTokens.from_row(tokens.tolist(), job.adapter.tokenizer, ends, stops).token_ids or (ends[0],)
    combine = job.session.combine
    # an op may use what the combination remembers
    combines = any(op.remembers for op in job.session.ops) or hasattr(combine, "findings")

    def force_token(step: Step) -> Tensor:
        if combines and combine is not None:
            combine(step)
        scores = torch.full_like(step.main, -torch.inf)
        scores[:, forced[step.t]] = 0
        return scores

    branches = [branch for branch in job.session.branches if branch.lockstep or combines]
    exits = job.session.exits if combines else ()
    session = replace(job.session, search=None, branches=branches, combine=force_token, exits=exits)
    run(replace(job, session=session, config=minimal_settings(job.adapter.generator, len(forced))))
