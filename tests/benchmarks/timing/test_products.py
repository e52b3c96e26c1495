"""The table of products shows what was measured, and marks the order that mmhall takes."""

from __future__ import annotations

import pytest
import torch

from mmhall.attention import _linears as linears
from mmhall.benchmarks.timing import model, products

TINY = model.Size(2, 128, torch.float32)


def test_products_are_over_one_row_and_the_order_that_is_taken_is_marked(monkeypatch):
    """A made-up processor: x W^T takes as long as it has rows, W x^T a second and a half up to three rows."""

    def made_up(weights, rows):
        return {tuple(weight.shape): (2.0 * rows, 3.0 if rows <= 3 else 99.0) for weight in weights}

    monkeypatch.setattr(products, "time_orders", made_up)
    monkeypatch.setattr(linears, "time_orders", made_up)
    monkeypatch.setattr(linears, "_chosen", {})
    monkeypatch.setattr(linears, "_LEAST_BYTES", 0)
    hidden, head = products.measure(TINY)
    assert (hidden.outputs, hidden.inputs, head.outputs, head.inputs) == (128, 128, 32000, 128)
    assert hidden.rows == head.rows == (2, 3, 5, 8)
    assert head.usual == (2.0, 3.0, 5.0, 8.0)
    assert head.swapped == (1.5, 1.5, 49.5, 49.5)
    assert head.chosen == 3
    _, usual, swapped, *_ = products.table([head, hidden])
    assert usual == ("output layer, 32000 x 128", "x W^T", "2.00", "3.00", "5.00*", "8.00*")
    assert swapped == ("output layer, 32000 x 128", "W x^T", "1.50*", "1.50*", "49.50", "49.50")


@pytest.mark.slow
def test_the_model_is_measured():
    for product in products.measure(TINY):
        assert all(ratio > 0 for ratio in (*product.usual, *product.swapped))
    assert "float32" in products.describe(TINY)
