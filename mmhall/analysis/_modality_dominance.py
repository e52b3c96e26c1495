"""Modality dominance: how an answer's attention is divided between text and picture of its prompt (MDI and AEI).

Modality dominance index and attention efficiency index, "When Language Overrules" (arXiv:2508.10552). In one layer
let A_T and A_O be the attention, mean over heads, from the rows of an answer to the |T| text and |O| image positions of
its prompt; attention within the answer does not count.

    MDI = (A_T / |T|) / (A_O / |O|)                                 1: balanced; above 1: text positions get more
    AEI_T = (A_T / (A_T + A_O)) / (|T| / (|T| + |O|)),  AEI_O alike

The paper leaves open, and this chooses: the template's tokens are text (`ModalityDominance.without_first` leaves out
the first one, where most models have an attention sink that alone can raise MDI above 10); the row of a token is the
one it was predicted from; an answer's figure is a ratio of sums over its rows, and the figure of several answers the
mean of theirs. `ModalityDominance` keeps the sums, for other ways of pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Inputs
from mmhall.analysis._teacher_forcing import fit_answers, read_answer
from mmhall.attention import Call, Op
from mmhall.errors import ModelError, PromptError

GROUPS = ("early", "middle", "late")


class Masses(Op):
    """Sums attention from the rows that predict an answer to the text, its first position, and the picture."""

    def __init__(self, attended: Tensor, image: Tensor, width: int) -> None:
        """Mark the positions of text and picture.

        Args:
            attended: Positions without padding, (B, T) bool.
            image: Image positions, (B, T) bool.
            width: Number of tokens of the longest answer.
        """
        text = attended & ~image
        self._parts = torch.stack([text, text & (text.cumsum(dim=1) == 1), image], dim=-1).float()
        self._width, self._sums = width, dict[int, Tensor]()

    def rows(self, call: Call) -> LongTensor:
        """Return the rows that predict the answer."""
        last = call.query.shape[2] - 1
        return torch.arange(last - self._width, last, device=call.query.device)  # type: ignore[return-value]

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Sum the columns of a layer."""
        columns = nn.functional.pad(self._parts, (0, 0, 0, self._width)).to(probs)
        self._sums[call.layer] = (probs.mean(dim=1) @ columns).to(self._parts.device)

    @property
    def image(self) -> Tensor:
        """Attention to the picture, (B, S, L)."""
        return torch.stack([sums[..., 2] for sums in self._sums.values()], dim=-1)

    def of(self, row: int, length: int) -> ModalityDominance:
        """Return the modality dominance of one answer, from its row in the batch and its length in tokens."""
        layers = tuple(sorted(self._sums))
        text, first, image = torch.stack([self._sums[layer][row, :length].cpu() for layer in layers], dim=1).unbind(-1)
        counts = self._parts[row].sum(dim=0).tolist()
        return ModalityDominance(text.clone(), first.clone(), image.clone(), int(counts[0]), int(counts[2]), layers)


@dataclass(frozen=True, eq=False)
class ModalityDominance:
    """Attention from an answer to text and picture of its prompt; S tokens, L layers.

    Attributes:
        text: Attention from the row that predicts a token to the prompt's text positions, mean over heads, (S, L)
            float32.
        first: The part of `text` on the first text position, mostly the mark that begins the text, (S, L).
        image: Attention to image positions, (S, L).
        text_tokens: Number of text positions of the prompt, with the template.
        image_tokens: Number of image positions of the prompt.
        layers: 0-based decoder layers of the second axis: those that attend to the sequence itself.
    """

    text: Tensor
    first: Tensor
    image: Tensor
    text_tokens: int
    image_tokens: int
    layers: tuple[int, ...]

    @property
    def mdi(self) -> Tensor:
        """Modality dominance index of each layer, (L,); NaN where the picture gets no attention."""
        text, image = self.text.sum(dim=0), self.image.sum(dim=0)
        return _ratio(text * self.image_tokens, image * self.text_tokens)

    @property
    def aei_text(self) -> Tensor:
        """Attention efficiency index of the text in each layer, (L,); NaN where the prompt gets no attention."""
        return self._efficiency(self.text, self.text_tokens)

    @property
    def aei_image(self) -> Tensor:
        """Attention efficiency index of the picture in each layer, (L,); NaN where the prompt gets no attention."""
        return self._efficiency(self.image, self.image_tokens)

    def without_first(self) -> ModalityDominance:
        """Return a copy without the first text position."""
        return replace(
            self, text=self.text - self.first, first=torch.zeros_like(self.first), text_tokens=self.text_tokens - 1
        )

    def of(self, tokens: Sequence[int]) -> ModalityDominance:
        """Return a copy with some of the tokens, 0-based."""
        rows = list(tokens)
        return replace(self, text=self.text[rows], first=self.first[rows], image=self.image[rows])

    def groups(self) -> dict[str, dict[str, float | None]]:
        """Return "mdi", "aei_text" and "aei_image" of "early", "middle" and "late" layers, None for NaN.

        Each is the mean over two layers: the first, the middle or the last two of those that attend.
        """
        depth = len(self.layers)
        places = (slice(2), slice(max(0, depth // 2 - 1), depth // 2 + 1), slice(max(0, depth - 2), None))
        measures = {"mdi": self.mdi, "aei_text": self.aei_text, "aei_image": self.aei_image}
        means = {
            group: {name: float(values[place].mean()) for name, values in measures.items()}
            for group, place in zip(GROUPS, places, strict=True)
        }
        return {group: {n: None if v != v else v for n, v in values.items()} for group, values in means.items()}

    def _efficiency(self, part: Tensor, count: int) -> Tensor:
        whole = (self.text + self.image).sum(dim=0)
        return _ratio(part.sum(dim=0) * (self.text_tokens + self.image_tokens), whole * count)


def measure_dominance(adapter: Adapter, inputs: Inputs, answers: Sequence[Sequence[int]]) -> list[ModalityDominance]:
    """Measure the modality dominance of one answer for each prompt of a batch.

    Args:
        adapter: The model.
        inputs: A batch from the adapter, with pictures.
        answers: Token ids, at least one each.

    Raises:
        ModelError: The model attends to pictures in layers of their own.
        PromptError: There is no picture or no answer, or they are too long together.
    """
    if not adapter.image_in_sequence:
        raise ModelError(
            f"{adapter.model.config.model_type}: attends to the picture in layers of their own, beside no text; "
            "MDI and AEI compare the two within a layer"
        )
    image = adapter.image_mask(inputs["input_ids"])
    if not image.any() or not all(answers):
        raise PromptError("MDI and AEI compare what an answer gives to words and to a picture: give both")
    tokens = fit_answers(adapter, inputs, answers)
    width = tokens.shape[1]
    masses = Masses(inputs["attention_mask"].bool(), image, width)
    with torch.inference_mode():
        read_answer(adapter, adapter.append_answer(inputs, tokens), width, [masses])
    return [masses.of(row, len(answer)) for row, answer in enumerate(answers)]


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, torch.nan)
