"""Soft-image guidance (SIG), the decoding half of LACING.

Paper     Zhao et al., arXiv:2411.14279; HaozheZhao/LACING.
Idea      A learned soft prompt in the place of the picture's features is a null image that keeps every position; guide
          away from what the model says with it.
Formula   z_u the logits of the same prompt, whose image tokens are the soft image's vectors
          s = z_u + scale (z - z_u) ("CFG form"); with beta > 0 ("contrast form", alpha = scale - 1) only tokens are
          kept with z >= max z + log beta
          up to the step `interval`, 0-based and included; later s = z
Defaults  scale 2, beta 0, all steps. The authors sweep 1 to 3; their contrast form is scale=2, beta=0.1. The default is
          ours.
Cost      2 rows per token, in one pass; one more prefill of the same length, and the vision tower once more.
Compared  soft image: paper and released code, trained with the model; ours, the trained one that `soft` names, else a
            stand-in: the mean of what the first layer reads at each image position, over reference pictures
            (`mmhall fit sig`). The stand-in is NOT the published method, and its results say nothing about it.
          attention: the paper also trains a second softmax over text alone, a part of the model; ours has none
          interval: released code, the second row is still computed after it, so ours
          alpha: released code, contrast form, 0.5 where it is not given (scale=1.5)
          baseline: not told in what this was written from; plain decoding has no cut-off
Differs   A soft image of N vectors needs models whose pictures all take N image tokens. Where the number depends on the
          picture there is no mean of each position: `mmhall fit "sig(each=False)"` fits one vector for all of them, the
          mean over positions too, which keeps no layout at all. Of several pictures each is replaced by the same soft
          image. Models that add features of the picture after the first layers too are refused, as those would remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmhall.adapters import Adapter, Batch, Inputs, has_picture
from mmhall.analysis import read_prompts
from mmhall.attention import EVERY, Op, Visit
from mmhall.errors import CompositionError, DataError, FitError
from mmhall.files import why_not_a_file
from mmhall.generation import make_request
from mmhall.options import by_model, option
from mmhall.strategies import (
    CONTRAST,
    Branch,
    Fit,
    LearnedStrategy,
    Pair,
    Session,
    Step,
    Strategy,
    contrast,
    random_like,
    twin_option,
    why_no_image_columns,
)

STAND_IN = "a stand-in: the mean of reference pictures, not the soft prompt that the paper trains"
_FILE = "a .safetensors file with the trained soft prompt, one tensor (image tokens, hidden size)"


@dataclass(frozen=True)
class SIG(LearnedStrategy):
    """Guide away from what the model says with a soft image in the place of the picture.

    Attributes:
        scale: Strength of the guidance, >= 1; 1 is the plain model.
        beta: Plausibility cut-off, fraction of the top token's probability in [0, 1]; 0 keeps all tokens.
        interval: Last step with guidance, 0-based; -1: all steps have it.
        soft: File of a trained soft prompt, one tensor (image tokens, hidden size); "": the fitted stand-in.
        each: Whether the stand-in has a vector for each image position; False: one for all.
        twin: 0: the strategy; a larger number: the seed of a random twin (random vectors of the same lengths).
    """

    name: ClassVar[str] = "sig"
    claims: ClassVar[frozenset[str]] = frozenset({CONTRAST})
    adjustable: ClassVar[frozenset[str]] = frozenset({"scale"})
    unless: ClassVar[str] = ", unless `soft` names a trained soft prompt"

    scale: float = by_model(2.0, low=1, tries=(1.25, 1.5, 2.0, 3.0))
    beta: float = option(0.0, low=0, high=1)
    interval: int = option(-1, low=-1)
    soft: str = option("", holds=lambda name: not name or name.endswith(".safetensors"), expected=_FILE, opens=True)
    each: bool = by_model(True)
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models whose pictures are no columns beside the text's, or also enter later layers."""
        if adapter.has_deep_features:
            return "features of its pictures also enter later layers (DeepStack), where a soft image has none"
        return why_no_image_columns(adapter, "there are no image columns to replace")

    def needs_artifact(self, adapter: Adapter) -> bool:
        """Whether the stand-in is needed: not where a trained soft prompt is given."""
        return not self.soft

    def for_fit(self) -> LearnedStrategy:
        """Return this strategy; a fit makes the stand-in.

        Raises:
            OptionError: A trained soft prompt is given.
        """
        self.check("soft", not self.soft, "left out for a fit, which makes a stand-in for it")
        return self

    def fitted(self, adapter: Adapter) -> Strategy:
        """Return this strategy with its artifact; check that a trained soft prompt has the model's width.

        Raises:
            OptionError: It has another width.
            DataError: Its file cannot be read.
        """
        fitted = super().fitted(adapter)
        if self.soft:
            shape, width = tuple(read_soft_image(self.soft).shape), adapter.decoder.config.hidden_size
            expected = f"a file whose tensor is (image tokens, {width}) for this model; its shape is {shape}"
            self.check("soft", shape[1] == width, expected)
        return fitted

    def fit(self, adapter: Adapter, pairs: Sequence[Pair], seed: int) -> Fit:
        """Average what the first layer reads of the pictures; their texts do not matter.

        Raises:
            FitError: The number of image tokens depends on the picture, so that there is no mean of each position.
        """
        pictures = list({pair.id: pair for pair in pairs}.values())
        total, lengths, counts = torch.zeros(1, dtype=torch.float64), list[float](), set[int]()
        for pair in pictures:
            states = read_image_states(adapter, adapter.inputs([make_request(pair.picture, pair.prompt)]))
            counts.add(len(states))
            lengths.append(float(states.norm(dim=-1).mean()))
            if self.each and len(counts) > 1:
                raise FitError(
                    f"sig: pictures take {min(counts)} to {max(counts)} image tokens, so that there is no mean of each "
                    'position; fit one vector for all positions, `mmhall fit "sig(each=False)"`'
                )
            total = total + (states if self.each else states.mean(dim=0, keepdim=True))
        soft = total / len(pictures)
        numbers: dict[str, Any] = {
            "soft image": STAND_IN,
            "pictures": len(pictures),
            "image tokens of a picture": sorted(counts),
            "vectors": len(soft),
            "mean length of a vector": float(soft.norm(dim=-1).mean()),
            "of the pictures' own": sum(lengths) / len(lengths),
        }
        return Fit({"soft": soft.float()}, numbers)

    def soft_image(self, adapter: Adapter) -> Tensor:
        """Return the soft image, (image tokens of a picture, or 1, hidden size) float32; a twin's is random."""
        soft = read_soft_image(self.soft) if self.soft else self.learned(adapter).tensors["soft"]
        return random_like(soft, self.twin, "soft image") if self.twin else soft

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Add the same prompt with the soft image as a branch; without a picture return an empty session.

        Raises:
            CompositionError: A picture takes another number of image tokens than the soft image has.
        """
        if not has_picture(inputs) or self.scale == 1:
            return Session()
        soft, mask = self.soft_image(adapter), adapter.image_mask(inputs["input_ids"])
        rows = self._repeated(soft, inputs, mask)
        return Session(branches=[Branch(inputs, ops=[Replace(mask, rows)])], combine=Guide(self))

    def _repeated(self, soft: Tensor, inputs: Inputs, mask: Tensor) -> Tensor:
        """Return the soft image for every image token of a batch, prompt after prompt, (tokens, hidden size)."""
        rows, size = [], len(soft)
        for prompt, count in enumerate(mask.sum(dim=1).tolist()):
            pictures = len(inputs.requests[prompt].images) if isinstance(inputs, Batch) else count // size
            if size > 1 and count != size * pictures:
                way = (
                    "give one for this model" if self.soft else 'fit one vector for all, `mmhall fit "sig(each=False)"`'
                )
                raise CompositionError(
                    f"sig: the soft image has {size} image tokens, and the picture of prompt {prompt + 1} takes "
                    f"{count if pictures < 2 else f'with the others {count}'}; {way}"
                )
            rows.append(soft.repeat(count // size, 1))
        return torch.cat(rows)


class Replace(Op):
    """Puts a soft image in the place of the picture, as the first layer reads it."""

    layers, kinds, sites = frozenset({0}), EVERY, frozenset({"in"})

    def __init__(self, image: Tensor, rows: Tensor) -> None:
        """Set what stands where.

        Args:
            image: Image positions, (prompts, positions) bool.
            rows: The vectors of all of them, prompt after prompt, (image positions, hidden size).
        """
        self._image, self._rows = image, rows

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Replace the image positions of the prompts."""
        if not visit.prefill:
            return states
        image = self._image.to(states.device)[..., None]
        return states.masked_scatter(image, self._rows.to(states))


