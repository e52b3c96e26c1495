"""What captions attend to in the prompt: the picture, its first token, and other columns that draw attention.

Share      Attention from the rows that predict a caption's tokens to the picture, by layer and head; and to the first
           text position, the usual attention sink.
Sinks      In one layer, a column of the prompt whose mean attention, over these rows and the heads, is at least 10 %
           (`LEAST`; ours), other than the first text position. Text and image columns are counted alike.
States     Secondary sinks (arXiv:2512.22213): a column becomes a sink where an MLP writes the direction of the first
           position's residual stream into it. Read in the layer where the column draws most: the cosine between what
           the MLP adds at the column and the layer's input at the first position, and the norm of what it adds, over
           the median of the prompt's columns.
Marked     Image tokens that `var` would take as sinks: massive in a dimension that is massive at the first token of a
           text. Without such a dimension there are none, however much attention a token draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter
from mmhall.attention import Call, Op, Visit
from mmhall.benchmarks.diagnosis.figures import ATTENTION, MECHANISMS, Figure, UnmeasuredError
from mmhall.decoders.var import VAR
from mmhall.errors import ModelError
from mmhall.results.statistics import Resampler
from mmhall.strategies import massiveness

LEAST = 0.1
LOOKING = 0.2  # of a head's attention: the least at which `var` moves any
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Sink:
    """A column that draws attention, in one layer.

    Attributes:
        mass: Its mean attention.
        cosine: Of the MLP's output there with the first position's residual stream; None: not read.
        norm: Norm of the MLP's output there, over the median of the prompt's columns; None: not read.
    """

    mass: float
    cosine: float | None = None
    norm: float | None = None


@dataclass(eq=False)
class PromptAttention:
    """What one caption attends to in its prompt, by layer.

    Attributes:
        names: Name of each column: the text of its token, or its number among image tokens.
        image_tokens: Number of image tokens.
        image: Attention to the picture by head, (H,).
        first: Attention to the first text position, mean over heads.
        sinks: Sinks, by column.
        marked: Number of image tokens that `var` takes as sinks.
    """

    names: Sequence[str]
    image_tokens: int
    image: dict[int, Tensor] = field(default_factory=dict)
    first: dict[int, float] = field(default_factory=dict)
    sinks: dict[int, dict[int, Sink]] = field(default_factory=dict)
    marked: dict[int, int] = field(default_factory=dict)


class PromptColumns(Op):
    """Reads the attention of captions to their prompts.

    Attributes:
        prompts: What each caption attends to.
    """

    def __init__(self, adapter: Adapter, ids: Tensor, attended: Tensor, lengths: Sequence[int]) -> None:
        """Mark the rows and columns to read.

        Args:
            adapter: The model.
            ids: Token ids of the prompts, (B, T).
            attended: Positions without padding, (B, T) bool.
            lengths: Tokens of each answer, at least one.
        """
        self._image, self._attended, self._width = adapter.image_mask(ids), attended, max(lengths)
        self._first = (attended & ~self._image).int().argmax(dim=1)
        rows = torch.arange(self._width) < torch.tensor(lengths)[:, None]
        self._rows = rows / rows.sum(dim=1, keepdim=True)
        method = VAR() if VAR().refusal(adapter) else VAR().fitted(adapter)
        assert isinstance(method, VAR)
        self._dimensions, self._tau = list(method.sink_dims or ()), method.tau
        self._states: Tensor | None = None
        self.prompts = [
            PromptAttention(_names(adapter, *row), int(row[1].sum())) for row in zip(ids, self._image, strict=True)
        ]

    def rows(self, call: Call) -> LongTensor | None:
        """Return the rows that predict the captions; none in a layer that gets only the newest row."""
        last = call.count - 1
        if last < self._width:
            return None
        return torch.arange(last - self._width, last, device=call.device)  # type: ignore[return-value]

    def see_states(self, visit: Visit) -> None:
        """Count the image tokens that `var` takes as sinks."""
        self._states = visit.states if visit.start == 0 else None
        if self._states is None:
            return
        for number, prompt in enumerate(self.prompts):
            prompt.marked[visit.layer] = 0
            if self._dimensions:
                states = self._states[number, self._image[number].nonzero()[:, 0].to(self._states.device)]
                massive = massiveness(states)[:, self._dimensions].amax(dim=-1)
                prompt.marked[visit.layer] = int((massive >= self._tau).sum())

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Reduce a layer."""
        by_head = torch.einsum("bhrk,br->bhk", probs, self._rows.to(probs)).cpu()
        length = self._attended.shape[1]
        for number, prompt in enumerate(self.prompts):
            columns = torch.arange(max(0, call.offset), length)
            weights = torch.zeros(by_head.shape[1], length)
            weights[:, columns] = by_head[number][:, columns - call.offset]
            weights *= self._attended[number].cpu()
            first, mean = int(self._first[number]), weights.mean(dim=0)
            prompt.image[call.layer] = weights[:, self._image[number].cpu()].sum(dim=1)
            prompt.first[call.layer] = float(mean[first])
            found = [column for column in (mean >= LEAST).nonzero()[:, 0].tolist() if column != first]
            prompt.sinks[call.layer] = {column: Sink(float(mean[column])) for column in found}


