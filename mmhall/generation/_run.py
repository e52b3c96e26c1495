"""Decode a batch: plan its passes, read its prompts, and run the sampling loop, beam search or strategy's search."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from mmhall._transformers import caches
from mmhall._transformers.settings import ResolvedSettings, minimal_settings
from mmhall.adapters import Adapter, Inputs
from mmhall.attention import Block, Frame, Memory, Op, follow_frames
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._beams import search
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._candidates import TokenSampler, check_scores, name_in_errors
from mmhall.generation._job import Decoding, Job, check_room, rewrite_inputs
from mmhall.generation._prepare import PlannedBatch, PreparedBatch, prepare
from mmhall.generation._sampling import Answers
from mmhall.generation._shared_prefix import SharedPrefix, split_prefixes, why_whole
from mmhall.strategies import Branch, Session, Strategy
from mmhall.words import decode_answer


def run(job: Job) -> Tensor:
    """Decode a batch.

    Returns:
        New tokens, (batch x num_return_sequences, length); rows that have ended are padded.

    Raises:
        PromptError: Pictures and placeholders do not match.
        GenerationError: No token can be chosen; the message names the strategy and the step.
        CompositionError: The strategy's combination returns another shape.
        OptionError: A strategy that searches is combined with sampling, or scores are to be kept of a search.
    """
    with torch.inference_mode():
        return decode(job, _plan_main(job))


def begin(job: Job) -> Answers:
    """Read the prompts of a job without beams and search, and return its answers before their first token.

    Raises:
        PromptError: Pictures and placeholders do not match.
        GenerationError: A first score is not finite.
    """
    with torch.inference_mode(), name_in_errors(job.name):
        main = _plan_main(job)
        return _answers(job, main, prefill_batch(job.adapter, main, job.session, job.config, share=job.share))


def decode(job: Job, main: PlannedBatch) -> Tensor:
    """Decode a job whose main batch is planned; result and errors as in `run`."""
    session, config, keep = job.session, job.config, job.keep
    if session.search is not None and config.do_sample:
        raise OptionError("generation", "do_sample", True, "False with a strategy that searches")
    if keep is not None and (session.search is not None or config.num_beams > 1):
        expected = "left out with beams or a search: its steps follow several answers, and go back"
        raise OptionError("generate", keep.option, True, expected)
    with name_in_errors(job.name):
        rows = prefill_batch(job.adapter, main, session, config, share=job.share)
        if session.search is not None:
            return session.search(Decoding(job, main.prepared, rows, partial(_prefill_other, job)))
        if config.num_beams > 1:
            return search(main.prepared, rows, session.prompt_lengths, config)
        return _answers(job, main, rows).finish()


def _plan_main(job: Job) -> PlannedBatch:
    """Prepare the main batch of a job, with what ends its answers."""
    share = job.share and not why_whole(job.adapter, job.session)
    main = plan_batch(job.adapter, job.inputs, (*job.session.ops, *job.watch), job.config, share=share)
    criteria = main.prepared.criteria
    if job.pause is not None:
        criteria.append(_PauseCriterion(job.pause))
    if job.config.stop_strings:
        criteria.append(_StopStrings(job.config.stop_strings, job.adapter.tokenizer, main.prepared.length))
    return main


def _answers(job: Job, main: PlannedBatch, rows: DecodeBatch) -> Answers:
    sampler = TokenSampler(job.seeds, main.prepared.input_ids.device) if job.config.do_sample else None
    sequences = job.config.num_return_sequences or 1
    return Answers(
        main.prepared, rows, sampler, sequences, job.streamer, job.keep, hand_over=job.ended, leave=job.leave
    )


def answer_first(adapter: Adapter, inputs: Inputs, new: int, session: Session, name: str) -> Tensor:
    """Answer prompts greedily before those of a request are decoded; see `mmhall.strategies.AskingStrategy`.

    Args:
        adapter: The model.
        inputs: The prompts.
        new: Largest number of new tokens, >= 1.
        session: What to read and edit; an empty one for the plain model.
        name: Name of the strategy that asks, for error messages.

    Returns:
        New tokens, (prompts, length); rows that have ended are padded.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
    """
    config = minimal_settings(adapter.generator, new)
    check_room(adapter, inputs, config, f"have {name} ask for less before it decodes")
    return run(Job(adapter, inputs, session, config, [], name))


def end_ids(adapter: Adapter) -> list[int]:
    """Return the ids of the tokens that end an answer, by the checkpoint's own settings."""
    ends = minimal_settings(adapter.generator, 1).eos_token_id
    return [] if ends is None else ends if isinstance(ends, list) else [ends]


