"""Decode one request, or follow an answer to it, and record attention to the picture and findings of the strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor

from mmhall._transformers.settings import minimal_settings
from mmhall.adapters import Adapter, Batch, has_picture
from mmhall.analysis._saliency import SaliencyProbe, mark_informative
from mmhall.analysis._score import score
from mmhall.analysis._trace import AttentionProbe, Trace, check_indices, shrink_picture
from mmhall.answers import Answer, DecodedTokens
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
    layers, heads = check_parts(adapter, layers, heads)
    with measure(adapter.device) as measured:
        job = recipe.job(adapter, adapter.inputs([make_request(image, prompt)]))
        recorded = _record(job, recipe, layers, heads)
    measured.seconds -= recorded.second_pass
    answer = build_answers(adapter, job.inputs, recorded.tokens, recipe, measured)[0]
    if uncertainty:
        answer = replace(answer, uncertainty=score(adapter, job.inputs, [answer.token_ids])[0])
    return _to_trace(job, recorded, answer, layers, heads, model)


def follow_tokens(
    job: Job,
    recipe: Recipe,
    answer: Answer,
    model: Mapping[str, str | None],
    keep: Callable[[int, Tensor], None] | None = None,
) -> Trace:
    """Trace a given answer: its tokens are followed, whatever the strategy would choose.

    Args:
        job: The request, prepared and not yet decoded.
        recipe: The strategy and settings.
        answer: The answer.
        model: As in `trace_request`.
        keep: Called for each token with its index and the strategy's scores, (vocabulary,); not for a strategy with a
            search of its own, which scores no single token.
    """
    layers, heads = check_parts(job.adapter, None, None)
    return _to_trace(job, _record(job, recipe, layers, heads, answer.token_ids, keep), answer, layers, heads, model)


def check_parts(
    adapter: Adapter, layers: Sequence[int] | None, heads: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Check layers and heads to record, and return them; None: all that attend to image tokens.

    Raises:
        OptionError: One does not exist or attends to no image token.
    """
    with_image = [layer for layer, kind in enumerate(adapter.kinds) if kind in adapter.image_kinds]
    return check_indices("layers", layers, with_image), check_indices("heads", heads, range(adapter.heads))


def _to_trace(
    job: Job,
    recorded: _Recorded,
    answer: Answer,
    layers: tuple[int, ...],
    heads: tuple[int, ...],
    model: Mapping[str, str | None],
) -> Trace:
    adapter = job.adapter
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


def _record(
    job: Job,
    recipe: Recipe,
    layers: Sequence[int],
    heads: Sequence[int],
    given: Sequence[int] | None = None,
    keep: Callable[[int, Tensor], None] | None = None,
) -> _Recorded:
    """Decode a batch of one and record attention; a search's answer is decoded a second time for it.

    Args:
        job: The batch.
        recipe: The strategy and settings.
        layers: As in `trace_request`.
        heads: As in `trace_request`.
        given: Tokens to follow; None: those that the strategy chooses.
        keep: As in `follow_tokens`.
    """
    adapter, inputs, session = job.adapter, job.inputs, job.session
    mask = adapter.image_mask(inputs["input_ids"])
    attention = AttentionProbe(adapter, mask[0].nonzero()[:, 0], layers, heads)
    words = mark_informative(adapter, inputs, adapter.query_mask(inputs))
    saliency = SaliencyProbe(frozenset(layers), mask, words, adapter.image_kinds)
    watch, second_pass = (attention, saliency) if has_picture(inputs) else (), 0.0
    if given is not None:
        tokens = torch.tensor([given])
        _force(replace(job, watch=watch), tuple(given) or (recipe.end_ids[0],), keep)
    elif job.config.num_beams > 1 or session.search is not None:
        tokens = run(job)[:1]
        start = perf_counter()
        with torch.inference_mode():
            again = recipe.strategy.prepare(adapter, inputs)  # new ops: the first ones hold state of the search
        session = replace(again, search=session.search)
        ends, stops = recipe.end_ids, job.config.stop_strings or ()
        chosen = DecodedTokens.from_row(tokens[0].tolist(), adapter.tokenizer, ends, stops).token_ids
        _force(replace(job, session=session, watch=watch), chosen or (ends[0],))
        second_pass = perf_counter() - start
    else:
        tokens = run(replace(job, watch=watch))
    findings = session.findings(len(adapter.layers))
    shifts = saliency.of(layers, adapter.image_tokens(inputs))
    return _Recorded(tokens, attention.attention(), shifts, findings, second_pass)


def _force(job: Job, tokens: Sequence[int], keep: Callable[[int, Tensor], None] | None = None) -> None:
    """Decode with teacher forcing: each new token is the given one. `keep` as in `follow_tokens`."""
    combine, keep = job.session.combine, None if job.session.search is not None else keep
    # an op may use what the combination remembers
    combines = keep is not None or any(op.remembers for op in job.session.ops) or hasattr(combine, "findings")

    def force_token(step: Step) -> Tensor:
        scores = combine(step) if combines and combine is not None else step.main
        if keep is not None:
            keep(step.t, scores[0])
        forced = torch.full_like(step.main, -torch.inf)
        forced[:, tokens[step.t]] = 0
        return forced

    branches = [branch for branch in job.session.branches if branch.lockstep or combines]
    exits = job.session.exits if combines else ()
    session = replace(job.session, search=None, branches=branches, combine=force_token, exits=exits)
    run(replace(job, session=session, config=minimal_settings(job.adapter.generator, len(tokens))))
