"""Stages 2 to 4 of the plain model, the language side; the joint stage serves other models as well.

2. *symbols*: the decoder learns to describe and to answer from pictures made of words. Each image
   position holds a mixture of class embeddings instead of a projected patch, with the errors a
   vision tower makes. No pixels are involved, so that grounding (attend to what resembles the word)
   appears in minutes.
3. *projector*: fitted so that a projected patch is the mixture the tower's classifier sees in it.
4. *joint*: projector and decoder on drawn pictures; the tower follows at a tenth of the rate.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmhall.benchmarks.scenes.language import Fact, Turn, conversation, planned_facts, without_picture
from mmhall.benchmarks.scenes.plan import Plan, plan_random_scene, plan_training_scene
from mmhall.benchmarks.scenes.train.architecture import IMAGE_TOKENS, SIDE
from mmhall.benchmarks.scenes.train.layers import States, compiled, run_layers
from mmhall.benchmarks.scenes.train.loop import device, run
from mmhall.benchmarks.scenes.train.pictures import CLASSES, Pictures
from mmhall.benchmarks.scenes.train.rows import HEAD, IGNORE, PREFIX, Packer, Rows
from mmhall.benchmarks.scenes.train.vision import patch_features, to_pixel_values
from mmhall.benchmarks.scenes.world import NAMES, PLACES, Place

BATCH = 24
LENGTH = 256
BLIND = 0.1  # share of conversations without a picture
NOISED = 0.06  # share of pictures noised beyond recognition

Conversation = list[tuple[Turn, bool]]
Talk = Callable[[random.Random, list[Fact], Place, float], Conversation]  # the last: progress in [0, 1]
Teach = Callable[[Rows, States, Tensor], tuple[Tensor, dict[str, float]]]  # the last: classes of patches, (B, 64)
Made = TypeVar("Made")


def train_on_symbols(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path, steps: int
) -> None:
    """Stage 2."""
    rng, packer = random.Random(2), Packer(tokenizer, LENGTH)
    tokens = _class_tokens(tokenizer)

    def batch() -> tuple[Rows, Tensor]:
        plans = [(plan_training_scene if rng.random() < 0.7 else plan_random_scene)(rng) for _ in range(BATCH)]
        rows = packer.pack([_talk(rng, planned_facts(plan.objects), plan.place, rate=0.25) for plan in plans])
        return rows, torch.stack([_symbols(rng, plan) for plan in plans])

    batches = _prefetch(batch)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rows, mixture = next(batches)
        with torch.autocast(device().type, torch.bfloat16):
            embedding = model.model.language_model.embed_tokens.weight
            image = mixture.to(device()) @ _class_embeddings(embedding, tokens)
            image = image + 0.2 * image.detach().std() * torch.randn_like(image)
            return _language_loss(model, rows, image)

    run(
        "symbols",
        nn.ModuleDict({"decoder": model.model.language_model}),
        loss_of,
        folder=folder,
        steps=steps,
        rate=2e-3,
    )


def fit_projector(
    model: LlavaForConditionalGeneration,
    head: nn.Linear,
    tokenizer: PreTrainedTokenizerFast,
    data: Pictures,
    folder: Path,
    steps: int,
) -> None:
    """Stage 3."""
    rng = np.random.default_rng(3)
    with torch.no_grad():
        targets = _class_embeddings(model.model.language_model.embed_tokens.weight, _class_tokens(tokenizer))
    scale = targets.std()

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        pixels = to_pixel_values(data.pixels[rng.integers(0, len(data.pixels), 192)])
        with torch.autocast(device().type, torch.bfloat16):
            with torch.no_grad():
                features = patch_features(model, pixels)
                mixture = head(features).softmax(-1)
            projected = model.model.multi_modal_projector(features)
            return ((projected.float() - (mixture @ targets).float()) / scale).square().mean(), {}

    run(
        "projector",
        nn.ModuleDict({"projector": model.model.multi_modal_projector}),
        loss_of,
        folder=folder,
        steps=steps,
        rate=3e-3,
    )


def train_jointly(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    data: Pictures,
    folder: Path,
    steps: int,
    talk: Talk,
    *,
    stage: str = "joint",
    length: int = LENGTH,
    seed: int = 4,
    teach: Teach | None = None,
    change: Callable[[Rows], Rows] = lambda rows: rows,
) -> None:
    """Stage 4.

    Args:
        model: With the first three stages behind it.
        tokenizer: Its tokenizer.
        data: Typical or hard pictures.
        folder: Where checkpoints go.
        steps: Optimiser steps.
        talk: Makes the conversation of a row.
        stage: Names the checkpoint and the log lines.
        length: Positions in a row.
        seed: Seed of the order of pictures and of the conversations.
        teach: A further loss, on the inputs of the decoder's layers.
        change: Changes packed rows before they are learned from.
    """
    rng, packer = random.Random(seed), Packer(tokenizer, length)
    progress = 0.0

    def batch() -> tuple[Rows, npt.NDArray[np.uint8], npt.NDArray[np.uint8], Tensor]:
        chosen = [rng.randrange(len(data.pixels)) for _ in range(BATCH)]
        mirrored = torch.tensor([rng.random() < 0.5 for _ in chosen])
        talks = [
            talk(
                rng,
                [replace(f, x=1 - f.x) if m else f for f in data.facts[i]],
                PLACES[data.places[i]],
                progress,
            )
            for i, m in zip(chosen, mirrored.tolist(), strict=True)
        ]
        return change(packer.pack(talks)), data.pixels[chosen], data.patches[chosen], mirrored

    batches = _prefetch(batch)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        nonlocal progress
        progress = step / steps
        rows, raw, classes, mirrored = next(batches)
        pixels, patches, mirrored = to_pixel_values(raw), torch.from_numpy(classes), mirrored.to(device())
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        grid = patches.to(device()).view(-1, SIDE, SIDE)
        patches = torch.where(mirrored[:, None, None], grid.flip(-1), grid).flatten(1)
        pixels = torch.stack([_add_noise(p) if rng.random() < NOISED else p for p in pixels])
        with torch.autocast(device().type, torch.bfloat16):
            image = model.model.multi_modal_projector(patch_features(model, pixels))
            return _language_loss(model, rows, image, teach and (lambda states: teach(rows, states, patches)))

    modules = nn.ModuleDict(
        {
            "tower": model.model.vision_tower,
            "projector": model.model.multi_modal_projector,
            "decoder": model.model.language_model,
        }
    )
    run(stage, modules, loss_of, folder=folder, steps=steps, rate=1e-3, slow=model.model.vision_tower.parameters())


def claiming_talk(most: float) -> Talk:
    """Make conversations of the plain model; claims rise to their full rate over the first third.

    Args:
        most: Full rate of claims.
    """
    return lambda rng, facts, place, done: _talk(rng, facts, place, rate=min(most, 1.5 * done))


def _language_loss(
    model: LlavaForConditionalGeneration,
    rows: Rows,
    image: Tensor,
    teach: Callable[[States], tuple[Tensor, dict[str, float]]] | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Next-token loss over answers.

    Args:
        model: The model.
        rows: B packed rows.
        image: Embeddings of the image positions, (B, 64, width).
        teach: A further loss.
    """
    language = model.model.language_model
    ids, labels = rows.ids.to(device()), rows.labels.to(device())
    embedded = language.embed_tokens(ids)
    embedded = torch.cat([embedded[:, :HEAD], image.to(embedded.dtype), embedded[:, PREFIX:]], dim=1)
    mask, positions = rows.mask.to(device()), rows.positions.to(device())
    more, figures = torch.zeros((), device=device()), dict[str, float]()
    if teach is None:
        hidden = compiled(language)(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
    else:
        states = run_layers(language, embedded, mask, positions)
        more, figures = teach(states)
        hidden = states.last
    learned = labels != IGNORE
    logits = (hidden[learned] @ language.embed_tokens.weight.T).float()
    targets, weights = labels[learned], rows.weights.to(device())[learned]
    losses = F.cross_entropy(logits, targets, reduction="none")
    right = (logits.argmax(-1) == targets).float()
    is_answer_word = weights > 1
    return (losses * weights).sum() / weights.sum() + more, {
        "tokens right": float(right.mean()),
        "yes/no right": float(right[is_answer_word].mean()) if is_answer_word.any() else 0.0,
        **figures,
    }


def _talk(rng: random.Random, facts: list[Fact], place: Place, rate: float) -> Conversation:
    """Make the conversation of a row: about the picture, or blind, without a picture."""
    if rng.random() < BLIND:
        return [(turn, True) for turn in without_picture(rng, rate=rate)]
    return [(turn, False) for turn in conversation(rng, facts, place, rate=rate)]


def _symbols(rng: random.Random, plan: Plan) -> Tensor:
    """Write a plan as class probabilities per patch, (64, classes), with a vision tower's errors."""
    place = len(NAMES) + PLACES.index(plan.place)
    grid = torch.zeros(SIDE, SIDE, len(CLASSES))
    grid[..., place] = 1.0
    lines = (torch.arange(SIDE) + 0.5) / SIDE
    for o in plan.objects:
        wide, high = (
            (o.side, o.side * rng.uniform(0.5, 1)) if rng.random() < 0.5 else (o.side * rng.uniform(0.5, 1), o.side)
        )
        inside = ((lines[None, :] - o.x) / wide * 2).abs().maximum(((lines[:, None] - o.y) / high * 2).abs()) < 1
        inside[min(SIDE - 1, int(o.y * SIDE)), min(SIDE - 1, int(o.x * SIDE))] = True
        belief = rng.betavariate(8, 1) if o.visibility == "clear" else rng.betavariate(2, 1.2)
        others = [rng.randrange(len(NAMES)) for _ in range(2)]
        vector = torch.zeros(len(CLASSES))
        vector[NAMES.index(o.name)] += belief
        vector[others[0]] += (1 - belief) * 0.4
        vector[others[1]] += (1 - belief) * 0.2
        vector[place] += (1 - belief) * 0.4
        covered = inside & (torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(rng.getrandbits(31))) > 0.12)
        grid[covered] = vector
    return grid.view(IMAGE_TOKENS, -1)


def _add_noise(pixels: Tensor) -> Tensor:
    """Add strong noise to a picture, as contrast branches do."""
    share = 0.05 + 0.75 * float(torch.rand(()))
    noised: Tensor = share**0.5 * pixels + (1 - share) ** 0.5 * torch.randn_like(pixels)
    return noised


def _class_tokens(tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    return [tokenizer(name, add_special_tokens=False).input_ids for name in CLASSES]


def _class_embeddings(embedding: Tensor, tokens: list[list[int]]) -> Tensor:
    """Average each class's word embeddings, (classes, width)."""
    return torch.stack([embedding[ids].mean(dim=0) for ids in tokens])


def _prefetch(make: Callable[[], Made]) -> Iterator[Made]:
    """Yield results of make() without end; a thread makes the next one meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(make)
        while True:
            ready, future = future.result(), pool.submit(make)
            yield ready
