"""The log-probability of given answers to a prompt, by the plain model or a strategy's first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Protocol

import torch
from torch import Tensor

from mmhall._transformers.settings import checkpoint_settings, minimal_settings
from mmhall.adapters import Adapter, Inputs
from mmhall.errors import OptionError, PromptError
from mmhall.generation import (
    DecodeState,
    PlannedBatch,
    check_scores,
    first_token_scores,
    name_in_errors,
    prefill,
    prepare,
)
from mmhall.strategies import Strategy

SCORINGS = ("auto", "labels", "strings", "compat")
YES_NO_TOP, TOP = 10, 100
COMPAT_TEMPERATURE = 0.2  # as in the authors' scripts


class Scorer(Protocol):
    """Scores the same choices for any batch of prompts."""

    @property
    def method(self) -> str:
        """The name of the method."""

    def __call__(self, adapter: Adapter, inputs: Inputs) -> Tensor:
        """Return log-probabilities in nats over the temperature, (batch, choices) float64; -inf: not scored."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Scores choices that are single tokens, in any case and with any white space, by one next-token distribution.

    Attributes:
        tokens: Ids of each choice's spellings.
        top: Score only spellings among so many likeliest tokens, the likeliest for each choice; None: add all
            spellings.
        strategy: Use the scores of its first token; None: the plain model's.
        temperature: Divides log-probabilities; with `top` those of all tokens, which are then normalised again.
    """

    tokens: tuple[tuple[int, ...], ...]
    top: int | None = None
    strategy: Strategy | None = None
    temperature: float = 1.0

    @property
    def method(self) -> str:
        """The name of the method."""
        return "labels" if self.top is None else "compat"

    def __call__(self, adapter: Adapter, inputs: Inputs) -> Tensor:
        """Return log-probabilities over the temperature, (batch, choices) float64 on the CPU; -inf: not in the top."""
        with torch.inference_mode():
            if self.strategy is None:
                logprobs = _next(_start(adapter, inputs, 1), 0, len(inputs["input_ids"]))
            else:
                logprobs = first_token_scores(adapter, inputs, self.strategy).log_softmax(dim=-1)
            if self.top is not None:
                logprobs = (logprobs / self.temperature).log_softmax(dim=-1)
                best = logprobs.topk(min(self.top, logprobs.shape[-1]))
                logprobs = torch.full_like(logprobs, -torch.inf).scatter(-1, best.indices, best.values)
            spelled = [logprobs[:, list(ids)].cpu().double() for ids in self.tokens]
            if self.top is not None:
                return torch.stack([part.amax(dim=-1) for part in spelled], dim=-1)
            return torch.stack([part.logsumexp(dim=-1) for part in spelled], dim=-1) / self.temperature


@dataclass(frozen=True, slots=True)
class Strings:
    """Scores choices as texts, read token by token after the prompt, which is read once for all of them.

    Attributes:
        tokens: Ids of each spelling of each choice.
        ends: Ids of end marks that must follow a choice; empty: anything may follow.
        temperature: Divides log-probabilities.
    """

    tokens: tuple[tuple[tuple[int, ...], ...], ...]
    ends: tuple[int, ...] = ()
    temperature: float = 1.0

    @property
    def method(self) -> str:
        """The name of the method."""
        return "strings" if not self.ends else "strings to their end"

    def __call__(self, adapter: Adapter, inputs: Inputs) -> Tensor:
        """Return log-probabilities in nats over the temperature, (batch, choices) float64 on the CPU."""
        spelled = [ids for spellings in self.tokens for ids in spellings]
        prompts, device = len(inputs["input_ids"]), adapter.device
        lengths = torch.tensor([len(ids) for ids in spelled]).repeat(prompts)
        steps = int(lengths.max()) + bool(self.ends)
        padded = [[*ids, *[adapter.pad_token_id] * (steps - len(ids))] for ids in spelled]
        tokens = torch.tensor(padded, device=device).repeat(prompts, 1)  # (prompts x spellings, steps)
        with torch.inference_mode():
            state = _start(adapter, inputs, steps)
            state.select([torch.arange(prompts, device=device).repeat_interleave(len(spelled))])
            total = torch.zeros(len(tokens), dtype=torch.float64)
            for step in range(steps):
                logprobs = _next(state, step, prompts)
                total += logprobs.gather(1, tokens[:, step : step + 1])[:, 0].cpu().where(lengths > step, 0)
                if self.ends:
                    total += logprobs[:, list(self.ends)].logsumexp(dim=-1).cpu().where(lengths == step, 0)
                if step + 1 < steps:
                    state.read(tokens[:, step : step + 1])
            parts = total.view(prompts, -1).split([len(spellings) for spellings in self.tokens], dim=1)
            return torch.stack([part.logsumexp(dim=1) for part in parts], dim=1) / self.temperature


def make_scorer(adapter: Adapter, choices: Sequence[str], scoring: str, temperature: float = 1.0) -> Scorer:
    """Return the scorer of choices.

    Args:
        adapter: The model.
        choices: Distinct texts.
        scoring: "labels", "strings", "compat", or "auto": labels where the choices differ in their first token.
        temperature: Divides log-probabilities, > 0.

    Raises:
        OptionError: `scoring` needs labels, and the choices are none.
        PromptError: The tokenizer cannot write a choice.
    """
    if scoring != "strings":
        spelled = [tuple(adapter.spellings.get(choice.strip().lower(), ())) for choice in choices]
        if all(spelled) and len(set(spelled)) == len(choices):
            if scoring != "compat":
                return Labels(tuple(spelled), temperature=temperature)
            top = YES_NO_TOP if _are_yes_and_no(choices) else TOP
            return Labels(tuple(spelled), top, temperature=temperature)
        if scoring != "auto":
            unspelled = [choice for choice, ids in zip(choices, spelled, strict=True) if not ids]
            what = f"no token of this model spells {unspelled[0]!r}" if unspelled else "some differ in nothing but case"
            raise OptionError("choose", "scoring", scoring, f'"strings" or "auto" for these choices ({what})')
    texts = tuple(_spellings(adapter, choice.strip()) for choice in choices)
    has_prefix = any(
        longer[: len(shorter)] == shorter
        for one, other in permutations(texts, 2)
        for shorter, longer in product(one, other)
    )
    return Strings(texts, _ends(adapter) if has_prefix else (), temperature)


def _are_yes_and_no(choices: Sequence[str]) -> bool:
    return {choice.strip().lower() for choice in choices} == {"yes", "no"}


def _spellings(adapter: Adapter, choice: str) -> tuple[tuple[int, ...], ...]:
    """Tokenise a text with a small and a capital first letter, with and without a space before it."""
    tokenizer, spellings = adapter.tokenizer, dict[tuple[int, ...], None]()
    for text in (choice, choice[0].upper() + choice[1:], choice[0].lower() + choice[1:]):
        for before in ("", " "):
            ids = tokenizer(before + text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            if ids and tokenizer.unk_token_id not in ids:
                spellings[tuple(ids)] = None
    if not spellings:
        raise PromptError(f"the model's tokenizer has no tokens for all of the choice {choice!r}; write it differently")
    return tuple(spellings)


def _ends(adapter: Adapter) -> tuple[int, ...]:
    ends = checkpoint_settings(adapter.generator).get("eos_token_id")
    return () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)


def _start(adapter: Adapter, inputs: Inputs, new: int) -> DecodeState:
    """Read a batch of prompts, to be followed by `new` tokens."""
    prompt, limit = inputs["input_ids"].shape[1], adapter.context_length
    if prompt + new > limit:
        raise PromptError(f"{prompt} prompt tokens and {new} of the choices exceed the model's context of {limit}")
    return prefill(PlannedBatch(prepare(adapter.model_for(inputs), inputs, minimal_settings(adapter.generator, new))))


def _next(state: DecodeState, step: int, prompts: int) -> Tensor:
    """Return next-token log-probabilities, (rows, vocabulary) float32; see `check_scores`."""
    with name_in_errors():
        return check_scores(state.logits, step, prompts=prompts).log_softmax(dim=-1)
