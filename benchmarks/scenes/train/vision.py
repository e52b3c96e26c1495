"""Stage 1, the vision tower: classification of every patch by its object or place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration

from mmhall.benchmarks.scenes.train.architecture import IMAGE_TOKENS, SIDE, WIDTH
from mmhall.benchmarks.scenes.train.loop import device, run
from mmhall.benchmarks.scenes.train.pictures import CLASSES, Pictures
from mmhall.benchmarks.scenes.world import NAMES

BATCH = 192


def to_pixel_values(pixels: npt.NDArray[np.uint8]) -> Tensor:
    """Normalise (B, 112, 112, 3) uint8 as the processor does: (B, 3, 112, 112) in [-1, 1]."""
    return torch.from_numpy(pixels).to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1


def patch_features(model: LlavaForConditionalGeneration, pixel_values: Tensor) -> Tensor:
    """Return the tower's patch features, (B, 64, 192), as the projector gets them."""
    hidden: Tensor = model.model.vision_tower(pixel_values).last_hidden_state
    return hidden[:, 1:]


def train(model: LlavaForConditionalGeneration, head: nn.Linear, data: Pictures, folder: Path, steps: int) -> None:
    """Train the tower with a linear patch classifier on its last layer."""
    rng = np.random.default_rng(1)
    weights = torch.ones(len(CLASSES), device=device())
    weights[len(NAMES) :] = 0.2
    tower = torch.compile(model.model.vision_tower)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = rng.integers(0, len(data.pixels), BATCH)
        pixels, labels = _augment(
            to_pixel_values(data.pixels[chosen]), torch.from_numpy(data.patches[chosen]).long(), rng
        )
        with torch.autocast(device().type, torch.bfloat16):
            logits = head(tower(pixels).last_hidden_state[:, 1:]).float()
        labels = labels.to(device())
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights, label_smoothing=0.02)
        objects = labels < len(NAMES)
        return loss, {"object patches right": float((logits.argmax(-1) == labels)[objects].float().mean())}

    run(
        "vision",
        nn.ModuleDict({"tower": model.model.vision_tower, "head": head}),
        loss_of,
        folder=folder,
        steps=steps,
        rate=2e-3,
    )


def new_head() -> nn.Linear:
    """Make the patch classifier, which is only used in training."""
    return nn.Linear(WIDTH, len(CLASSES)).to(device())


def _augment(pixels: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Flip, roll by whole patches, and change brightness and contrast."""
    size = pixels.shape[-1] // SIDE
    grid = labels.view(-1, SIDE, SIDE)
    if rng.random() < 0.5:
        pixels, grid = pixels.flip(-1), grid.flip(-1)
    if rng.random() < 0.5:
        down, right = (int(v) for v in rng.integers(0, SIDE, 2))
        pixels = pixels.roll((down * size, right * size), (-2, -1))
        grid = grid.roll((down, right), (-2, -1))
    gain = torch.from_numpy(rng.uniform(0.8, 1.2, (len(pixels), 3, 1, 1)).astype(np.float32)).to(pixels.device)
    shift = torch.from_numpy(rng.uniform(-0.15, 0.15, (len(pixels), 1, 1, 1)).astype(np.float32)).to(pixels.device)
    return (pixels * gain + shift).clamp(-1, 1), grid.reshape(-1, IMAGE_TOKENS)