def first_token_scores(adapter: Adapter, inputs: Inputs, method: Strategy) -> Tensor:
    """Return a strategy's scores of the first token, before any search, (batch, vocabulary).

    Args:
        adapter: The model.
        inputs: A batch from the adapter.
        method: The strategy.

    Raises:
        GenerationError: No token can be chosen.
    """
    config = minimal_settings(adapter.generator, 1)
    with torch.inference_mode(), name_in_errors(method.name):
        method = method.fitted(adapter)
        inputs = rewrite_inputs(adapter, inputs, method)
        session = method.prepare(adapter, inputs)
        rows = prefill_batch(adapter, plan_batch(adapter, inputs, session.ops, config), session, config)
        return check_scores(rows.scores(), 0, prompts=len(inputs["input_ids"]))


def forced_logprobs(adapter: Adapter, inputs: Inputs, method: Strategy, tokens: Tensor) -> Tensor:
    """Return the log-probability of each token of given answers by a strategy, before any search, (batch, length).

    The answers are decoded token by token, as if each had been chosen; -inf: the strategy rules a token out.

    Args:
        adapter: The model.
        inputs: A batch from the adapter.
        method: The strategy.
        tokens: Token ids, (batch, length).

    Raises:
        GenerationError: The scores of a step are not finite.
    """
    config, steps = minimal_settings(adapter.generator, tokens.shape[1]), list[Tensor]()
    with torch.inference_mode(), name_in_errors(method.name):
        method = method.fitted(adapter)
        inputs = rewrite_inputs(adapter, inputs, method)
        session = method.prepare(adapter, inputs)
        rows = prefill_batch(adapter, plan_batch(adapter, inputs, session.ops, config), session, config)
        for step, chosen in enumerate(tokens.T):
            if step:
                rows.step(tokens[:, step - 1])
            logprobs = check_scores(rows.scores(), step, prompts=len(tokens)).log_softmax(dim=-1)
            steps.append(logprobs.gather(1, chosen[:, None])[:, 0])
    return torch.stack(steps, dim=1)


def prefill_batch(
    adapter: Adapter,
    main: PlannedBatch,
    session: Session,
    config: ResolvedSettings,
    *,
    share: bool = False,
    splits: bool = False,
) -> DecodeBatch:
    """Read the prompts of a batch and of its branches.

    Args:
        adapter: The model.
        main: The batch, with a plan of the session's ops.
        session: Its session.
        config: The generation settings in force.
        share: Read the shared prefixes of branches once.
        splits: Whether candidate tokens may be read in one pass, which needs a plan everywhere; true for a search.

    Raises:
        CompositionError: A branch has another number of prompts than the batch.
    """
    size = len(main.prepared.input_ids)
    others = {len(one.inputs["input_ids"]) for one in session.branches} - {size}
    if others:
        raise CompositionError(f"a branch has {min(others)} prompts beside {size} main ones; give each main prompt one")
    branches = [
        plan_batch(
            adapter,
            branch.inputs,
            branch.ops,
            config,
            share=share,
            memory=main.memory,
            number=number,
        )
        for number, branch in enumerate(session.decoded, start=1)
    ]
    if splits or session.search is not None:
        main, *branches = (replace(part, plan=part.plan or adapter.plan((), empty=True)) for part in (main, *branches))
    beside = session.reference
    references = [] if beside is None else _plan_references(adapter, beside, main, config)
    reread = None if not session.reread else 1 if adapter.can_drop_last_token else main.prepared.length
    exits = adapter.exits(session.exits) if session.exits else None
    return DecodeBatch(main, branches, session.combine, exits=exits, references=references, reread=reread)


