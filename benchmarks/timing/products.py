"""Timing of linear layers with a few rows: what further branches, beams and exits cost at best on this machine.

On some processors two rows take the time of one, on others that of two, and the order of the product decides; see
`mmhall.attention.choose_orders`. All linear layers of the timed model's decoder are read in turn, as in a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from mmhall.attention import choose_orders, time_orders
from mmhall.benchmarks.timing.model import Size, random_llava

ROWS = 2, 3, 5, 8


@dataclass(frozen=True, slots=True)
class Product:
    """The time of a linear layer with a few rows over that with one row.

    Attributes:
        layer: Which linear layer.
        outputs: Number of outputs.
        inputs: Number of inputs.
        rows: Numbers of rows.
        usual: Ratio of x W^T, as torch computes it, for each of `rows`.
        swapped: Ratio of W x^T.
        chosen: Largest number of rows for which mmhall computes W x^T; 1: none.
    """

    layer: str
    outputs: int
    inputs: int
    rows: tuple[int, ...]
    usual: tuple[float, ...]
    swapped: tuple[float, ...]
    chosen: int


def measure(size: Size) -> list[Product]:
    """Time the products of a hidden x hidden layer and of the output layer of a model of this size, on the CPU."""
    model, _ = random_llava(size, "cpu")
    head = model.get_output_embeddings()
    decoder = [*model.model.language_model.modules(), head]
    weights = [module.weight for module in decoder if isinstance(module, nn.Linear)]
    one, few = time_orders(weights, 1), {rows: time_orders(weights, rows) for rows in ROWS}
    chosen = choose_orders(weights)
    named = {"hidden x hidden": (size.hidden, size.hidden), "output layer": tuple(head.weight.shape)}
    return [
        Product(
            layer=layer,
            outputs=shape[0],
            inputs=shape[1],
            rows=ROWS,
            usual=tuple(few[rows][shape][0] / one[shape][0] for rows in ROWS),
            swapped=tuple(few[rows][shape][1] / one[shape][0] for rows in ROWS),
            chosen=chosen[shape],
        )
        for layer, shape in named.items()
    ]


def table(products: Sequence[Product]) -> list[tuple[str, ...]]:
    """Format products as rows of cells, the header first; a star marks what mmhall computes for stacked branches."""
    rows: list[tuple[str, ...]] = [("LINEAR LAYER", "ORDER", *(f"{count} ROWS" for count in ROWS))]
    for product in products:
        for order, ratios in (("x W^T", product.usual), ("W x^T", product.swapped)):
            cells = []
            for count, ratio in zip(product.rows, ratios, strict=True):
                taken = (count <= product.chosen) == (order == "W x^T")
                cells.append(f"{ratio:.2f}{'*' if taken else ''}")
            rows.append((f"{product.layer}, {product.outputs} x {product.inputs}", order, *cells))
    return rows


def describe(size: Size) -> str:
    """Describe the table."""
    kind = str(size.dtype).removeprefix("torch.")
    return f"Time of a linear layer over one row of x W^T, {kind};\n*: what mmhall computes for branches and exits."