class ReadImage(Op):
    """Reads what enters the first layer at the image positions of a single prompt."""

    layers, kinds = frozenset({0}), EVERY

    def __init__(self, image: Tensor) -> None:
        """Set the image positions, (1, positions) bool."""
        self._image = image
        self.states = torch.empty(0)

    def see_states(self, visit: Visit) -> None:
        """Store the states, (image positions, hidden size) float64 on the CPU."""
        self.states = visit.states[self._image.to(visit.device)].double().cpu()


def read_image_states(adapter: Adapter, inputs: Inputs) -> Tensor:
    """Return what enters the first layer at the image positions of a single prompt, (positions, hidden size) float64.

    In most families these are the projected features of the picture.
    """
    reader = ReadImage(adapter.image_mask(inputs["input_ids"]))
    read_prompts(adapter, inputs, [reader])
    return reader.states


@dataclass(frozen=True, slots=True)
class Guide:
    """Guides away from the branch with the soft image."""

    options: SIG

    def guides(self, step: Step) -> bool:
        """Whether a step lies in the interval."""
        return self.options.interval == -1 or step.t <= self.options.interval

    def __call__(self, step: Step) -> Tensor:
        """Return scores, (rows, vocabulary)."""
        if not self.guides(step):
            return step.main
        (free,) = step.branches
        return contrast(step.main, free, self.options.scale - 1, self.options.beta)

    def level(self, step: Step) -> Tensor:
        """Return the level of the guided logits, (rows, 1)."""
        main, free = step.levels
        return free + self.options.scale * (main - free) if self.guides(step) else main


def read_soft_image(name: str) -> Tensor:
    """Read a trained soft prompt, (image tokens, hidden size) float32.

    Raises:
        DataError: The file cannot be read, or does not hold one such tensor.
    """
    path = Path(name)
    reason = why_not_a_file(path)
    if reason is not None:
        raise DataError(f"{name}: {reason}; give {_FILE}")
    facts = path.stat()
    return _read_soft_image(name, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=2)
def _read_soft_image(name: str, changed: int, size: int) -> Tensor:
    """Read it once, and again after the file has changed."""
    try:
        tensors = load_file(name)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{name}: is no safetensors file ({error}); give {_FILE}") from error
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if len(tensors) != 1 or any(tensor.ndim != 2 or not len(tensor) for tensor in tensors.values()):
        raise DataError(f"{name}: holds {shapes}; give {_FILE}")
    (soft,) = (tensor.float() for tensor in tensors.values())
    if not soft.isfinite().all():
        raise DataError(f"{name}: holds NaN or infinity; give {_FILE}")
    return soft
