"""Visual sinks: a few image tokens that draw attention whatever is being written (arXiv:2503.03321).

Share      In one layer: of the attention that the rows of a caption pay to the picture, mean over heads and rows, the
           part on the tokens that get most, at most 5 % of them, chosen anew for each picture. The figure of the model
           is that of its second layer in this order: `var` and its like need sinks in more than one layer.
Activation The largest hidden dimension of the layer's input at these tokens, in root mean squares (arXiv:2402.17762),
           in the same layer: sinks of large models are marked by a massive one.

The rows are those that predict the tokens of the caption, read again with teacher forcing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import LongTensor, Tensor

from mmhall.attention import Call, Op, Visit
from mmhall.benchmarks.diagnosis.figures import MECHANISMS, Figure, UnmeasuredError
from mmhall.results.statistics import Array, Resampler, ratio
from mmhall.strategies import massiveness

SHARE = 0.05


@dataclass(eq=False)
class PictureSinks:
    """The sinks of one picture, by layer.

    Attributes:
        count: Number of image tokens.
        on_sinks: Attention on the tokens that get most.
        on_image: Attention on the picture.
        tokens: These tokens, 0-based among the image tokens.
        at_sinks: Largest activation at these tokens, in root mean squares, mean over them.
        at_others: The same at the other image tokens.
    """

    count: int
    on_sinks: dict[int, float] = field(default_factory=dict)
    on_image: dict[int, float] = field(default_factory=dict)
    tokens: dict[int, tuple[int, ...]] = field(default_factory=dict)
    at_sinks: dict[int, float] = field(default_factory=dict)
    at_others: dict[int, float] = field(default_factory=dict)


class SinkProbe(Op):
    """Finds the image tokens that get most attention from answers, and their activations.

    Attributes:
        pictures: The sinks of each prompt of the batch.
        sums: By layer, activations summed over the sinks of all prompts, (hidden size,).
    """

    def __init__(self, image: Tensor, lengths: Sequence[int]) -> None:
        """Mark the rows and columns to read.

        Args:
            image: Image positions of the prompts, (B, T) bool.
            lengths: Tokens of each answer, at least one.
        """
        self._places = [row.nonzero()[:, 0] for row in image]
        self._width = max(lengths)
        rows = torch.arange(self._width) < torch.tensor(lengths)[:, None]
        self._rows = rows / rows.sum(dim=1, keepdim=True)
        self._states: Tensor | None = None
        self.pictures = [PictureSinks(len(places)) for places in self._places]
        self.sums: dict[int, Tensor] = {}

    def rows(self, call: Call) -> LongTensor | None:
        """Return the rows that predict the answers; none in a layer that gets only the newest row."""
        last = call.count - 1
        if last < self._width:
            return None
        return torch.arange(last - self._width, last, device=call.device)  # type: ignore[return-value]

    def see_states(self, visit: Visit) -> None:
        """Keep the input of a layer until its attention has been seen."""
        self._states = visit.states if visit.start == 0 else None

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Find the sinks of a layer."""
        attention = torch.einsum("bhrk,br->bk", probs, self._rows.to(probs)) / probs.shape[1]
        for number, places in enumerate(self._places):
            columns = places.to(probs.device) - call.offset
            own = attention[number, columns.clamp_min(0)].masked_fill(columns < 0, 0.0)
            self._record(call.layer, number, own, places)
        self._states = None

    def _record(self, layer: int, number: int, attention: Tensor, places: Tensor) -> None:
        picture, top = self.pictures[number], find_sinks(attention)
        picture.on_sinks[layer], picture.on_image[layer] = float(attention[top].sum()), float(attention.sum())
        picture.tokens[layer] = tuple(sorted(top.tolist()))
        if self._states is not None:
            massive = massiveness(self._states[number, places.to(self._states.device)])
            sink = torch.zeros(len(places), dtype=torch.bool, device=massive.device)
            sink[top.to(massive.device)] = True
            largest = massive.amax(dim=-1)
            picture.at_sinks[layer] = float(largest[sink].mean())
            picture.at_others[layer] = float(largest[~sink].mean())
            self.sums[layer] = self.sums.get(layer, 0) + massive[sink].sum(dim=0).cpu()


def find_sinks(attention: Tensor) -> Tensor:
    """Return the image tokens that get most attention, at most 5 % of them.

    Args:
        attention: Attention to each image token, (N,); N is at least 20.
    """
    return attention.topk(int(SHARE * len(attention))).indices


def sink_figures(pictures: Sequence[PictureSinks], sums: dict[int, Tensor], draws: Resampler) -> Iterator[Figure]:
    """Yield the share of attention on sinks, and the activation that marks them.

    Args:
        pictures: The sinks of each picture.
        sums: Activations summed over all sinks, by layer.
        draws: Bootstrap draws of the pictures.

    Raises:
        UnmeasuredError: Fewer than two layers attend to the picture.
    """
    layers = sorted(set.intersection(*(set(p.on_image) for p in pictures))) if pictures else []
    if len(layers) < 2:
        raise UnmeasuredError("fewer than two layers attend to the picture")
    over = [np.array([p.on_sinks[layer] for p in pictures]) for layer in layers]
    under = [np.array([p.on_image[layer] for p in pictures]) for layer in layers]
    of_layer = {layer: draws.estimate(*sides) for layer, *sides in zip(layers, over, under, strict=True)}
    ranked = sorted(layers, key=lambda layer: -(of_layer[layer].value or 0.0))
    second = ranked[1]
    yield Figure(
        "sink_share",
        MECHANISMS,
        "sinks: attention on 5 % of image tokens",
        draws.estimate_of(second_largest, [*over, *under]),
        layers=of_layer,
        note=f"second-largest of the layers, layer {second}; evenly spread it would be {_even(pictures, second):.1%}. "
        f"Most often among them: {_usual(pictures, second)}",
        short="sinks (%)",
    )
    if all(second in p.at_sinks for p in pictures):
        dimension = int(sums[second].argmax())
        at, elsewhere = (np.array([getattr(p, side)[second] for p in pictures]) for side in ("at_sinks", "at_others"))
        yield Figure(
            "sink_activation",
            MECHANISMS,
            "sinks: largest activation (rms)",
            draws.estimate(at, np.ones(len(at))),
            percent=False,
            note=f"in layer {second}, mostly dimension {dimension}; {elsewhere.mean():.2f} at other image tokens",
        )


def second_largest(*sums: Array) -> Array:
    """Return the second-largest of several ratios: first all numerators, then all denominators, of one shape each.

    Of 1/4, 3/4 and 2/4 it is 2/4.
    """
    half = len(sums) // 2
    ratios = np.stack([ratio(one, other) for one, other in zip(sums[:half], sums[half:], strict=True)])
    second: Array = np.sort(ratios, axis=0)[-2]
    return second


def _even(pictures: Sequence[PictureSinks], layer: int) -> float:
    """Return the share of the sinks among image tokens, if all got the same attention."""
    return float(np.mean([len(p.tokens[layer]) / p.count for p in pictures]))


def _usual(pictures: Sequence[PictureSinks], layer: int, shown: int = 3) -> str:
    """Describe the tokens that are sinks in most pictures."""
    counted = Counter(token for p in pictures for token in p.tokens[layer])
    return ", ".join(f"token {token} ({n / len(pictures):.0%})" for token, n in counted.most_common(shown))
