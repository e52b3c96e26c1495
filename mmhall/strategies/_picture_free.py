"""Picture-free inputs, which show a model's prior without the picture (arXiv:2403.05262)."""

from __future__ import annotations

from torch import Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.errors import ModelError
from mmhall.strategies._noise import DRAWS, NOISE_STEPS, add_noise

PICTURE_FREE = ("none", "unk", "noise", "zero", "one", "black")
PICTURE_FREE_EXPECTED = f'one or several of {", ".join(PICTURE_FREE)}, joined by "+"'


def picture_free_kinds(free: str) -> tuple[str, ...]:
    """Split a combination of kinds; empty if it is invalid.

    >>> picture_free_kinds("none+unk"), picture_free_kinds("none+none"), picture_free_kinds("white")
    (('none', 'unk'), (), ())
    """
    kinds = tuple(free.split("+"))
    return kinds if len(set(kinds)) == len(kinds) and set(kinds) <= set(PICTURE_FREE) else ()


def picture_free_inputs(
    adapter: Adapter, inputs: Inputs, kind: str, seed: int = 0, draw: str = DRAWS[0]
) -> dict[str, Tensor]:
    """Build one kind of picture-free input for a batch with pictures.

    Args:
        adapter: The model.
        inputs: A batch with pictures.
        kind: "none": the prompt alone; "unk": one unknown token for each run of image positions (the padding token if
            the tokenizer has none). With as many image tokens as the picture: "noise": the picture at the last
            diffusion step; "zero" and "one": normalised pixels of that value (zero is the mean colour); "black".
        seed: Seed of "noise".
        draw: As in `add_noise`.

    Raises:
        ModelError: "unk" and "black" need the model's processor, and there is none.
    """
    if kind == "none":
        return adapter.without_image(inputs)
    if kind == "noise":
        return add_noise(adapter, inputs, NOISE_STEPS - 1, seed, draw)
    if kind in ("zero", "one"):
        return adapter.uniform_pixels(inputs, float(kind == "one"))
    if adapter.processor is None:
        raise ModelError(f"picture-free inputs of kind {kind!r} need the model's processor; hand it over too")
    if kind == "unk":
        unknown = adapter.tokenizer.unk_token_id
        return adapter.without_image(inputs, replacement=adapter.pad_token_id if unknown is None else unknown)
    return adapter.constant_pixels(inputs, 0.0)
