"""Decode one batch with one strategy: the place where session, plan and the searches meet."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria
from transformers.generation import BaseStreamer

from mmhall._transformers import caches
from mmhall._transformers.settings import Resolved, bare_settings
from mmhall.adapters.base import Adapter, Inputs
from mmhall.attention import Op
from mmhall.errors import OptionError, PromptError
from mmhall.generation.beams import search
from mmhall.generation.branches import Rows
from mmhall.generation.chain import Kept, chain
from mmhall.generation.choose import Draws, choosable, combined, naming
from mmhall.generation.prepare import Prepared, prepare
from mmhall.generation.shared import Shared, beginnings
from mmhall.strategies import Session, Strategy
from mmhall.words import decoded


def run(
    adapter: Adapter,
    inputs: Inputs,
    method: Strategy,
    config: Resolved,
    seed: int | Sequence[int],
    streamer: BaseStreamer | None = None,
    pause: Callable[[], bool] | None = None,
    watch: tuple[Op, ...] = (),
    *,
    share: bool = True,
    session: Session | None = None,
    keep: Kept | None = None,
) -> Tensor:
    """Decode a batch.

    Args:
        adapter: The model.
        inputs: A batch as the adapter makes it.
        method: The strategy.
        config: The generation settings in force.
        seed: Of each prompt's draws, or one for each.
        streamer: Gets tokens as they are chosen; without beams, or with a search of the strategy's own, only.
        pause: Called between steps; True: stop.
        watch: Ops that look at attention besides what the strategy asks for.
        share: Read what prompts about one picture begin with once.
        session: What the strategy wishes, where it was asked already.
        keep: Gets what tokens are chosen from.

    Returns:
        New tokens, (batch x num_return_sequences, length); finished rows are padded.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
        GenerationError: No token can be chosen; it names the strategy and the step.
        CompositionError: The strategy combines scores into another shape.
        OptionError: Tokens are to be drawn, or scores kept, but the strategy searches.
    """
    _check_length(adapter, inputs, config)
    with torch.inference_mode():
        session = session or method.fitted(adapter).prepare(adapter, inputs)
        steered = session.ops or session.again or session.aside is not None or watch
        main = prepared(adapter, inputs, config, share=share and not steered)
        if pause is not None:
            main.criteria.append(_Paused(pause))
        if config.stop_strings:
            main.criteria.append(_Said(config.stop_strings, adapter.tokenizer, main.input_ids.shape[1]))
        seeds = [seed] * len(main.input_ids) if isinstance(seed, int) else seed
        with naming(method):
            return decode(adapter, main, session, config, seeds, streamer, watch, share=share, keep=keep)


def _check_length(adapter: Adapter, inputs: Inputs, config: Resolved) -> None:
    prompt, limit, new = inputs["input_ids"].shape[1], adapter.context_length, config.max_new_tokens
    if prompt + new > limit:
        raise PromptError(
            f"{prompt} prompt tokens and {new} new ones exceed the model's context of {limit}; lower max_new_tokens"
        )


def decode(
    adapter: Adapter,
    main: Prepared,
    session: Session,
    config: Resolved,
    seeds: Sequence[int],
    streamer: BaseStreamer | None = None,
    watch: tuple[Op, ...] = (),
    *,
    share: bool = False,
    keep: Kept | None = None,
) -> Tensor:
    """Decode a prepared batch with a session, a seed for each prompt; else arguments and result as in `run`."""
    if session.search is not None and config.do_sample:
        raise OptionError("generation", "do_sample", True, "False with a strategy that searches")
    if keep is not None and (session.search is not None or config.num_beams > 1):
        told = "left out with beams or a search: its steps follow several answers, and go back"
        raise OptionError("generate", keep.option, True, told)
    rows = _read(adapter, main, session, config, watch, share=share)
    if session.search is not None:
        return session.search(main, rows, session, config, streamer)
    if config.num_beams > 1:
        return search(main, rows, session, config)
    draws = Draws(seeds, main.input_ids.device) if config.do_sample else None
    return chain(main, rows, session, draws, config.num_return_sequences or 1, streamer, keep)


def first(adapter: Adapter, inputs: Inputs, method: Strategy) -> Tensor:
    """Return the scores from which a strategy takes the first token, before any search, (batch, vocabulary).

    Args:
        adapter: The model.
        inputs: A batch as the adapter makes it.
        method: The strategy.

    Raises:
        GenerationError: No token can be chosen.
    """
    config = bare_settings(adapter.generator, 1)
    with torch.inference_mode():
        session = method.fitted(adapter).prepare(adapter, inputs)
        rows = _read(adapter, prepared(adapter, inputs, config), session, config)
        with naming(method):
            return choosable(combined(session, rows.logits), 0, prompts=len(inputs["input_ids"]))


def _read(
    adapter: Adapter,
    main: Prepared,
    session: Session,
    config: Resolved,
    watch: tuple[Op, ...] = (),
    *,
    share: bool = False,
) -> Rows:
    """Read the prompts of a batch and of its branches."""
    branches = [prepared(adapter, branch, config, share=share) for branch in session.branches]
    aside = prepared(adapter, session.aside, config) if session.aside is not None else None
    again = None if not session.again else 1 if adapter.forgets else main.input_ids.shape[1]
    return Rows(main, branches, adapter.plan((*session.ops, *watch)), aside, again)


def prepared(adapter: Adapter, inputs: Inputs, config: Resolved, *, share: bool = False) -> Prepared:
    """Prepare a batch for decoding, one row a prompt; with `share`, also what its prompts begin with alike."""
    single = copy.deepcopy(config)
    single.update(num_beams=1, num_return_sequences=1, early_stopping=False, length_penalty=None, max_length=None)
    single.stop_strings = None  # `generate` needs a tokenizer for them, and hands none to a callable
    return (_shared(adapter, inputs, single) if share else None) or prepare(adapter.entry(inputs), inputs, single)


def _shared(adapter: Adapter, inputs: Inputs, single: Resolved) -> Prepared | None:
    """Prepare what prompts about one picture begin with; of the whole prompts the text alone."""
    cut = beginnings(adapter, inputs)
    first = None if cut is None else prepare(adapter.model, cut.inputs, single)
    if cut is None or first is None or not caches.joinable([first.cache] * 2):
        return None
    ids = inputs["input_ids"]
    blind = {"input_ids": ids.masked_fill(adapter.placeholders(ids), adapter.pad_token_id)}
    text = prepare(adapter.model, {**blind, "attention_mask": inputs["attention_mask"]}, single)
    return replace(text, input_ids=ids, shared=Shared(first, cut.of, cut.rest))


class _Said(StoppingCriteria):
    """Stops a row whose text holds a stop string, as it is read back afterwards, whatever the tokenizer."""

    def __init__(self, stops: Sequence[str], tokenizer: Any, prompt: int) -> None:
        self._stops, self._tokenizer, self._prompt = stops, tokenizer, prompt

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = [decoded(self._tokenizer, row) for row in input_ids[:, self._prompt :].tolist()]
        found = [any(stop in text for stop in self._stops) for text in texts]
        return torch.tensor(found, device=input_ids.device)


class _Paused(StoppingCriteria):
    """Asks between steps whether to go on."""

    def __init__(self, pause: Callable[[], bool]) -> None:
        self._pause = pause

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self._pause(), device=input_ids.device)
