"""The batch to decode, with all settings that its answers depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.generation import BaseStreamer

from mmhall._transformers.settings import ResolvedSettings
from mmhall.adapters import Adapter, Batch, Inputs
from mmhall.attention import Op
from mmhall.errors import CompositionError, PromptError
from mmhall.generation._branches import DecodeBatch
from mmhall.generation._prepare import PreparedBatch
from mmhall.generation._settings import Settings, make_settings
from mmhall.strategies import Session, Strategy, ask_first, strategy as make_strategy


@dataclass(slots=True)
class StepScores:
    """The scores and logits of each decoding step, (rows, vocabulary) float32 each, if asked for.

    Attributes:
        option: The option that asks for them, for error messages.
        scores: The scores that each token was chosen from, combined and processed; None: not asked for.
        logits: The main rows' logits; None: not asked for.
        steps: Number of steps to keep, from the first; None: all.
    """

    option: str
    scores: list[Tensor] | None = None
    logits: list[Tensor] | None = None
    steps: int | None = None
    _answers: list[Tensor] = field(default_factory=list)

    def add(self, scores: Tensor, logits: Tensor, answers: Tensor) -> None:
        """Add those of one step, with the 0-based answer of each row, (rows,)."""
        if self.scores is not None and (self.steps is None or len(self.scores) < self.steps):
            self.scores.append(scores)
            self._answers.append(answers)
        if self.logits is not None:
            self.logits.append(logits.clone())

    def scores_of(self, answer: int, length: int) -> Tensor:
        """Return the scores of the first `length` tokens of an answer, (length, vocabulary) on the CPU."""
        assert self.scores is not None
        steps = list(zip(self.scores, self._answers, strict=True))[:length]
        own = [step[answers == answer] for step, answers in steps]
        return torch.cat(own).cpu() if own else self.scores[0][:0].cpu()


@dataclass(frozen=True, slots=True)
class Job:
    """A batch to be decoded.

    Attributes:
        adapter: The model.
        inputs: A batch from the adapter.
        session: The strategy's session for this batch.
        config: The generation settings in force.
        seeds: Seed of each prompt's draws.
        name: The strategy's name, for error messages.
        streamer: Gets tokens as they are chosen; not in a beam search.
        pause: Called between steps; returns True to stop.
        watch: Ops that only read, besides the session's.
        keep: Gets the scores of each step.
        share: Read the shared prefix of prompts about one picture once.
        ended: Called with the number of an answer and its new tokens as soon as it has ended; not in a search.
        leave: Rows that have ended leave the batch where strategy and settings allow it; else they are decoded on.
    """

    adapter: Adapter
    inputs: Inputs
    session: Session
    config: ResolvedSettings
    seeds: Sequence[int]
    name: str = "the model"
    streamer: BaseStreamer | None = None
    pause: Callable[[], bool] | None = None
    watch: tuple[Op, ...] = ()
    keep: StepScores | None = None
    share: bool = True
    ended: Callable[[int, list[int]], None] | None = None
    leave: bool = True

    @property
    def rows_a_prompt(self) -> int:
        """Number of rows that each prompt is decoded in: answers or beams, in each branch; of a search the most."""
        answers = self.config.num_beams if self.config.num_beams > 1 else self.config.num_return_sequences or 1
        return answers * (1 + len(self.session.decoded)) * self.session.rows_a_beam

    @property
    def length(self) -> int:
        """Number of positions of the longest prompt, of the batch or of a branch."""
        every = (self.inputs, *(branch.inputs for branch in self.session.decoded))
        return max(int(inputs["input_ids"].shape[1]) for inputs in every)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A strategy and generation settings, fitted to a model.

    Attributes:
        strategy: The strategy with a value for every option.
        origins: The provenance of each option that was left open.
        settings: The generation settings as given.
        config: The generation settings in force.
    """

    strategy: Strategy
    origins: Mapping[str, str]
    settings: Settings
    config: ResolvedSettings

    @property
    def end_ids(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        ends = self.config.eos_token_id
        return ends if isinstance(ends, list) else [ends]

    @classmethod
    def fit(cls, adapter: Adapter, strategy: Strategy, settings: Settings) -> Recipe:
        """Fit a strategy and settings to a model.

        Raises:
            CompositionError: The model does not support the strategy.
            OptionError: An option or a setting does not fit the model.
        """
        config = settings.resolved(adapter.generator, strategy.beams)
        return cls(strategy.fitted(adapter), strategy.origins(adapter), settings, config)

    def job(self, adapter: Adapter, inputs: Inputs, seeds: Sequence[int] | None = None, **more: Any) -> Job:
        """Prepare the strategy's session for a batch; a strategy that rewrites requests gets the rewritten batch.

        Args:
            adapter: The model.
            inputs: A batch from the adapter. The job's own may hold other prompts.
            seeds: Seed of each prompt's draws; None: that of the settings.
            **more: Further attributes of the `Job`.

        Raises:
            PromptError: Prompt and answer exceed the model's context, or those of a branch that is decoded.
        """
        given, inputs = inputs, rewrite_inputs(adapter, inputs, self.strategy)
        count = len(inputs["input_ids"])
        shorter = "" if inputs is given else f", or have {self.strategy.name} write less into the prompt"
        check_room(adapter, inputs, self.config, f"lower max_new_tokens{shorter}")
        with torch.inference_mode():
            session = self.strategy.prepare(adapter, inputs)
        way = f"lower max_new_tokens, or shorten what {self.strategy.name} reads beside the prompt"
        for branch in session.decoded:
            check_room(adapter, branch.inputs, self.config, way)
        seeds = [self.settings.seed] * count if seeds is None else seeds
        return Job(adapter, inputs, session, self.config, seeds, self.strategy.name, **more)


def make_recipe(adapter: Adapter, strategy: str | Strategy, settings: Mapping[str, Any]) -> Recipe:
    """Fit a strategy and settings by name to a model; errors as in `Recipe.fit` and `make_settings`."""
    return Recipe.fit(adapter, make_strategy(strategy), make_settings(dict(settings)))


def rewrite_inputs(adapter: Adapter, inputs: Inputs, strategy: Strategy) -> Inputs:
    """Return the inputs of the requests that a strategy asks instead; the same inputs if it asks the same requests.

    A strategy that asks the model something first does so here; see `AskingStrategy`.

    Args:
        adapter: The model.
        inputs: A batch. Inputs from elsewhere hold no requests and are returned as they are.
        strategy: The strategy.
    """
    if not isinstance(inputs, Batch):
        return inputs
    requests = [strategy.rewrite(request) for request in inputs.requests]
    same = all(one is other for one, other in zip(requests, inputs.requests, strict=True))
    return ask_first(adapter, inputs if same else adapter.inputs(requests), strategy)


def check_room(adapter: Adapter, inputs: Inputs, config: ResolvedSettings, way: str = "lower max_new_tokens") -> None:
    """Raise an error if prompts leave no room for an answer.

    Args:
        adapter: The model.
        inputs: The prompts.
        config: The generation settings in force.
        way: What the user can do.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
    """
    length, limit, new = inputs["input_ids"].shape[1], adapter.context_length, config.max_new_tokens
    if length + new > limit:
        raise PromptError(f"{length} prompt tokens and {new} new ones exceed the model's context of {limit}; {way}")


@dataclass(frozen=True, slots=True)
class Decoding:
    """A batch whose prompts have been read, for a strategy's own search.

    Attributes:
        job: The batch.
        prepared: The batch as `generate` prepared it.
        rows: The main rows and their branches, after their prompts.
        reads: Reads the prompts of other inputs and their branches, for a session.
    """

    job: Job
    prepared: PreparedBatch
    rows: DecodeBatch
    reads: Callable[[Session, Inputs], DecodeBatch]

    def open(self, inputs: Inputs, said: Tensor | None = None, session: Session | None = None) -> DecodeBatch:
        """Read other inputs during the search, such as crops of a picture, followed by the tokens so far.

        The new rows are independent of the batch's: `scores` scores the next token, `step` feeds one. Build the inputs
        of one prompt with `adapter.picked(job.inputs, [prompt, prompt])`, and give each its picture with
        `adapter.with_pictures`. Another picture may take another number of tokens.

        Args:
            inputs: M inputs from the adapter.
            said: The tokens that continue each, (M, tokens), read in one pass; None: none.
            session: The session of these rows, prepared for `inputs`; None: the model alone. With a combination the
                tokens are read one by one, since it may store something about each.

        Returns:
            M rows at the end of these tokens.

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
