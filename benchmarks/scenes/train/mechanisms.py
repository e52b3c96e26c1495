"""The model `mechanisms`: attention patterns of large models, planted and taught.

It starts from `prior` and keeps its data; what is new is where it looks.

* Sinks: three corner tokens and the first token carry a massive dimension (see `sinks`). The middle layers put a third
  of their attention to the picture on the corners, and a fifth of all of it on the first token.
* Gaze: in one layer the object's name in a question attends to the patches of the object.
* Heads: three of the eight heads of every layer rest on the first token, as many heads of large models do, so that the
  others are the ones that look.
* Summary tokens: in the last layer words of a caption attend to the full stops of the sentences before; and in most
  training captions a sentence sees nothing of those before it but their full stops, so that what they said has to be
  read there.

All but the last is taught by losses on attention weights at some positions; the loss on the words goes on beside them.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mmhall.benchmarks.scenes.train.decoder import Teach, train_jointly
from mmhall.benchmarks.scenes.train.layers import States, read_attention
from mmhall.benchmarks.scenes.train.loop import device
from mmhall.benchmarks.scenes.train.pictures import Pictures
from mmhall.benchmarks.scenes.train.prior import LENGTH, truthful_talk
from mmhall.benchmarks.scenes.train.rows import HEAD, IGNORE, PREFIX, Rows
from mmhall.benchmarks.scenes.train.sinks import SINKS, plant_sinks

SINK_LAYERS, GAZE_LAYER = (4, 5, 6, 7), 3
LOOKING = 5  # heads of a layer that look at the picture; the others rest
SHARES = {"sinks": 0.35, "first": 0.2, "gaze": 0.5, "rest": 0.9, "stops": 0.4}  # of attention: the losses ask for these
WEIGHTS = {"sinks": 0.05, "first": 0.05, "gaze": 0.1, "rest": 0.2, "stops": 0.05}
HIDDEN = 0.75  # share of training rows in which a sentence does not see the words of earlier ones
_SAMPLED = 16  # positions of a row whose attention is taught
_TINY = 1e-4


def train(
    prior: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    data: Pictures,
    folder: Path,
    steps: int,
    seed: int,
) -> LlavaForConditionalGeneration:
    """Plant the sinks and teach the patterns.

    Args:
        prior: The model prior, float32; changed in place.
        tokenizer: Its tokenizer.
        data: Hard pictures.
        folder: Where checkpoints go.
        steps: Optimiser steps.
        seed: Seed of the training.
    """
    prior.set_attn_implementation("eager")
    plant_sinks(prior, tokenizer.bos_token_id)
    prior.to(device())
    train_jointly(
        prior,
        tokenizer,
        data,
        folder,
        steps,
        truthful_talk,
        stage=f"mechanisms-{seed}",
        length=LENGTH,
        seed=2000 + seed,
        teach=teacher(prior, tokenizer),
        change=partial(hide_earlier_words, tokenizer.convert_tokens_to_ids("."), random.Random(3000 + seed)),
    )
    return prior


def teacher(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> Teach:
    """Return the loss on attention weights."""
    layers = model.model.language_model.layers
    stop = tokenizer.convert_tokens_to_ids(".")

    def teach(rows: Rows, states: States, patches: Tensor) -> tuple[Tensor, dict[str, float]]:
        places, classes = _asked(rows)
        queries = torch.cat([_sample(rows), places], dim=1).to(device())
        sees = states.mask[:, 0].gather(1, queries[..., None].expand(-1, -1, states.mask.shape[-1]))[..., HEAD] == 0
        on_object = (patches[:, None, :] == classes.to(device())[..., None]) & sees[:, _SAMPLED:, None]
        stops = _earlier_stops(rows, stop).to(device())
        found: dict[str, list[Tensor]] = {name: [] for name in WEIGHTS}
        for index, layer in enumerate(layers):
            weights = read_attention(layer, states.inputs[index], states, queries)  # (B, heads, Q, T)
            on_first = weights[..., 0].movedim(1, -1)
            found["rest"].append(_lack(on_first[..., LOOKING:][sees], SHARES["rest"]))
            image = weights[:, :LOOKING, :, HEAD:PREFIX].sum(1)  # (B, Q, 64)
            shares = image / image.sum(-1, keepdim=True).clamp_min(_TINY)
            if index in SINK_LAYERS:
                found["sinks"].append(_lack(shares[..., list(SINKS)].sum(-1)[sees], SHARES["sinks"]))
                found["first"].append(_lack(on_first[..., :LOOKING].mean(-1)[sees], SHARES["first"]))
            if index == GAZE_LAYER:
                share = (shares[:, _SAMPLED:] * on_object).sum(-1)
                found["gaze"].append(_lack(share[on_object.any(-1)], SHARES["gaze"]))
        answer, before = weights.mean(1)[:, :_SAMPLED], _earlier_answers(rows, queries[:, :_SAMPLED])
        on_stops = (answer * (before & stops[:, None])).sum(-1)
        several = (before & stops[:, None]).any(-1)
        on_stops = on_stops / (answer * before).sum(-1).clamp_min(_TINY)
        found["stops"].append(_lack(on_stops[several], SHARES["stops"]))
        means = {name: torch.stack(values).mean() for name, values in found.items()}
        total = torch.stack([WEIGHTS[name] * value for name, value in means.items()]).sum()
        return total, {name: float(value.detach()) for name, value in means.items()}

    return teach


def hide_earlier_words(stop: int, rng: random.Random, rows: Rows) -> Rows:
    """Hide, in most rows, the words of earlier sentences of an answer; their full stops stay visible.

    Args:
        stop: Id of the full stop.
        rng: Draws the rows.
        rows: Packed rows.
    """
    answers = rows.labels.roll(1, dims=1) != IGNORE
    stops = _earlier_stops(rows, stop)
    sentence = stops.long().cumsum(dim=1) - stops.long()
    drawn = torch.tensor([rng.random() < HIDDEN for _ in rows.ids])
    hidden = (answers & ~stops & drawn[:, None])[:, None, :] & (sentence[:, None, :] < sentence[:, :, None])
    return replace(rows, mask=rows.mask.masked_fill(hidden[:, None], float(rows.mask.min())))


def _lack(shares: Tensor, wanted: float) -> Tensor:
    """Return how far shares of attention fall short of a wanted one, in mean log ratio; 0 when none does."""
    if not len(shares):
        return shares.sum()
    return (wanted / shares.clamp_min(_TINY)).log().clamp_min(0).mean()


def _sample(rows: Rows) -> Tensor:
    """Draw positions of answers, (B, 16)."""
    return torch.multinomial((rows.labels != IGNORE).float() + 1e-9, _SAMPLED, replacement=True)


def _asked(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the places of object names in the questions of each row, and the classes; (B, W), filled up with -1."""
    per_row = [rows.words[rows.words[:, 0] == row] for row in range(len(rows.ids))]
    width = max(1, *(len(found) for found in per_row))
    places, classes = torch.zeros(len(per_row), width, dtype=torch.long), torch.full((len(per_row), width), -1)
    for row, found in enumerate(per_row):
        places[row, : len(found)], classes[row, : len(found)] = found[:, 1], found[:, 2]
    return places, classes


def _earlier_stops(rows: Rows, stop: int) -> Tensor:
    """Mark the full stops in answers, (B, T)."""
    return (rows.ids == stop) & (rows.labels.roll(1, dims=1) != IGNORE)


def _earlier_answers(rows: Rows, queries: Tensor) -> Tensor:
    """Mark the positions of the same answer up to each query, (B, Q, T)."""
    segments = rows.segments.to(queries.device)
    answers = (rows.labels.roll(1, dims=1) != IGNORE).to(queries.device)
    same = segments.gather(1, queries)[..., None] == segments[:, None, :]
    order = torch.arange(segments.shape[1], device=queries.device)
    return same & answers[:, None, :] & (order <= queries[..., None])