class SinkStates(PromptColumns):
    """Reads, beside attention, what MLPs add at the columns that draw it."""

    sites = frozenset({"mlp"})

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Compare the columns with the first position; change nothing."""
        if self._states is None or visit.start:
            return states
        for number, prompt in enumerate(self.prompts):
            found = prompt.sinks.get(visit.layer, {})
            if not found:
                continue
            first = self._states[number, int(self._first[number])].float()
            norms = states[number, : self._attended.shape[1]].float().norm(dim=-1)
            middle = float(norms[self._attended[number].to(norms.device)].median())
            for column, sink in found.items():
                cosine = float(torch.cosine_similarity(states[number, column].float(), first, dim=0))
                found[column] = Sink(sink.mass, cosine, float(norms[column]) / middle if middle else None)
        return states


def prompt_columns(adapter: Adapter, ids: Tensor, attended: Tensor, lengths: Sequence[int]) -> PromptColumns:
    """Return the op that reads all that the model offers: without the MLPs where they are not found.

    Args:
        adapter: The model.
        ids: Token ids of the prompts, (B, T).
        attended: Positions without padding, (B, T) bool.
        lengths: Tokens of each answer, at least one.
    """
    whole = SinkStates(adapter, ids, attended, lengths)
    try:
        adapter.plan([whole])
    except ModelError:
        return PromptColumns(adapter, ids, attended, lengths)
    return whole


def column_figures(prompts: Sequence[PromptAttention], draws: Resampler) -> Iterator[Figure]:
    """Yield the attention to the picture, to the first text position, and the other sinks.

    Args:
        prompts: What each caption attends to.
        draws: Bootstrap draws of the captions.

    Raises:
        UnmeasuredError: No layer attends to the prompt.
    """
    layers = _layers([prompt.first for prompt in prompts])
    if not layers:
        raise UnmeasuredError("no layer attends to the sequence")
    ones = np.ones(len(prompts))
    if _has_image(prompts):
        yield _image_figure(prompts, layers, draws)
    first = {layer: np.array([prompt.first[layer] for prompt in prompts]) for layer in layers}
    yield Figure(
        "first_sink",
        ATTENTION,
        "attention on the first text position",
        draws.estimate(np.mean(list(first.values()), axis=0), ones),
        layers={layer: draws.estimate(values, ones) for layer, values in first.items()},
        note=f"mean over {len(layers)} layers and their heads",
        short="first (%)",
    )
    counts = [len({column for layer in layers for column in prompt.sinks[layer]}) for prompt in prompts]
    yield Figure(
        "secondary_sinks",
        ATTENTION,
        "other columns that draw 10 % in a layer",
        draws.estimate(np.array(counts, np.float64), ones),
        percent=False,
        note=_describe(prompts, layers),
    )


def marked_figure(prompts: Sequence[PromptAttention], draws: Resampler) -> Figure:
    """Return the number of image tokens that `var` would take as sinks.

    Args:
        prompts: What each caption attends to.
        draws: Bootstrap draws of the captions.

    Raises:
        UnmeasuredError: No layer reads the prompt, or there are no image tokens.
    """
    layers = _layers([prompt.marked for prompt in prompts])
    if not layers or not _has_image(prompts):
        raise UnmeasuredError("the model attends to the picture in layers of their own, not in the sequence")
    values = {layer: np.array([prompt.marked[layer] for prompt in prompts], np.float64) for layer in layers}
    ones = np.ones(len(prompts))
    return Figure(
        "marked_sinks",
        MECHANISMS,
        "sinks that var finds, image tokens",
        draws.estimate(np.max(list(values.values()), axis=0), ones),
        percent=False,
        layers={layer: draws.estimate(of_layer, ones) for layer, of_layer in values.items()},
        note="in the layer with most; 0 also where no hidden dimension is massive at the first token of a text",
        short="marked",
    )


def _image_figure(prompts: Sequence[PromptAttention], layers: Sequence[int], draws: Resampler) -> Figure:
    ones = np.ones(len(prompts))
    heads = {layer: torch.stack([prompt.image[layer] for prompt in prompts]).double().numpy() for layer in layers}
    grid = {layer: tuple(values.mean(axis=0).tolist()) for layer, values in heads.items()}
    of_layer = {layer: values.mean(axis=1) for layer, values in heads.items()}
    flat = [value for row in grid.values() for value in row]
    return Figure(
        "image_share",
        ATTENTION,
        "attention on the picture",
        draws.estimate(np.mean(list(of_layer.values()), axis=0), ones),
        layers={layer: draws.estimate(values, ones) for layer, values in of_layer.items()},
        note=f"mean over layers and heads; {sum(v >= LOOKING for v in flat)} of {len(flat)} heads give it "
        f"{LOOKING:.0%} or more",
        short="picture (%)",
        heads=grid,
        by_head="attention on the picture",
    )


def _has_image(prompts: Sequence[PromptAttention]) -> bool:
    return all(prompt.image_tokens for prompt in prompts)


def _layers(parts: Sequence[Mapping[int, object]]) -> list[int]:
    return sorted(set.intersection(*(set(part) for part in parts))) if parts else []


def _describe(prompts: Sequence[PromptAttention], layers: Sequence[int]) -> str:
    """Name the columns that are sinks in most prompts, each with its layers, attention and what MLPs add there."""
    seen: dict[str, list[tuple[int, Sink]]] = {}
    holding: Counter[str] = Counter()
    for prompt in prompts:
        here = [(prompt.names[column], layer, s) for layer in layers for column, s in prompt.sinks[layer].items()]
        holding.update({name for name, *_ in here})
        for name, layer, sink in here:
            seen.setdefault(name, []).append((layer, sink))
    if not seen:
        return "none"
    parts = []
    for name, count in holding.most_common(_SHOWN):
        found = seen[name]
        at, largest = max(found, key=lambda one: one[1].mass)
        ends = min(layer for layer, _ in found), max(layer for layer, _ in found)
        text = f"{name} ({count / len(prompts):.0%} of prompts, layers {ends[0]} to {ends[1]}, at most "
        text += f"{largest.mass:.0%} in layer {at}"
        if largest.cosine is not None and largest.norm is not None:
            text += f", where the MLP's output has cosine {largest.cosine:.2f} with the first position's stream and "
            text += f"{largest.norm:.1f} times the usual norm"
        parts.append(f"{text})")
    return "; ".join(parts)


def _names(adapter: Adapter, ids: Tensor, image: Tensor) -> list[str]:
    """Return the name of each column of a prompt: the text of its token, or its number among image tokens."""
    numbers = image.cumsum(dim=0).tolist()
    return [
        f"image token {numbers[at] - 1}" if is_image else f"{adapter.tokenizer.decode([token]).strip()!r}"
        for at, (token, is_image) in enumerate(zip(ids.tolist(), image.tolist(), strict=True))
    ]
