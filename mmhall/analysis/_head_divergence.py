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
        values: Distance of a head's outputs with and without the picture, at the row that predicts each token,
            (S, L, H) float32.
        layers: 0-based decoder layers of the second axis: those that attend to the sequence itself.
    """

    values: Tensor
    layers: tuple[int, ...]

    def __repr__(self) -> str:
        """Return the sizes, on one line."""
        tokens, layers, heads = self.values.shape
        return f"HeadDivergence({tokens} tokens x {layers} layers x {heads} heads)"

    def per_token(self, k: int = 8) -> Tensor:
        """Sum the k largest heads of each layer over the layers (T-VHD), (S,).

        Hallucinated words tend to have low values. The paper does not give k; 8 is from a re-implementation.

        Raises:
            OptionError: `k` exceeds the number of heads, or is no positive integer.
        """
        heads = self.values.shape[2]
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= heads:
            raise OptionError("head divergence", "k", k, f"an integer from 1 to {heads}")
        return self.values.topk(k, dim=2).values.sum(dim=(1, 2))


class HeadOutputs(Op):
    """Stores the head outputs of the rows that predict an answer, (B, S, H, D) by layer."""

    def __init__(self, width: int) -> None:
        """Set the number of tokens of the longest answer."""
        self.rows_of_answer, self.outputs = slice(-(width + 1), -1), dict[int, Tensor]()

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Store the rows; change nothing."""
        self.outputs[call.layer] = output[:, self.rows_of_answer].clone()
        return output


class HeadDistances(Op):
    """Compares head outputs with those stored in an earlier pass, layer by layer, and drops the stored ones."""

    def __init__(self, stored: HeadOutputs) -> None:
        """Set the outputs to compare with."""
        self._stored, self._distances = stored, dict[int, Tensor]()

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        """Store the distances; change nothing."""
        other = self._stored.outputs.pop(call.layer)
        distance = (other.float() - output[:, self._stored.rows_of_answer].float()).norm(dim=-1)
        self._distances[call.layer] = distance.cpu()
        return output

    def of(self, row: int, length: int) -> HeadDivergence:
        """Return the divergence of one answer, from its row in the batch and its length in tokens."""
        layers = tuple(sorted(self._distances))
        return HeadDivergence(torch.stack([self._distances[layer][row, :length] for layer in layers], dim=1), layers)


def head_divergence(adapter: Adapter, inputs: Inputs, answer: Sequence[int]) -> HeadDivergence:
    """Read an answer with and without the picture, and compare head outputs before the output projection.

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
    outputs = HeadOutputs(width)
    distances = HeadDistances(outputs)
    with torch.inference_mode():
        read_answer(adapter, adapter.append_answer(inputs, tokens), width, [outputs])
        read_answer(adapter, adapter.append_answer(adapter.without_image(inputs), tokens), width, [distances])
    return distances.of(0, width)
