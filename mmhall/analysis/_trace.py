"""Where a model looked while it wrote: attention from every new token to the image tokens."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Grid
from mmhall.analysis import _heat_map as heat
from mmhall.analysis._saliency import scale
from mmhall.answers import Answer, Uncertainty, Usage
from mmhall.attention import Call, Op
from mmhall.errors import DataError, ModelError, OptionError
from mmhall.words import Word

_FORMAT = "mmhall trace 2"
_FINDING = "finding."
_SHOWN = 1024  # longest side, in pixels, at which a trace keeps its pictures


class AttentionProbe(Op):
    """Keeps, pass by pass, what the newest row of a single request gives to the image columns."""

    def __init__(self, adapter: Adapter, image: Tensor, layers: Sequence[int], heads: Sequence[int]) -> None:
        """Look at some heads of some layers.

        Args:
            adapter: The model.
            image: Prompt positions of the image tokens, (N,); not needed where layers attend across.
            layers: 0-based.
            heads: 0-based.
        """
        self.layers, self.kinds = frozenset(layers), adapter.image_kinds
        self._place = {layer: index for index, layer in enumerate(layers)}
        self._image, self._heads = image, None if list(heads) == list(range(adapter.heads)) else list(heads)
        self._first = int(image[0]) if len(image) and int(image[-1] - image[0]) == len(image) - 1 else None
        self._kept, self._steps = torch.empty(0), 0

    def rows(self, call: Call) -> LongTensor:
        """Ask for the newest row."""
        return call.newest

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        """Keep the image columns; those a sliding window has left behind get 0."""
        seen = probs[0, :, 0] if self._heads is None else probs[0, self._heads, 0]
        if call.kind != "cross" and self._first is not None and self._first >= call.offset:
            seen = seen.narrow(1, self._first - call.offset, len(self._image))  # one run, all of it in view
        elif call.kind != "cross":
            columns = self._image - call.offset
            gone = columns < 0
            seen = seen[:, columns.clamp_min(0)].masked_fill(gone, 0.0)
        if call.step >= len(self._kept):
            self._grow(seen)
        self._kept[call.step, self._place[call.layer]] = seen
        self._steps = call.step + 1

    def attention(self) -> Tensor:
        """Return what was kept, (steps, layers, heads, image tokens) float32, on the CPU."""
        return self._kept[: self._steps].cpu().clone()

    def _grow(self, seen: Tensor) -> None:
        """Make room in one piece: small tensors kept between large passing ones would scatter the heap."""
        room = seen.new_empty(max(16, 2 * len(self._kept)), len(self._place), *seen.shape)
        if len(self._kept):
            room[: len(self._kept)] = self._kept
        self._kept = room


@dataclass(frozen=True, eq=False)
class Trace:
    """An answer, and where the model looked for each of its tokens.

    S tokens, L layers, H heads, N image tokens. The row of a token is the one it was predicted from.

    Attributes:
        answer: What was said.
        prompt: What was asked: the user's text; of several messages, a line each, their pictures marked.
        image_attention: (S, L, H, N) float32, under the strategy that wrote the answer.
        gaze: How attention to each image token shifts at the informative words of the question, (L, N) float32; see
            `saliency`.
        layers: 0-based decoder layers of the second axis.
        heads: 0-based heads of the third axis.
        grid: Where each image token looks.
        words: Of the answer.
        pictures: RGB, at most 1024 pixels on the longer side.
        model: Name, revision, weights' digest, dtype and device of the model.
        findings: What the strategy found: maps over image tokens, (N,), or over decoder layers and heads, NaN in layers
            that it left alone; by name, such as "saliency" of GIFT and "head gains" of VHR.
    """

    answer: Answer
    prompt: str
    image_attention: Tensor
    gaze: Tensor
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    grid: Grid
    words: tuple[Word, ...]
    pictures: tuple[Image.Image, ...]
    model: dict[str, str | None]
    findings: dict[str, Tensor] = field(default_factory=dict)

    @property
    def image_share(self) -> Tensor:
        """Share of a row's attention that falls on the pictures, (S, L, H); 1 where a layer attends to nothing else."""
        return self.image_attention.sum(dim=-1)

    def token_attention(
        self,
        token: int | Sequence[int],
        *,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        reduce: str = "mean",
    ) -> Tensor:
        """Attention from a token, or the mean of several, to each image token, (N,).

        Args:
            token: 0-based, counted in `answer.tokens`; negative from the end.
            layers: Decoder layers to reduce over; None: all that were traced.
            heads: Heads to reduce over; None: all that were traced.
            reduce: "mean" or "max", over layers and heads.

        Raises:
            OptionError: A token, layer or head was not traced, or there is no such reduction.
        """
        tokens, count = _indices("token", token), len(self.image_attention)
        for index in tokens:
            if not -count <= index < count:
                there = f"from {-count} to {count - 1}" if count else "left alone: the answer has no tokens"
                raise OptionError("trace", "token", index, there)
        if reduce not in ("mean", "max"):
            raise OptionError("trace", "reduce", reduce, '"mean" or "max"')
        chosen = self.image_attention[tokens]
        chosen = chosen[:, _within("layers", layers, self.layers)][:, :, _within("heads", heads, self.heads)]
        flat = chosen.flatten(1, 2)
        return (flat.mean(dim=1) if reduce == "mean" else flat.amax(dim=1)).mean(dim=0)

    def heatmap(self, token: int | Sequence[int], *, picture: int = 0, **how: Any) -> Tensor:
        """Attention from a token over a picture, (rows, columns) of its finest view.

        A coarser view of the same picture is spread over the finer one: no attention is lost or counted twice.

        Args:
            token: As in `token_attention`.
            picture: 0-based.
            **how: As in `token_attention`.

        Raises:
            ModelError: The family's image tokens have no places.
            OptionError: As in `token_attention`; also no such picture.
        """
        self._check(picture)
        if self.grid.finest(picture) == (0, 0):
            raise ModelError("this model's image tokens have no place in the picture; see trace.image_attention")
        return heat.spread(self.grid, picture, self.token_attention(token, **how))

    def overlay(self, token: int | Sequence[int], *, picture: int = 0, **how: Any) -> Image.Image:
        """Draw the picture with a token's attention over it; without a grid, with a strip of the tokens under it.

        Args:
            token: As in `token_attention`.
            picture: 0-based.
            **how: As in `token_attention`.
        """
        return self.overlay_of(self.token_attention(token, **how), picture=picture)

    def saliency(self, *, layers: Sequence[int] | None = None) -> Tensor:
        """Which image tokens the question is about, (N,) in [0, 1]: where the gaze shifts as its words are read.

        The informative words of the question count, the half of the heads that shifts most, clipped at three
        deviations: the map of GIFT (arXiv:2510.22067).

        Args:
            layers: Decoder layers to average over; None: the one of the traced layers with the largest shift.

        Raises:
            OptionError: A layer was not traced.
        """
        chosen = [int(self.gaze.sum(dim=1).argmax())] if layers is None else _within("layers", layers, self.layers)
        return scale(self.gaze[chosen].mean(dim=0))

    def overlay_of(self, values: Tensor, *, picture: int = 0) -> Image.Image:
        """Draw the picture with values of its image tokens over it, such as a finding; else as `overlay`.

        Args:
            values: (N,).
            picture: 0-based.
        """
        self._check(picture)
        if self.grid.finest(picture) == (0, 0):
            return heat.strip(self.pictures[picture], values[self.grid.image == picture])
        warmth = heat.spread(self.grid, picture, values)
        return heat.overlay(self.pictures[picture], warmth, heat.extent(self.grid, picture))

    def saliency_overlay(self, *, picture: int = 0, layers: Sequence[int] | None = None) -> Image.Image:
        """Draw the picture with `saliency` over it; without a grid, with a strip of the tokens under it.

        Args:
            picture: 0-based.
            layers: As in `saliency`.
        """
        return self.overlay_of(self.saliency(layers=layers), picture=picture)

    def contact_sheet(self, *, picture: int = 0, **how: Any) -> Image.Image:
        """Draw the picture once for each content word of the answer, with its heat over it and the word under it.

        Args:
            picture: 0-based.
            **how: As in `token_attention`.
        """
        self._check(picture)
        shrink_picture = [word for word in self.words if word.is_content] or list(self.words)
        share = self.image_share.mean(dim=(1, 2))
        cells = [
            (
                self.overlay(word.tokens, picture=picture, **how),
                f"{word.text}  {float(share[list(word.tokens)].mean()):.0%}",
            )
            for word in shrink_picture
        ]
        legend = "%: share of attention on the picture"
        return heat.sheet(cells or [(self.pictures[picture], "(no words)")], legend=legend)

    def _check(self, picture: int) -> None:
        if picture not in range(len(self.pictures)):
            there = f"from 0 to {len(self.pictures) - 1}" if self.pictures else "left alone: the prompt has no picture"
            raise OptionError("trace", "picture", picture, there)

    def save(self, path: str | Path) -> None:
        """Write the trace to a safetensors file, metadata included.

        Raises:
            DataError: The file cannot be written.
        """
        tensors = {
            "image_attention": self.image_attention,
            "gaze": self.gaze,
            **{name: getattr(self.grid, name) for name in ("image", "view", "row", "column")},
            **{f"{_FINDING}{name}": found for name, found in self.findings.items()},
            **{f"picture.{i}": torch.from_numpy(np.array(image)) for i, image in enumerate(self.pictures)},
        }
        if self.grid.edges is not None:
            tensors["edges"] = self.grid.edges
        told = {
            "answer": asdict(self.answer),
            "prompt": self.prompt,
            "layers": self.layers,
            "heads": self.heads,
            "words": [asdict(word) for word in self.words],
            "model": self.model,
        }
        held = {name: tensor.contiguous() for name, tensor in tensors.items()}
        try:
            save_file(held, path, metadata={"format": _FORMAT, "trace": json.dumps(told)})
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be written ({error}); give another name") from error

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace back.

        Raises:
            DataError: The file is missing, damaged, or no trace.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{path}: cannot be read as a trace ({error}); give a file written by Trace.save"
            ) from error
        if metadata.get("format") != _FORMAT:
            raise DataError(f"{path}: is no trace; give a file written by Trace.save")
        try:
            return cls._read(held, json.loads(metadata["trace"]))
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path}: is a damaged trace ({error!r})") from error

    @classmethod
    def _read(cls, held: dict[str, Tensor], told: dict[str, Any]) -> Trace:
        pictures = sum(name.startswith("picture.") for name in held)
        return cls(
            answer=_answer(told["answer"]),
            prompt=told["prompt"],
            image_attention=held["image_attention"],
            gaze=held["gaze"],
            layers=tuple(told["layers"]),
            heads=tuple(told["heads"]),
            grid=Grid(held["image"], held["view"], held["row"], held["column"], held.get("edges")),  # type: ignore[arg-type]
            words=tuple(Word(word["text"], tuple(word["tokens"])) for word in told["words"]),
            pictures=tuple(Image.fromarray(held[f"picture.{i}"].numpy()) for i in range(pictures)),
            model=told["model"],
            findings={name.removeprefix(_FINDING): found for name, found in held.items() if name.startswith(_FINDING)},
        )


