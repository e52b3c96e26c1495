"""Diffusion noise on a model's normalised pixels."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from mmhall.adapters import Adapter, Inputs

NOISE_STEPS = 1000
DRAWS = ("picture", "seed")


@lru_cache(maxsize=1)
def alpha_bars() -> Tensor:
    """Return the signal share that remains after each diffusion step, (1000,) float64.

    At 0: 0.999978, at 500: 0.7448, at 999: 0.0813.
    """
    u = torch.linspace(-6, 6, NOISE_STEPS, dtype=torch.float64)
    return torch.cumprod(1 - (torch.sigmoid(u) * (5e-3 - 1e-5) + 1e-5), dim=0)


def mix(pixels: Tensor, noise: Tensor, step: int) -> Tensor:
    """Add noise to a picture at a diffusion step.

    Args:
        pixels: Normalised pixels, any shape.
        noise: Standard normal, same shape.
        step: 0 (almost the picture alone) to 999 (almost noise alone).

    Returns:
        Noised pixels; shape, dtype and device as `pixels`.
    """
    signal = float(alpha_bars()[step])
    mixed: Tensor = signal**0.5 * pixels + (1 - signal) ** 0.5 * noise.to(pixels.device, pixels.dtype)
    return mixed


def add_noise(adapter: Adapter, inputs: Inputs, step: int, seed: int, draw: str = DRAWS[0]) -> dict[str, Tensor]:
    """Return the same prompts with noised pictures.

    Each request has a random generator of its own: its noise does not depend on the other requests in the batch.

    Args:
        adapter: The model.
        inputs: A batch with pictures.
        step: As in `mix`.
        seed: Seed of the noise.
        draw: "picture": the generator is seeded with a digest of `seed` and the request's pixels, so that different
            pictures get independent noise; "seed": with `seed`, so that all pictures of one size get the same noise.
    """

    def change(pixels: Tensor) -> Tensor:
        start = seed if draw == "seed" else _digest(pixels.to(adapter.model.dtype), seed)
        return mix(pixels, adapter.image_noise(pixels, torch.Generator().manual_seed(start)), step)

    return adapter.with_pixels(inputs, change)


def _digest(pixels: Tensor, seed: int) -> int:
    """Return a digest of pixels and a seed, below 2**63.

    Pixels are rounded to bfloat16, so that models in float32 and in bfloat16 draw the same noise.
    """
    content = pixels.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
    digest = hashlib.blake2b(content, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") >> 1
