"""What a model said, and how it came to say it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmhall.words import decoded

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost.

    Attributes:
        seconds: Wall time; of a batch, its share.
        prompt_tokens: Positions of the prompt, image positions included.
        new_tokens: Tokens written, the end mark included.
        peak_bytes: Most GPU memory allocated meanwhile; None on a CPU, and of a stream, which shares its time.
    """

    seconds: float
    prompt_tokens: int
    new_tokens: int
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How sure the plain model is of each token of an answer, and how much the picture has to do with it.

    Whatever strategy chose the tokens, these are the unsteered model's own figures for them, so that answers
    of different strategies can be compared.

    Attributes:
        logprobs: Log-probability of each token, in nats.
        entropies: Entropy of the distribution it was chosen from, in nats.
        image_gains: How much of the log-probability is lost when the picture is taken out of the prompt; None
            without a picture.
        image_shares: Share of attention that falls on the picture when the token is predicted, mean over layers
            and heads; None without a picture, and where layers of their own attend to it (Mllama).
        image_divergences: How far the distribution it was chosen from moves when the picture is taken out: the
            Jensen-Shannon divergence, in nats, from 0 to ln 2; None without a picture.
    """

    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    image_gains: tuple[float, ...] | None
    image_shares: tuple[float, ...] | None
    image_divergences: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        text: The answer; a stop string is cut off. The marks of a reasoning model's thoughts are kept.
        tokens: Its tokens as text, the end mark excluded.
        token_ids: Their ids.
        stopped_by: "eos", "stop" (a stop string), "length", or "stopped" (a stream was left early).
        strategy: The strategy with every option in force, written as `mmhall.strategy` reads it.
        settings: Generation settings in force, by name.
        usage: What it cost.
        origins: Where each option that was left open got its value from, by option; of a part as "vhr.layers".
        uncertainty: Per token, if asked for.
        others: Further answers, if several were asked for.
        scores: The scores that each token was chosen from, (tokens, vocabulary) float32 on the CPU, if asked for: the
            strategy's, after penalties and what sampling cuts off (-inf).
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
    scores: Tensor | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several given answers.

    Attributes:
        choice: The winner: largest in `calibrated`; of equals, the first.
        choices: All, in the order they were given.
        probabilities: Of each among the choices, by the plain model; they sum to 1.
        calibrated: The same without the prior: probabilities that sum to 1, or, where it was subtracted, differences
            that sum to 0. Where nothing was calibrated, `probabilities`.
        free: The prior: what picture-free inputs give to each choice, sums to 1; None without a calibration.
        scores: Log-probability of each choice, in nats, over the temperature: probabilities are their softmax. With
            "compat" the log-probability at that temperature; -inf: not among the likeliest tokens.
        method: How they were scored: "labels", "strings", "strings to their end", "compat", or the plain model's labels
            where that finds nothing: "labels: none among the 10 likeliest tokens", "labels: none left by the strategy".
        calibration: What was done, such as "diagonal none+unk"; None: nothing.
        usage: What it cost; nothing is written.
        temperature: What divided the log-probabilities, of the prior as well.
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


@dataclass(frozen=True, slots=True)
class DecodedTokens:
    """One row of new tokens, read.

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
        """Read a row of new tokens, padding included."""
        marks = set(ends)
        end = next((i for i, token in enumerate(row) if token in marks), len(row))
        ids = tuple(row[:end])
        text = decoded(tokenizer, ids)
        cuts = [text.index(stop) for stop in stops if stop in text]
        if cuts:
            ids = _until(ids, tokenizer, stops)
            return cls(text[: min(cuts)].strip(), ids, "stop")
        return cls(text.strip(), ids, "eos" if end < len(row) else "length")


def _until(ids: tuple[int, ...], tokenizer: Any, stops: Sequence[str]) -> tuple[int, ...]:
    """Leave out the padding after the token that completed a stop string."""
    for length in range(1, len(ids) + 1):
        text = decoded(tokenizer, ids[:length])
        if any(stop in text for stop in stops):
            return ids[:length]
    return ids
