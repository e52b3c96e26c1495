"""One batch to be decoded, with everything decided that decides what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation import BaseStreamer

from mmhall._transformers.settings import Resolved
from mmhall.adapters import Adapter, Inputs
from mmhall.attention import Op
from mmhall.errors import CompositionError, PromptError
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._prepare import PreparedBatch
from mmhall.generation._settings import Settings, make_settings
from mmhall.strategies import Session, Strategy, strategy as make_strategy


@dataclass(slots=True)
class StepScores:
    """What the steps of a chain chose from, (rows, vocabulary) float32 each, kept for who asks.

    Attributes:
        option: The option that asks for it, for a refusal.
        scores: The scores that each token was chosen from: combined, and edited by the processors; None: not asked for.
        logits: The main rows' logits; None: not asked for.
    """

    option: str
    scores: list[Tensor] | None = None
    logits: list[Tensor] | None = None

    def add(self, scores: Tensor, logits: Tensor) -> None:
        """Keep those of one step."""
        if self.scores is not None:
            self.scores.append(scores)
        if self.logits is not None:
            self.logits.append(logits.clone())

    def scores_of(self, row: int, length: int) -> Tensor:
        """Return the scores of a row's first `length` tokens, (length, vocabulary) on the CPU."""
        assert self.scores is not None
        return torch.stack([step[row] for step in self.scores])[:length].cpu()


@dataclass(frozen=True, slots=True)
class Job:
    """A batch to be decoded.

    Attributes:
        adapter: The model.
        inputs: A batch as the adapter makes it.
        session: What the strategy wishes for this batch.
        config: The generation settings in force.
        seeds: Of each prompt's draws.
        name: Of the strategy, for what goes wrong.
        streamer: Gets tokens as they are chosen; without beams, or with a search of the strategy's own, only.
        pause: Called between steps; True: stop.
        watch: Ops that look on besides what the strategy asks for.
        keep: Gets what tokens are chosen from.
        share: Read what prompts about one picture begin with once.
    """

    adapter: Adapter
    inputs: Inputs
    session: Session
    config: Resolved
    seeds: Sequence[int]
    name: str = "the model"
    streamer: BaseStreamer | None = None
    pause: Callable[[], bool] | None = None
    watch: tuple[Op, ...] = ()
    keep: StepScores | None = None
    share: bool = True


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is to answer: strategy and settings, fitted to the model once.

    Attributes:
        strategy: With a value for every option.
        origins: Where each option that was left open got its value from.
        settings: The generation settings that were asked for.
        config: Those in force.
    """

    strategy: Strategy
    origins: Mapping[str, str]
    settings: Settings
    config: Resolved

    @property
    def end_ids(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        ends = self.config.eos_token_id
        return ends if isinstance(ends, list) else [ends]

    @classmethod
    def fit(cls, adapter: Adapter, strategy: Strategy, settings: Settings) -> Recipe:
        """Fit a strategy and settings to a model.

        Raises:
            CompositionError: The model cannot carry the strategy.
            OptionError: An option or a setting does not fit the model.
        """
        config = settings.resolved(adapter.generator, strategy.beams)
        return cls(strategy.fitted(adapter), strategy.origins(adapter), settings, config)

    def job(self, adapter: Adapter, inputs: Inputs, seeds: Sequence[int] | None = None, **more: Any) -> Job:
        """Ask the strategy what it wishes for a batch.

        Args:
            adapter: The model.
            inputs: A batch as the adapter makes it.
            seeds: Of each prompt's draws; None: that of the settings.
            **more: The rest of a `Job`.

        Raises:
            PromptError: Prompt and answer exceed the model's context.
        """
        count = len(inputs["input_ids"])
        check_room(adapter, inputs, self.config)
        with torch.inference_mode():
            session = self.strategy.prepare(adapter, inputs)
        drawn = [self.settings.seed] * count if seeds is None else seeds
        return Job(adapter, inputs, session, self.config, drawn, self.strategy.name, **more)


def make_recipe(adapter: Adapter, strategy: str | Strategy, settings: Mapping[str, Any]) -> Recipe:
    """Fit a strategy, by name or built, and settings, by name, to a model; errors as in `Recipe.fit`."""
    return Recipe.fit(adapter, make_strategy(strategy), make_settings(dict(settings)))


def check_room(adapter: Adapter, inputs: Inputs, config: Resolved) -> None:
    """Refuse prompts that leave no room for an answer.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
    """
    length, limit, new = inputs["input_ids"].shape[1], adapter.context_length, config.max_new_tokens
    if length + new > limit:
        raise PromptError(
            f"{length} prompt tokens and {new} new ones exceed the model's context of {limit}; lower max_new_tokens"
        )


@dataclass(frozen=True, slots=True)
class Decoding:
    """A batch that has been read, handed to a strategy's own search.

    Attributes:
        job: The batch.
        prepared: The same, as `generate` prepared it.
        rows: The same, read, with its branches.
        reads: Reads the prompts of other inputs, with their branches, for a session.
    """

    job: Job
    prepared: PreparedBatch
    rows: DecodeBatch
    reads: Callable[[Session, Inputs], DecodeBatch]

    def open(self, inputs: Inputs, said: Tensor | None = None, session: Session | None = None) -> DecodeBatch:
        """Read other inputs while the search runs, such as crops of a picture, and what was said so far after them.

        The rows go on like any others: `scores` scores the next token, `step` feeds one. They have nothing to do with
        the rows of the batch: take those of one prompt with `adapter.picked(job.inputs, [prompt, prompt])`, and give
        each its picture with `adapter.with_pictures`. Another picture may take another number of tokens.

        Args:
            inputs: M of them, as the adapter makes them.
            said: The tokens that each goes on with, (M, tokens), read in one pass; None: none.
            session: What steers and contrasts these rows, prepared for `inputs`; None: the model alone. With a
                combination the tokens are read one after the other, since it may remember each.

        Returns:
            M rows that stand at the end of what was said.

        Raises:
            PromptError: Prompt and answer exceed the model's context.
            CompositionError: There are more or fewer rows of tokens than inputs.
        """
        count = len(inputs["input_ids"])
        if said is not None and len(said) != count:
            raise CompositionError(f"{count} inputs are opened with {len(said)} rows of tokens; give a row for each")
        check_room(self.job.adapter, inputs, self.job.config)
        rows = self.reads(Session() if session is None else session, inputs)
        if said is not None:
            rows.reread(said)
        return rows
