"""Answers of a model, with their cost, uncertainty and settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmhall.text import shorten
from mmhall.words import decode_answer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of an answer.

    Attributes:
        seconds: Wall time; in a batch, an equal share.
        prompt_tokens: Tokens of the prompt, image tokens included.
        new_tokens: New tokens, the end mark included.
        peak_bytes: Largest GPU memory allocated meanwhile; None on a CPU, and for a stream.
        prompt_reads: Prompt positions computed by the decoder, of all branches, padding included; in a batch, an equal
            share. 0: not counted, as for a trace and a choice.
        passes: Passes of the decoder that read tokens of answers; in a batch, all of its passes.
        rows: Answer positions computed in these passes, of all branches and beams; in a batch, an equal share.
        longest: New tokens of the longest answer of its batch, its own included; 0: not counted.
    """

    seconds: float
    prompt_tokens: int
    new_tokens: int
    peak_bytes: int | None
    prompt_reads: float = 0.0
    passes: int = 0
    rows: float = 0.0
    longest: int = 0

    def __repr__(self) -> str:
        """Return time, tokens, and answer positions for each new token, on one line."""
        cost = f"{self.seconds:.2f} s, {self.prompt_tokens} + {self.new_tokens} tokens"
        cost += f", {self.rows:.0f} rows" if self.rows else ""
        return f"Usage({cost}{'' if self.peak_bytes is None else f', {self.peak_bytes / 1e9:.1f} GB'})"


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """The plain model's certainty of each token of an answer, and the influence of the picture on it.

    All figures are those of the model without a strategy, so that answers of different strategies can be compared.

    Attributes:
        logprobs: Log-probability of each token, in nats.
        entropies: Entropy of the distribution it was chosen from, in nats.
        image_gains: Log-probability with the picture minus that without; None without a picture.
        image_shares: Share of attention on the picture when the token is predicted, mean over layers and heads; None
            without a picture, and where layers of their own attend to it (Mllama).
        image_divergences: Jensen-Shannon divergence of the distributions with and without the picture, in nats, from 0
            to ln 2; None without a picture.
    """

    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    image_gains: tuple[float, ...] | None
    image_shares: tuple[float, ...] | None
    image_divergences: tuple[float, ...] | None = None

    def __repr__(self) -> str:
        """Return the number of tokens and their means, on one line."""
        figures = {"log-probability": self.logprobs, "entropy": self.entropies, "image gain": self.image_gains}
        means = [f"{name} {sum(values) / len(values):.2f}" for name, values in figures.items() if values]
        return f"Uncertainty({', '.join([f'{len(self.logprobs)} tokens', *means])})"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        text: The answer, without a stop string; with the marks of a reasoning model's thoughts.
        tokens: Its tokens as text, without the end mark.
        token_ids: The ids of `tokens`.
        stopped_by: "eos", "stop" (a stop string), "length", or "stopped" (a stream was left early).
        strategy: The strategy with all options in force, as `mmhall.strategy` reads it.
        settings: Generation settings in force, by name.
        usage: Its cost.
        origins: Provenance of each option that was left open, by option; in a composition "vhr.layers".
        uncertainty: The plain model's certainty of each token, if asked for.
        others: Further answers, if several were asked for.
        scores: The scores that each token was chosen from, (tokens, vocabulary) float32 on the CPU, if asked for: the
            strategy's, after penalties and the cut-offs of sampling (-inf).
    """

    text: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    stopped_by: str
    strategy: str
    settings: dict[str, Any]
    usage: Usage
    origins: dict[str, str] = field(default_factory=dict)
    uncertainty: Uncertainty | None = None
    others: tuple[Answer, ...] = ()
    scores: Tensor | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        """Return the beginning of the text, the strategy, and how the answer ended, on one line."""
        ended = f"{len(self.token_ids)} tokens, {self.stopped_by}"
        return f"Answer({shorten(self.text, 44)!r}, {shorten(self.strategy, 24)}, {ended})"

    def _repr_html_(self) -> str:
        from mmhall.display.page import answer_html

        return answer_html(self)


@dataclass(frozen=True, slots=True)
class Choice:
    """The choice among given answers.

    Attributes:
        choice: The choice with the largest value in `calibrated`; of equals, the first.
        choices: All choices, in the given order.
        probabilities: Probability of each choice among all, by the plain model; they sum to 1.
        calibrated: The same without the prior: probabilities that sum to 1, or, where the prior was subtracted,
            differences that sum to 0. Without a calibration, `probabilities`.
        free: The prior: probability of each choice under picture-free inputs, sums to 1; None without a calibration.
        scores: Log-probability of each choice, in nats, over the temperature; `probabilities` are their softmax. With
            "compat" the log-probability at that temperature; -inf: not among the likeliest tokens.
        method: How the choices were scored: "labels", "strings", "strings to their end" or "compat"; or the plain
            model's labels, where no choice was found: "labels: none among the 10 likeliest tokens", "labels: none left
            by the strategy".
        calibration: The calibration, such as "diagonal none+unk"; None: none.
        usage: Its cost; there are no new tokens.
        temperature: What divided the log-probabilities, also those of the prior.
    """

    choice: str
    choices: tuple[str, ...]
    probabilities: tuple[float, ...]
    calibrated: tuple[float, ...]
    free: tuple[float, ...] | None
    scores: tuple[float, ...]
    method: str
    calibration: str | None
    usage: Usage
    temperature: float = 1.0

    def __repr__(self) -> str:
        """Return the choice and the probabilities of all, on one line."""
        pairs = zip(self.choices, self.calibrated, strict=True)
        told = ", ".join(f"{shorten(choice, 16)} {value:.2f}" for choice, value in pairs)
        return f"Choice({shorten(self.choice, 24)!r}: {shorten(told, 60)})"


@dataclass(frozen=True, slots=True)
class DecodedTokens:
    """The text of one row of new tokens.

    Attributes:
        text: Without end mark, padding and stop string.
        token_ids: Without end mark and padding.
        stopped_by: As in `Answer`.
    """

    text: str
    token_ids: tuple[int, ...]
    stopped_by: str

    @classmethod
    def from_row(cls, row: Sequence[int], tokenizer: Any, ends: Iterable[int], stops: Sequence[str]) -> DecodedTokens:
        """Decode a row of new tokens, with its end mark and padding."""
        end_ids = set(ends)
        end = next((i for i, token in enumerate(row) if token in end_ids), len(row))
        ids = tuple(row[:end])
        text = decode_answer(tokenizer, ids)
        cuts = [text.index(stop) for stop in stops if stop in text]
        if cuts:
            ids = _cut_at_stop(ids, tokenizer, stops)
            return cls(text[: min(cuts)].strip(), ids, "stop")
        return cls(text.strip(), ids, "eos" if end < len(row) else "length")


def _cut_at_stop(ids: tuple[int, ...], tokenizer: Any, stops: Sequence[str]) -> tuple[int, ...]:
    """Leave out the tokens after the one that completes a stop string."""
    for length in range(1, len(ids) + 1):
        text = decode_answer(tokenizer, ids[:length])
        if any(stop in text for stop in stops):
            return ids[:length]
    return ids
