"""The logit lens of image tokens: the next-token distribution read off the states at the picture's patches.

States of an inner layer pass the model's own final norm and head. At a patch, the likeliest words say what the model
takes it for by then; the probability of a word says where in the picture the model finds it (arXiv:2410.02762).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmhall._transformers.settings import minimal_settings
from mmhall.adapters import Adapter, Grid
from mmhall.attention import Exit
from mmhall.errors import ModelError, OptionError
from mmhall.generation import Images, Prompt, make_request, prepare


@dataclass(frozen=True, slots=True, eq=False)
class Lens:
    """What one layer takes the N image tokens of a prompt for.

    Attributes:
        layer: 0-based decoder layer.
        words: The likeliest words at each image token, each with its probability.
        probabilities: Probability of each given token at each image token, (tokens, N) float32.
        grid: Place of each image token in the picture.
    """

    layer: int
    words: tuple[tuple[tuple[str, float], ...], ...]
    probabilities: Tensor
    grid: Grid


def read_lens(
    adapter: Adapter, image: Images, prompt: Prompt, layer: int, tokens: Sequence[int] = (), count: int = 3
) -> Lens:
    """Read the logit lens of the image tokens of a prompt, by the plain model.

    Args:
        adapter: The model.
        image: As in `LVLM.generate`; at least one picture.
        prompt: As in `LVLM.generate`.
        layer: 0-based decoder layer whose output is read.
        tokens: Token ids whose probabilities to return.
        count: Number of words at each image token.

    Raises:
        ModelError: The model's image tokens are not among those of the prompt.
        OptionError: There is no such layer.
        MmhallError: As in `LVLM.generate`.
    """
    if not isinstance(layer, int) or not 0 <= layer < len(adapter.layers):
        raise OptionError("lens", "layer", layer, f"an integer from 0 to {len(adapter.layers) - 1}")
    request = make_request(image, prompt)
    inputs = adapter.inputs([request])
    places = adapter.image_mask(inputs["input_ids"])[0].nonzero()[:, 0]
    if not len(places):
        raise ModelError("this model attends to the picture in layers of its own: its prompts hold no image tokens")
    early = Exit(layer, positions=places[None])
    with torch.inference_mode():
        batch = prepare(adapter.model_for(inputs), inputs, minimal_settings(adapter.generator, 1))
        probabilities = batch.read(adapter.exits([early]))[1][early][0].softmax(dim=-1)
    top = probabilities.topk(min(count, probabilities.shape[-1]), dim=-1)
    return Lens(
        layer=layer,
        words=tuple(
            tuple((adapter.tokenizer.decode([index]).strip(), value) for index, value in zip(ids, values, strict=True))
            for ids, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ),
        probabilities=probabilities[:, list(tokens)].T.float().cpu(),
        grid=adapter.places(request, inputs),
    )
