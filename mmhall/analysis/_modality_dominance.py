"""How an answer's attention is shared between the words and the picture of its prompt: MDI and AEI.

Modality dominance index and attention efficiency index, "When Language Overrules" (arXiv:2508.10552). In one layer
let A_T and A_O be the attention, mean over heads, that the rows of an answer give to the text and to the image
positions of its prompt, |T| and |O| of them; what the rows give to the answer itself does not count.

    MDI = (A_T / |T|) / (A_O / |O|)                                 1: balanced; above: a text position gets more
    AEI_T = (A_T / (A_T + A_O)) / (|T| / (|T| + |O|)),  AEI_O alike

What the paper leaves open is decided here: the template's tokens are text (`Balance.without_first` leaves out the
first of them, where most models have a sink that alone can make MDI exceed 10); the row of a token is the one it was
predicted from; rows enter with what they give to the prompt; an answer's figure is a ratio of sums over its rows, and
the figure of many answers the mean of theirs. `ModalityDominance` keeps the sums, to pool them otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import LongTensor, Tensor, nn

from mmhall.adapters import Adapter, Inputs
from mmhall.analysis._teacher_forcing import check_room, padded, read_answer
from mmhall.attention import Call, Op
from mmhall.errors import ModelError, PromptError

GROUPS = ("early", "middle", "late")


class Masses(Op):
    """Sums what the rows an answer is predicted from give to text, to the first text position, and to the picture."""

    def __init__(self, attended: Tensor, image: Tensor, width: int) -> None:
        """Tell the positions of a batch of prompts apart.

        Args:
            attended: Positions that are no padding, (B, T) bool.
            image: Image positions, (B, T) bool.
            width: Tokens of the answers that follow the prompts.
        """
        text = attended & ~image
        self._parts = torch.stack([text, text & (text.cumsum(dim=1) == 1), image], dim=-1).float()
        self._width, self._seen = width, dict[int, Tensor]()

    def rows(self, call: Call) -> LongTensor:
        """Name the rows the answer is predicted from."""
        last = call.query.shape[2] - 1
        return torch.arange(last - self._width, last, device=call.query.device)  # type: ignore[return-value]

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Add up one layer's columns."""
        columns = nn.functional.pad(self._parts, (0, 0, 0, self._width)).to(probs)
        self._seen[call.layer] = (probs.mean(dim=1) @ columns).to(self._parts.device)

    @property
    def image(self) -> Tensor:
        """What the picture gets, (B, S, L)."""
        return torch.stack([seen[..., 2] for seen in self._seen.values()], dim=-1)

    def of(self, row: int, length: int) -> ModalityDominance:
        """Return the balance of one answer, by its row in the batch and its length in tokens."""
        layers = tuple(sorted(self._seen))
        text, first, image = torch.stack([self._seen[layer][row, :length].cpu() for layer in layers], dim=1).unbind(-1)
        counts = self._parts[row].sum(dim=0).tolist()
        return ModalityDominance(text.clone(), first.clone(), image.clone(), int(counts[0]), int(counts[2]), layers)


@dataclass(frozen=True, eq=False)
class ModalityDominance:
    """Attention of an answer to the text and to the picture of its prompt; S tokens, L layers.

    Attributes:
        text: What the row a token is predicted from gives to the prompt's text positions, mean over heads, (S, L)
            float32.
        first: The part of it that the first text position gets, the beginning mark where there is one, (S, L).
        image: What it gives to image positions, (S, L).
        text_tokens: Text positions of the prompt, the template's included.
        image_tokens: Its image positions.
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
        """Modality dominance index of each layer, (L,); NaN where the picture gets nothing."""
        text, image = self.text.sum(dim=0), self.image.sum(dim=0)
        return _ratio(text * self.image_tokens, image * self.text_tokens)

    @property
    def aei_text(self) -> Tensor:
        """Attention efficiency index of the text in each layer, (L,); NaN where the prompt gets nothing."""
        return self._efficiency(self.text, self.text_tokens)

    @property
    def aei_image(self) -> Tensor:
        """Attention efficiency index of the picture in each layer, (L,); NaN where the prompt gets nothing."""
        return self._efficiency(self.image, self.image_tokens)

    def without_first(self) -> ModalityDominance:
        """Return the same without the first text position."""
        return replace(
            self, text=self.text - self.first, first=torch.zeros_like(self.first), text_tokens=self.text_tokens - 1
        )

    def of(self, tokens: Sequence[int]) -> ModalityDominance:
        """Return that of some of the tokens, 0-based."""
        rows = list(tokens)
        return replace(self, text=self.text[rows], first=self.first[rows], image=self.image[rows])

    def groups(self) -> dict[str, dict[str, float | None]]:
        """Return "mdi", "aei_text" and "aei_image" of "early", "middle" and "late" layers, None for NaN.

        Each is the mean over the first two layers, the two at half the depth, the last two; of those that attend.
        """
        depth = len(self.layers)
        places = (slice(2), slice(max(0, depth // 2 - 1), depth // 2 + 1), slice(max(0, depth - 2), None))
        found = {"mdi": self.mdi, "aei_text": self.aei_text, "aei_image": self.aei_image}
        means = {
            group: {name: float(values[place].mean()) for name, values in found.items()}
            for group, place in zip(GROUPS, places, strict=True)
        }
        return {group: {n: None if v != v else v for n, v in own.items()} for group, own in means.items()}

    def _efficiency(self, part: Tensor, count: int) -> Tensor:
        whole = (self.text + self.image).sum(dim=0)
        return _ratio(part.sum(dim=0) * (self.text_tokens + self.image_tokens), whole * count)


def measure_dominance(adapter: Adapter, inputs: Inputs, answers: Sequence[Sequence[int]]) -> list[ModalityDominance]:
    """Measure one answer for each prompt of a batch.

    Args:
        adapter: The model.
        inputs: A batch as the adapter makes it, with pictures.
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
    tokens = padded(answers, inputs["input_ids"].device)
    width = tokens.shape[1]
    check_room(adapter, inputs, width)
    masses = Masses(inputs["attention_mask"].bool(), image, width)
    with torch.inference_mode():
        read_answer(adapter, adapter.extended(inputs, tokens), width, [masses])
    return [masses.of(row, len(answer)) for row, answer in enumerate(answers)]


def _ratio(over: Tensor, under: Tensor) -> Tensor:
    return torch.where(under > 0, over / under, torch.nan)