def shrink_picture(image: Image.Image) -> Image.Image:
    """Return a picture at the size a trace keeps."""
    small = image.copy()
    small.thumbnail((_SHOWN, _SHOWN))
    return small


def check_indices(owner: str, asked: Sequence[int] | None, known: Sequence[int]) -> tuple[int, ...]:
    """Return the layers or heads asked for, all known ones by default.

    Raises:
        OptionError: One of them does not exist, or none is asked for.
    """
    if asked is None:
        return tuple(known)
    wanted = _indices(owner, asked)
    if not set(wanted) <= set(known):
        raise OptionError("trace", owner, wanted, f"among {_ranges(known)}")
    return tuple(dict.fromkeys(wanted))


def _indices(owner: str, asked: Any) -> list[int]:
    """Return one index or several as plain integers."""
    try:
        many = list(asked) if hasattr(asked, "__iter__") and getattr(asked, "ndim", None) != 0 else [asked]
        if not many or any(isinstance(index, bool) for index in many):
            raise TypeError
        return [operator.index(index) for index in many]
    except TypeError:
        raise OptionError("trace", owner, asked, "an index or several") from None


def _within(owner: str, asked: Sequence[int] | None, traced: Sequence[int]) -> list[int]:
    return [traced.index(index) for index in check_indices(owner, asked, traced)]


def _ranges(known: Sequence[int]) -> str:
    """Write 0, 1, 2, 5 as "0-2, 5"."""
    parts: list[list[int]] = []
    for index in known:
        if parts and index == parts[-1][-1] + 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _answer(told: dict[str, Any]) -> Answer:
    """Rebuild an answer from its JSON form."""
    sure = told["uncertainty"]
    return Answer(
        **{
            **told,
            "tokens": tuple(told["tokens"]),
            "token_ids": tuple(told["token_ids"]),
            "usage": Usage(**told["usage"]),
            "uncertainty": None if sure is None else Uncertainty(**{k: v and tuple(v) for k, v in sure.items()}),
            "others": tuple(_answer(other) for other in told["others"]),
        }
    )
