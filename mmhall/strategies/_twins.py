"""Random twins: a strategy with its informed choice replaced by a random one, as a control.

A strategy chooses layers, heads, columns, a direction, or another input to contrast with. With the option `twin` set to
a seed, it makes the same edit with a random choice of the same size. What the twins reach too is not due to the choice.

Draws depend on the seed, on a name of what is drawn, and on the request alone: batches draw as single requests do, and
so do passes and threads.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mmhall.adapters import Adapter, Inputs
from mmhall.options import option

_SHAPES = 12  # of a drawn picture


def twin_option() -> Any:
    """Declare the option `twin`: 0 is the strategy itself, a larger number the seed of a random twin."""
    return option(0, low=0, high=2**31 - 1)


def twin_generator(twin: int, what: str) -> torch.Generator:
    """Return the random generator of one choice.

    Args:
        twin: The seed, >= 1.
        what: A name of the choice, such as "layer 3".
    """
    digest = hashlib.blake2b(f"{twin} {what}".encode(), digest_size=4).digest()  # torch reads 32 bits of a seed
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def random_like(vectors: Tensor, twin: int, what: str) -> Tensor:
    """Draw vectors of random direction with the norms of others, (..., D) to the same shape and dtype.

    Directions are uniform on the sphere. Each vector along the dimensions before the last has its own direction.

    Args:
        vectors: (..., D), in float32 or float64.
        twin: The seed.
        what: A name of the choice.
    """
    normal = torch.randn(vectors.shape, generator=twin_generator(twin, what), dtype=torch.float64)
    unit = normal / normal.norm(dim=-1, keepdim=True)
    scaled: Tensor = unit.to(vectors.device) * vectors.double().norm(dim=-1, keepdim=True)
    return scaled.to(vectors.dtype)


def random_subspace(size: int, rank: int, twin: int, what: str) -> Tensor:
    """Draw an orthonormal basis of a random subspace, (size, rank) float32.

    Args:
        size: Dimension of the space.
        rank: Dimension of the subspace, at most `size`.
        twin: The seed.
        what: A name of the choice.
    """
    normal = torch.randn((size, rank), generator=twin_generator(twin, what), dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(normal).Q
    return basis.float()


def random_choice(chosen: Tensor, twin: int, what: str, among: Tensor | None = None, *, others: bool = True) -> Tensor:
    """Choose as many entries of each row at random as were chosen, preferably others, (..., N) bool.

    All rows draw from one random order of the N entries. Where the entries that were not chosen are too few, the rest
    is drawn from the chosen ones. A strategy that chooses half of the entries sets `others=False`: its other half is
    the opposite choice, and the same for each seed.

    Args:
        chosen: The informed choice, (..., N) bool: heads of a layer, or layers.
        twin: The seed.
        what: A name of the choice.
        among: Entries that may be chosen, same shape; None: all. It must hold as many as `chosen`.
        others: Whether to prefer entries that were not chosen.
    """
    order = torch.randperm(chosen.shape[-1], generator=twin_generator(twin, what)).to(chosen.device)
    rank = order.argsort().expand(chosen.shape)
    if others:
        rank = rank + chosen.shape[-1] * chosen.long()  # the chosen ones come last
    if among is not None:
        rank = rank.masked_fill(~among, 3 * chosen.shape[-1])
    place = rank.argsort(dim=-1).argsort(dim=-1)
    drawn: Tensor = place < chosen.sum(dim=-1, keepdim=True)
    return drawn


def random_columns(adapter: Adapter, inputs: Inputs, chosen: Tensor, twin: int, what: str = "columns") -> Tensor:
    """Choose as many columns of each prompt at random, (batch, T) bool.

    They are drawn from the text, without the first token; where the text is shorter than the choice, from all tokens
    but the first. The draw does not depend on padding.

    Args:
        adapter: The model.
        inputs: The batch.
        chosen: The informed choice, such as image columns, (batch, T) bool.
        twin: The seed.
        what: A name of the choice.
    """
    attended, image = inputs["attention_mask"].bool(), adapter.image_mask(inputs["input_ids"])
    drawn = torch.zeros_like(chosen)
    for row in range(len(chosen)):
        tokens = attended[row].nonzero()[1:, 0]
        text = tokens[~(image[row] | chosen[row])[tokens]]
        count = int(chosen[row].sum())
        pool = text if len(text) >= count else tokens
        order = torch.randperm(len(pool), generator=twin_generator(twin, what)).to(pool.device)
        drawn[row, pool[order[:count]]] = True
    return drawn


def shuffled_columns(values: Tensor, columns: Tensor, twin: int, what: str = "values") -> Tensor:
    """Shuffle the values of each prompt's columns among them, (batch, T) to the same shape; others stay.

    Prompts with as many columns are shuffled alike. The order does not depend on padding.

    Args:
        values: Values of columns, such as a saliency map, (batch, T).
        columns: Columns to shuffle, such as image columns, (batch, T) bool.
        twin: The seed.
        what: A name of the values.
    """
    shuffled = values.clone()
    for row, marked in zip(shuffled, columns.to(values.device), strict=True):
        order = torch.randperm(int(marked.sum()), generator=twin_generator(twin, what))
        row[marked] = row[marked][order.to(row.device)]
    return shuffled


def other_pictures(adapter: Adapter, inputs: Inputs, twin: int, variant: int = 0) -> dict[str, Tensor]:
    """Return the same prompts with other pictures of the same sizes: coloured shapes, drawn from the seed.

    Args:
        adapter: The model.
        inputs: A batch with pictures, from the adapter.
        twin: The seed.
        variant: Which of several other pictures for each picture.

    Raises:
        ModelError: The inputs come from another processor, so that their pictures are not known.
    """
    return dict(
        adapter.with_pictures(inputs, lambda image, row, number: drawn_picture(image.size, twin, number, variant))
    )


def drawn_picture(size: tuple[int, int], twin: int, number: int = 0, variant: int = 0) -> Image.Image:
    """Draw a picture of random shapes in random colours on a random ground.

    Args:
        size: Width and height in pixels.
        twin: The seed.
        number: Index of the picture in its request.
        variant: Which of several such pictures.
    """
    generator = twin_generator(twin, f"picture {number} variant {variant}")

    def colour() -> tuple[int, ...]:
        return tuple(torch.randint(0, 256, (3,), generator=generator).tolist())

    picture = Image.new("RGB", size, colour())
    pen = ImageDraw.Draw(picture)
    for shape in range(_SHAPES):
        corners = torch.rand(2, 2, generator=generator).sort(dim=0).values * torch.tensor([size], dtype=torch.float32)
        box = [float(edge) for edge in corners.flatten()]
        (pen.ellipse if shape % 2 else pen.rectangle)(box, fill=colour())
    return picture
