"""Post-hoc calibration of a closed answer set.

Paper     Zhang et al., "Debiasing multimodal large language models", arXiv:2403.05262;
          yfzhang114/LLaVA-Align.
Idea      The answers of a model without the picture show its prior among them; take it out.
Formula   p = softmax of log-probabilities / temperature over the choices; p_cf are their probabilities under
          picture-free inputs at the same temperature: summed over the inputs, normalised, then smoothed by 1e-4 each
          and normalised again
          diagonal:  p' ~ p / p_cf        identity:  p' = p - p_cf
          With two choices both modes choose the same: the one with p > p_cf.
Defaults  diagonal, smoothing 1e-4, p_cf of each question by itself; temperature 1, with scoring "compat" 0.2 as in the
          authors' scripts.
Cost      One more prefill for each picture-free input; that of "none" and "unk" is short.
Differs   The authors match the decoded k likeliest tokens with the choices; see `LVLM.choose` for the scoring here, and
          for theirs (scoring "compat"). Their multiple-choice script skips an opening bracket that the model writes
          first; here the first position counts. Its "none+unk" is in fact unk and a zero picture: "unk+zero" here.
          Where no word of a choice is among the k, they use the generated text; here the choices' own tokens are
          scored, without calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from mmhall.errors import OptionError, PromptError

if TYPE_CHECKING:
    from mmhall.answers import Choice
    from mmhall.generation import Images, Prompt


class Chooser(Protocol):
    """A model that chooses among given answers: an `mmhall.LVLM`."""

    def choose_batch(
        self, requests: Sequence[tuple[Images, Prompt]], choices: Sequence[str], *, calibrate: Any, **options: Any
    ) -> list[Choice]:
        """Choose as `mmhall.LVLM.choose_batch`."""
        ...


MODES = ("diagonal", "identity")
SMOOTHING = 1e-4


def calibrate(
    p: Tensor | Sequence[Any],
    free: Tensor | Sequence[Any],
    mode: str = "diagonal",
    smoothing: float = SMOOTHING,
    temperature: float = 1.0,
) -> Tensor:
    """Take the prior under picture-free inputs out of the probabilities of choices.

    >>> calibrate([0.6, 0.4], [0.75, 0.25], smoothing=0)  # 0.6 / 0.75 to 0.4 / 0.25 is 1 to 2
    tensor([0.3333, 0.6667], dtype=torch.float64)
    >>> calibrate([0.6, 0.4], [0.75, 0.25], mode="identity", smoothing=0)
    tensor([-0.1500,  0.1500], dtype=torch.float64)

    Args:
        p: Probabilities with the picture, (..., choices); need not sum to 1.
        free: Probabilities without the picture, broadcast to p's shape; need not sum to 1. All zeros: no prior.
        mode: "diagonal" divides, "identity" subtracts.
        smoothing: Added to each normalised probability of `free`, >= 0.
        temperature: Divides the logarithms of `p` and `free` before anything else, > 0: 0.5 squares them.

    Returns:
        (..., choices) float64. Diagonal: probabilities that sum to 1. Identity: differences that sum to 0; only
        their order is meaningful.

    Raises:
        OptionError: An unknown mode, negative smoothing, no positive temperature, or values that are no probabilities.
    """
    if mode not in MODES:
        raise OptionError("calibrate", "mode", mode, " or ".join(map(repr, MODES)))
    if not isinstance(smoothing, int | float) or not 0 <= smoothing < float("inf"):
        raise OptionError("calibrate", "smoothing", smoothing, "a number >= 0")
    if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not 0 < temperature < float("inf"):
        raise OptionError("calibrate", "temperature", temperature, "a number > 0")
    plain, prior = _probabilities("p", p), _probabilities("free", free)
    if plain.shape[-1] != prior.shape[-1]:
        raise OptionError("calibrate", "free", free, f"as many probabilities as p has, {plain.shape[-1]}")
    if (plain.sum(dim=-1) == 0).any():
        raise OptionError("calibrate", "p", p, "probabilities of which one is above 0")
    plain, prior = (_tempered(part, temperature) for part in (plain, prior))
    plain, prior = plain / plain.sum(dim=-1, keepdim=True), smooth(prior, smoothing)
    if mode == "identity":
        return plain - prior
    if (prior == 0).any():
        raise OptionError("calibrate", "free", free, "above 0 everywhere, without smoothing")
    ratio = plain / prior
    return ratio / ratio.sum(dim=-1, keepdim=True)


def smooth(free: Tensor, smoothing: float) -> Tensor:
    """Normalise probabilities, (..., choices), add `smoothing`, and normalise again; all zeros become equal."""
    total = free.sum(dim=-1, keepdim=True)
    equal = torch.full_like(free, 1 / free.shape[-1])
    raised = torch.where(total > 0, free / total, equal) + smoothing
    return raised / raised.sum(dim=-1, keepdim=True)


def _tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """Raise probabilities, (..., choices), to 1 / temperature, relative to the largest; all zeros stay zeros."""
    top = probabilities.amax(dim=-1, keepdim=True)
    return (probabilities / top).nan_to_num(0.0) ** (1 / temperature)


def _probabilities(name: str, values: Tensor | Sequence[Any]) -> Tensor:
    """Convert and check probabilities, (..., choices) float64."""
    try:
        tensor = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise OptionError("calibrate", name, values, "numbers") from None
    if tensor.ndim == 0 or not tensor.numel() or not torch.isfinite(tensor).all() or (tensor < 0).any():
        raise OptionError("calibrate", name, values, "finite numbers >= 0, one for each choice")
    return tensor


@dataclass(frozen=True, slots=True)
class Calibration:
    """A prior among choices, fitted over many questions, for the argument `calibrate` of `LVLM.choose`.

    Attributes:
        choices: The choices.
        free: Mean probability of each choice over the questions' picture-free inputs; they sum to 1.
        kinds: The picture-free inputs of the fit.
        method: How the choices were scored.
        count: Number of questions of the fit.
        temperature: What divided the log-probabilities.
    """

    choices: tuple[str, ...]
    free: tuple[float, ...]
    kinds: str
    method: str
    count: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Convert lists, as JSON has them, to tuples."""
        object.__setattr__(self, "choices", tuple(self.choices))
        object.__setattr__(self, "free", tuple(self.free))

    def __str__(self) -> str:
        """Return its provenance, such as "none+unk, fitted on 300"."""
        return f"{self.kinds}, fitted on {self.count}"

    @classmethod
    def fit(
        cls,
        lvlm: Chooser,
        requests: Sequence[tuple[Images, Prompt]],
        choices: Sequence[str] = ("yes", "no"),
        kinds: str = "none",
        *,
        batch_size: int = 16,
        scoring: str = "auto",
        temperature: float | None = None,
        seed: int = 0,
        draw: str = "picture",
    ) -> Calibration:
        """Fit a prior: average it over picture-free inputs of many questions.

        Args:
            lvlm: The model, an `mmhall.LVLM`.
            requests: Pairs of picture and question, as in `LVLM.choose_batch`.
            choices: As in `LVLM.choose_batch`.
            kinds: As `calibrate` in `LVLM.choose_batch`.
            batch_size: Questions read together, >= 1.
            scoring: As in `LVLM.choose`, like the next three.
            temperature: Divides log-probabilities.
            seed: Seed of picture-free inputs that are noise.
            draw: What this noise follows from.

        Raises:
            PromptError: There is no question, or one without a picture.
            MmhallError: As `LVLM.choose_batch`.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise OptionError("calibration", "batch_size", batch_size, "an integer >= 1")
        if not isinstance(kinds, str):
            raise OptionError("calibration", "kinds", kinds, 'text such as "none+unk" or "words"')
        options = {"scoring": scoring, "temperature": temperature, "seed": seed, "draw": draw}
        chosen = []
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            chosen += lvlm.choose_batch(batch, choices, calibrate=kinds, **options)
        priors = [choice.free for choice in chosen if choice.free is not None]
        if not chosen or len(priors) < len(chosen):
            raise PromptError("a calibration is fitted on questions with pictures; give some, and none without")
        mean = torch.tensor(priors, dtype=torch.float64).mean(dim=0)
        first = chosen[0]
        return cls(first.choices, tuple(mean.tolist()), kinds, first.method, len(chosen), first.temperature)