def _plan_references(
    adapter: Adapter, beside: Branch, main: PlannedBatch, config: ResolvedSettings
) -> list[PlannedBatch]:
    """Prepare the prompts in lock step with the main ones; those of each pass over ends of prompts by themselves."""
    ask = partial(plan_batch, adapter, ops=beside.ops, config=config, empty=True, memory=main.memory)
    if main.prepared.shared is None:
        return [ask(beside.inputs)]
    parts = []
    for rows, _ in main.prepared.shared.parts():
        part = ask(adapter.picked(beside.inputs, rows.tolist()))
        padding = part.prepared.length - beside.inputs["input_ids"].shape[1]
        parts.append(replace(part, owners=rows, padding=padding))
    return parts


def _prefill_other(job: Job, session: Session, inputs: Inputs) -> DecodeBatch:
    """Read other inputs than those of a job, for its search; see `prefill_batch`."""
    main = plan_batch(job.adapter, inputs, session.ops, job.config)
    return prefill_batch(job.adapter, main, session, job.config, splits=True)


def plan_batch(
    adapter: Adapter,
    inputs: Inputs,
    ops: Sequence[Op],
    config: ResolvedSettings,
    *,
    share: bool = False,
    empty: bool = False,
    memory: Memory | None = None,
    number: int = 0,
) -> PlannedBatch:
    """Prepare a batch with the plan of its ops; its pictures may be encoded here, under that plan.

    Args:
        adapter: The model.
        inputs: The batch.
        ops: The ops of the plan.
        config: The generation settings in force.
        share: As in `prepare_inputs`.
        empty: As in `Adapter.plan`.
        memory: The memory of its rows; None: a new one.
        number: As in `PlannedBatch`.
    """
    plan, memory = adapter.plan(ops, inputs, empty=empty), Memory() if memory is None else memory
    with follow_frames(Frame((Block(plan, number=number),), memory=memory)):
        return PlannedBatch(prepare_inputs(adapter, inputs, config, ops, share=share), plan, memory, number)


def prepare_inputs(
    adapter: Adapter, inputs: Inputs, config: ResolvedSettings, ops: Sequence[Op] = (), *, share: bool = False
) -> PreparedBatch:
    """Prepare a batch for decoding, one row a prompt; with `share`, also its shared prefixes, as far as ops allow."""
    single = copy.deepcopy(config)
    single.update(num_beams=1, num_return_sequences=1, early_stopping=False, length_penalty=None, max_length=None)
    single.stop_strings = None  # `generate` needs a tokenizer for them, and passes none to a callable
    return (_prepare_shared(adapter, inputs, single, ops) if share else None) or prepare(
        adapter.model_for(inputs), inputs, single
    )


def _prepare_shared(
    adapter: Adapter, inputs: Inputs, single: ResolvedSettings, ops: Sequence[Op]
) -> PreparedBatch | None:
    """Prepare shared prefixes with their pictures, and the whole prompts as text; None: nothing is shared."""
    split = split_prefixes(adapter, inputs, ops)
    prefixes = None if split is None else prepare(adapter.model_for(split.inputs), split.inputs, single)
    if split is None or prefixes is None or not caches.can_join([prefixes.cache] * 2):
        return None
    ids = inputs["input_ids"]
    blind = {"input_ids": ids.masked_fill(adapter.placeholders(ids), adapter.pad_token_id)}
    text = prepare(adapter.model_for(blind), {**blind, "attention_mask": inputs["attention_mask"]}, single)
    return replace(text, input_ids=ids, shared=SharedPrefix(prefixes, split.of, split.rest))


class _StopStrings(StoppingCriteria):
    """Stops a row whose decoded text holds a stop string; works with any tokenizer."""

    def __init__(self, stops: Sequence[str], tokenizer: Any, prompt: int) -> None:
        self._stops, self._tokenizer, self._prompt = stops, tokenizer, prompt

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = [decode_answer(self._tokenizer, row) for row in input_ids[:, self._prompt :].tolist()]
        stopped = [any(stop in text for stop in self._stops) for text in texts]
        return torch.tensor(stopped, device=input_ids.device)


class _PauseCriterion(StoppingCriteria):
    """Calls a function between steps, and stops all rows if it returns True."""

    def __init__(self, pause: Callable[[], bool]) -> None:
        self._pause = pause

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self._pause(), device=input_ids.device)
