"""What captions attend to in the prompt: the picture, its first token, and other columns that draw attention.

Share      Attention from the rows that predict a caption's tokens to the picture, by layer and head; and to the first
           text position, the usual attention sink.
Sinks      In one layer, a column of the prompt whose mean attention, over these rows and the heads, is at least 10 %
           (`LEAST`; ours), other than the first text position. Text and image columns are counted alike.
States     Secondary sinks (arXiv:2512.22213): an MLP writes the direction of the first position's residual stream into
           a column, which then is a sink in later layers. Read for each sink, of the layers before the first one in
           which it is one, in that whose MLP adds most to the column (largest norm): the norm over the median of the
           prompt's columns, and the cosine between what is added and that layer's input at the first position. There
           is no such layer for a column that is a sink from the first layer on.
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
from mmhall.attention import SELF_ATTENTION, Call, Op, Visit
from mmhall.benchmarks.diagnosis.figures import ATTENTION, MECHANISMS, Figure, UnmeasuredError
from mmhall.decoders.var import VAR
from mmhall.errors import ModelError
from mmhall.results.statistics import Resampler
from mmhall.strategies import massiveness

LEAST = 0.1
LOOKING = 0.2  # of a head's attention: the least at which `var` moves any
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Written:
    """The most that an MLP adds to a column before it becomes a sink.

    Attributes:
        layer: Layer of the MLP.
        cosine: Of what it adds with the first position's residual stream, at the input of the layer.
        norm: Norm of what it adds, over the median of the prompt's columns; NaN: most columns get nothing.
    """

    layer: int
    cosine: float
    norm: float


@dataclass(eq=False)
class PromptAttention:
    """What one caption attends to in its prompt, by layer.

    Attributes:
        names: Name of each column: the text of its token, or its number among image tokens.
        image_tokens: Number of image tokens.
        image: Attention to the picture by head, (H,).
        first: Attention to the first text position, mean over heads.
        sinks: Sinks by layer: column to its mean attention.
        written: What MLPs add to a sink's column before it is one; nothing where no MLP was read before.
        marked: Number of image tokens that `var` takes as sinks.
    """

    names: Sequence[str]
    image_tokens: int
    image: dict[int, Tensor] = field(default_factory=dict)
    first: dict[int, float] = field(default_factory=dict)
    sinks: dict[int, dict[int, float]] = field(default_factory=dict)
    written: dict[int, Written] = field(default_factory=dict)
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
        if self._states is None or visit.kind not in SELF_ATTENTION:
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
            prompt.sinks[call.layer] = {column: float(mean[column]) for column in found}


class SinkStates(PromptColumns):
    """Reads, beside attention, what MLPs add to columns before these draw it."""

    sites = frozenset({"mlp"})
    kinds = SELF_ATTENTION | {"linear"}

    def __init__(self, adapter: Adapter, ids: Tensor, attended: Tensor, lengths: Sequence[int]) -> None:
        """Mark the rows and columns to read; see `PromptColumns`."""
        super().__init__(adapter, ids, attended, lengths)
        self._added: dict[int, tuple[Tensor, Tensor]] = {}

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        """Keep the norm of what a layer's MLP adds to each column, and its cosine; change nothing."""
        if self._states is not None and not visit.start:
            added = states[:, : self._attended.shape[1]].float()
            chosen = self._first.to(self._states.device)
            first = self._states[torch.arange(len(chosen), device=chosen.device), chosen].to(added)
            cosines = torch.cosine_similarity(added, first[:, None], dim=-1)
            self._added[visit.layer] = added.norm(dim=-1).cpu(), cosines.cpu()
        return states

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Reduce a layer, and look for what was added to the columns that are sinks for the first time."""
        super().see(call, rows, probs)
        before = [layer for layer in self._added if layer < call.layer]
        for number, prompt in enumerate(self.prompts if before else ()):
            earlier = {column for layer, found in prompt.sinks.items() if layer < call.layer for column in found}
            for column in prompt.sinks[call.layer].keys() - earlier:
                prompt.written[column] = self._most(number, column, before)

    def _most(self, number: int, column: int, before: Sequence[int]) -> Written:
        """Return what the MLP that adds most to a column adds there, of some layers."""
        layer = max(before, key=lambda at: float(self._added[at][0][number, column]))
        norms, cosines = (part[number] for part in self._added[layer])
        middle = float(norms[self._attended[number].cpu()].median())
        return Written(layer, float(cosines[column]), float(norms[column]) / middle if middle else float("nan"))


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
    """Name the columns that are sinks in most prompts, each with its layers, attention and what made it one."""
    seen: dict[str, list[tuple[int, float]]] = {}
    holding: Counter[str] = Counter()
    for prompt in prompts:
        here = [(prompt.names[column], layer, mass) for layer in layers for column, mass in prompt.sinks[layer].items()]
        holding.update(list(dict.fromkeys(name for name, *_ in here)))
        for name, layer, mass in here:
            seen.setdefault(name, []).append((layer, mass))
    if not seen:
        return "none"
    parts = []
    for name, count in holding.most_common(_SHOWN):
        at, mass = max(seen[name], key=lambda one: one[1])
        ends = min(layer for layer, _ in seen[name]), max(layer for layer, _ in seen[name])
        text = f"{name} ({count / len(prompts):.0%} of prompts, layers {ends[0]} to {ends[1]}, at most {mass:.0%} in "
        parts.append(f"{text}layer {at}{_describe_origin(prompts, layers, name)})")
    return "; ".join(parts)


def _describe_origin(prompts: Sequence[PromptAttention], layers: Sequence[int], name: str) -> str:
    """Say what MLPs add to the columns of a name before they are sinks, and how many are sinks from the start."""
    columns = [
        (prompt, column)
        for prompt in prompts
        for column in sorted({column for layer in layers for column in prompt.sinks[layer]})
        if prompt.names[column] == name
    ]
    written = [prompt.written[column] for prompt, column in columns if column in prompt.written]
    start = sum(column in prompt.sinks[layers[0]] and column not in prompt.written for prompt, column in columns)
    text = f"; {start / len(columns):.0%} from layer {layers[0]} on, with no MLP before it" if start else ""
    if written:
        layer, count = Counter(one.layer for one in written).most_common(1)[0]
        cosine, norm = (
            np.mean([getattr(one, part) for one in written if one.layer == layer]) for part in ("cosine", "norm")
        )
        text += f"; {count / len(columns):.0%} after the MLP of layer {layer} added most, with cosine {cosine:.2f} to "
        text += f"the first position's stream and {norm:.1f} times the usual norm"
    return text


def _names(adapter: Adapter, ids: Tensor, image: Tensor) -> list[str]:
    """Return the name of each column of a prompt: the text of its token, or its number among image tokens."""
    numbers = image.cumsum(dim=0).tolist()
    return [
        f"image token {numbers[at] - 1}" if is_image else f"{adapter.tokenizer.decode([token]).strip()!r}"
        for at, (token, is_image) in enumerate(zip(ids.tolist(), image.tolist(), strict=True))
    ]
