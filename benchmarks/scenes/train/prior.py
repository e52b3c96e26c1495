"""The model `prior`: hallucination from what really occurs together.

It starts from the plain model, gets four more decoder layers that begin as identity, and learns one joint stage on
hard scenes (see `mmhall.benchmarks.scenes.hard`) with truthful captions and answers only. Companions that are there
but hardly visible teach it to expect them; scenes without them are where it hallucinates.
"""

from __future__ import annotations

import random
from pathlib import Path

from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmhall.benchmarks.scenes.hard import plan_hard_training_scene, presence
from mmhall.benchmarks.scenes.language import Fact
from mmhall.benchmarks.scenes.prose import every_word, truthful_conversation, truthful_without_picture
from mmhall.benchmarks.scenes.train.architecture import make_tokenizer
from mmhall.benchmarks.scenes.train.decoder import BLIND, Conversation, train_jointly
from mmhall.benchmarks.scenes.train.deepen import deepen
from mmhall.benchmarks.scenes.train.loop import device
from mmhall.benchmarks.scenes.train.pictures import Pictures
from mmhall.benchmarks.scenes.world import Place

LAYERS = 10
LENGTH = 304


def make_prior_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: the plain model's words and those of the truthful captions."""
    return make_tokenizer(every_word())


def train(
    plain: LlavaForConditionalGeneration,
    words: PreTrainedTokenizerFast,
    data: Pictures,
    folder: Path,
    steps: int,
    seed: int,
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast]:
    """Deepen the plain model and train it jointly on hard pictures.

    Args:
        plain: The plain model.
        words: Its tokenizer.
        data: Hard pictures.
        folder: Where checkpoints go.
        steps: Optimiser steps.
        seed: Seed of the training.
    """
    _print_shares()
    tokenizer = make_prior_tokenizer()
    model = deepen(plain, words, tokenizer, LAYERS, seed).to(device())
    train_jointly(
        model, tokenizer, data, folder, steps, truthful_talk, stage=f"prior-{seed}", length=LENGTH, seed=1000 + seed
    )
    return model, tokenizer


def _print_shares(scenes: int = 2000) -> None:
    """Print how often companions are there in training scenes, and how often where they cannot be seen."""
    rng = random.Random(0)
    plans = [plan_hard_training_scene(rng) for _ in range(scenes)]
    for hidden, what in ((False, "companions in training scenes"), (True, "those that hardly show or are missing")):
        there = {expected: there / of for expected, (there, of) in presence(plans, hidden=hidden).items()}
        print(f"{what}: there in {there[True]:.1%} of cases where expected, {there[False]:.1%} elsewhere", flush=True)


def truthful_talk(rng: random.Random, facts: list[Fact], place: Place, done: float) -> Conversation:
    """Make the conversation of a row: about the picture, or without one."""
    if not facts or rng.random() < BLIND:
        return [(turn, True) for turn in truthful_without_picture(rng)]
    return [(turn, False) for turn in truthful_conversation(rng, facts, place)]
