"""Vision-aware head divergence: how much a head's output depends on the picture (arXiv:2412.13949)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.analysis._teacher_forcing import check_room, read_answer
from mmhall.attention import Call, Op
from mmhall.errors import OptionError


@dataclass(frozen=True, eq=False)
class HeadDivergence:
    """VHD of an answer; S tokens, L layers, H heads.

    Attributes:
        values: Distance of a head's outputs with and without the picture, where each token is predicted, (S, L, H)
            float32.
        layers: 0-based decoder layers of the second axis: those that attend to the sequence itself.
    """

    values: Tensor
    layers: tuple[int, ...]

    def per_token(self, k: int = 8) -> Tensor:
        """Sum the k largest heads of each layer over the layers (T-VHD), (S,).

        Hallucinated words tend to have low values. The paper does not say k; 8 is a re-implementation's.

        Raises:
            OptionError: There are not so many heads.
        """
        heads = self.values.shape[2]
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= heads:
            raise OptionError("head divergence", "k", k, f"an integer from 1 to {heads}")
        return self.values.topk(k, dim=2).values.sum(dim=(1, 2))


class Kept(Op):
    """Keeps the head outputs of the rows an answer is predicted from, (B, S, H, D) by layer."""

    def __init__(self, width: int) -> None:
        """Say how many tokens the longest answer of the batch has."""
        self.rows_of_answer, self.outputs = slice(-(width + 1), -1), dict[int, Tensor]()

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Keep the rows; change nothing."""
        self.outputs[call.layer] = output[:, self.rows_of_answer].clone()
        return output


class Compared(Op):
    """Compares head outputs with those that an earlier pass kept, layer by layer, and drops those."""

    def __init__(self, kept: Kept) -> None:
        """Take the pass to compare with."""
        self._kept, self._distances = kept, dict[int, Tensor]()

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Keep the distances; change nothing."""
        other = self._kept.outputs.pop(call.layer)
        distance = (other.float() - output[:, self._kept.rows_of_answer].float()).norm(dim=-1)
        self._distances[call.layer] = distance.cpu()
        return output

    def of(self, row: int, length: int) -> HeadDivergence:
        """Return the divergence of one answer, by its row in the batch and its length in tokens."""
        layers = tuple(sorted(self._distances))
        return HeadDivergence(torch.stack([self._distances[layer][row, :length] for layer in layers], dim=1), layers)


def head_divergence(adapter: Adapter, inputs: Inputs, answer: Sequence[int]) -> HeadDivergence:
    """Read an answer with and without the picture and compare head outputs before the output projection.

    Args:
        adapter: The model.
        inputs: A single request with a picture.
        answer: Token ids.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
    """
    width = len(answer)
    tokens = torch.tensor([list(answer)], device=inputs["input_ids"].device)
    check_room(adapter, inputs, width)
    kept = Kept(width)
    compared = Compared(kept)
    with torch.inference_mode():
        read_answer(adapter, adapter.append_answer(inputs, tokens), width, [kept])
        read_answer(adapter, adapter.append_answer(adapter.without_image(inputs), tokens), width, [compared])
    return compared.of(0, width)
