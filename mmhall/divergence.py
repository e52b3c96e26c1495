"""Vision-aware head divergence: how much a head's output depends on the picture (arXiv:2412.13949)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmhall.adapters.base import Adapter, Inputs
from mmhall.attention import Call, Op
from mmhall.errors import OptionError
from mmhall.generation.reading import check_room, read_answer


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


class _Keep(Op):
    """Keeps the head outputs of the rows an answer is predicted from."""

    def __init__(self, width: int) -> None:
        self._rows, self.kept = slice(-(width + 1), -1), dict[int, Tensor]()

    def edit_output(self, call: Call, output: Tensor) -> Tensor:
        self.kept[call.layer] = output[0, self._rows].float()
        return output


def head_divergence(adapter: Adapter, inputs: Inputs, answer: Sequence[int]) -> HeadDivergence:
    """Read an answer with and without the picture and compare head outputs before the output projection.

    Args:
        adapter: The model.
        inputs: A single request with a picture.
        answer: Token ids.

    Raises:
        PromptError: Prompt and answer exceed the model's context.
    """
    tokens = torch.tensor([list(answer)], device=inputs["input_ids"].device)
    check_room(adapter, inputs, len(answer))
    outputs = []
    with torch.inference_mode():
        for variant in (inputs, adapter.without_image(inputs)):
            whole, keep = adapter.extended(variant, tokens), _Keep(len(answer))
            read_answer(adapter, whole, len(answer), [keep])
            outputs.append(keep.kept)
    pictured, bare = outputs
    layers = tuple(sorted(pictured))
    values = torch.stack([(pictured[layer] - bare[layer]).norm(dim=-1) for layer in layers], dim=1)
    return HeadDivergence(values.cpu().clone(), layers)
