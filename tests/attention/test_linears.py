"""Linear layers of a few rows: the same product, and torch's own wherever nobody asks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmhall.attention import _linears as linears, few_rows
from mmhall.attention._linears import choose_orders, patch_linears, restore_linears, time_orders


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Nothing has been measured, and the smallest model is measured, too."""
    monkeypatch.setattr(linears, "_chosen", {})
    monkeypatch.setattr(linears, "_LEAST_BYTES", 0)


@pytest.fixture
def timing(monkeypatch):
    """A function that makes up a processor: the time of W x^T over x W^T, by shape and number of rows."""
    measured = []

    def set_ratio(ratio):
        def made_up(weights, rows):
            measured.append((rows, [tuple(weight.shape) for weight in weights]))
            return {tuple(weight.shape): (1.0, ratio(tuple(weight.shape), rows)) for weight in weights}

        monkeypatch.setattr(linears, "time_orders", made_up)
        return measured

    return set_ratio


@pytest.fixture
def paying(timing):
    """A CPU on which the other order is the faster one."""
    timing(lambda shape, rows: 0.5)


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def layer(request, paying):
    torch.manual_seed(0)
    made = nn.Linear(96, 130, bias=request.param)
    patch_linears([made])
    return made


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 1), (2, 3), (8, 1), (9, 1), (2, 40)])
def test_the_product_is_the_same(layer, shape):
    x = torch.randn(*shape, 96)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer(x), plain)
    with few_rows(stacked=False):
        assert torch.equal(layer(x), plain)
    with few_rows(stacked=True):
        got = layer(x)
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-5)
    assert got.shape == plain.shape
    assert got.is_contiguous()


def test_few_rows_are_multiplied_in_the_other_order(layer, monkeypatch):
    """Two to eight rows, stacked, in float32: else torch's own."""
    orders = []
    monkeypatch.setattr(torch, "mm", lambda *a, own=torch.mm: orders.append(a[1].shape[1]) or own(*a))
    with few_rows(stacked=True):
        for rows in (1, 2, 8, 9):
            layer(torch.randn(rows, 96))
        layer.bfloat16()(torch.randn(2, 96).bfloat16())
    assert orders == [2, 8]


def test_a_copy_multiplies_with_its_own_weights(layer):
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
    x = torch.randn(2, 96)
    with few_rows(stacked=True):
        assert not torch.equal(layer(x), other(x))


def test_closed_it_is_torchs_own_again(layer):
    restore_linears([layer])
    assert "forward" not in vars(layer)


def test_the_faster_order_is_taken_for_each_shape_and_number_of_rows(timing, monkeypatch):
    """The tall weight pays up to three rows, the square one for two only, the wide one never; measured once."""
    most = {(8, 4): 3, (4, 4): 2, (4, 8): 1}
    measured = timing(lambda shape, rows: 0.5 if rows <= most[shape] else 1.0)
    layers = {shape: nn.Linear(shape[1], shape[0], bias=False) for shape in most}
    patch_linears(layers.values())
    assert choose_orders([layer.weight for layer in layers.values()]) == most
    assert measured == [(2, [(8, 4), (4, 4), (4, 8)]), (3, [(8, 4), (4, 4)]), (5, [(8, 4)]), (8, [])]
    orders = []
    monkeypatch.setattr(torch, "mm", lambda *a, own=torch.mm: orders.append(tuple(a[0].shape)) or own(*a))
    with few_rows(stacked=True):
        for rows in (1, 2, 3, 4):
            for layer in layers.values():
                layer(torch.randn(rows, layer.in_features))
    assert orders == [(8, 4), (4, 4), (8, 4)]
    assert "forward" not in vars(layers[4, 8])


@pytest.mark.parametrize("ratio", [0.81, 1.0, 3.0])
def test_nothing_is_touched_where_it_would_not_clearly_pay(timing, ratio):
    timing(lambda shape, rows: ratio)
    layer = nn.Linear(4, 4)
    patch_linears([layer])
    assert "forward" not in vars(layer)


def test_a_model_that_a_cache_holds_is_neither_measured_nor_touched(timing, monkeypatch):
    monkeypatch.setattr(linears, "_LEAST_BYTES", 4 * 4 * 4)
    measured = timing(lambda shape, rows: 0.5)
    small, larger = nn.Linear(4, 4), nn.Linear(4, 5)
    patch_linears([small])
    assert not measured
    assert "forward" not in vars(small)
    patch_linears([larger])
    assert "forward" in vars(larger)


def test_a_weight_is_not_read_twice_in_a_row(monkeypatch):
    """As in a pass: read again at once, it would come from a cache."""
    weights, read = [torch.ones(3, 2), torch.ones(4, 2), torch.ones(3, 2)], []
    for name, place in (("linear", nn.functional), ("_swapped", linears)):
        product = getattr(place, name)
        monkeypatch.setattr(place, name, lambda x, w, own=product: read.append(id(w)) or own(x, w))
    times = time_orders(weights, 2)
    assert set(times) == {(3, 2), (4, 2)}
    assert all(seconds > 0 for pair in times.values() for seconds in pair)
    assert read == [id(weight) for weight in weights] * 6


def test_of_a_shape_only_so_many_weights_are_read_as_no_cache_holds(monkeypatch):
    monkeypatch.setattr(linears, "_MOST_BYTES", 100)
    read = []
    own = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda x, w: read.append(tuple(w.shape)) or own(x, w))
    time_orders([torch.ones(8, 2) for _ in range(5)] + [torch.ones(100, 2) for _ in range(2)], 2)
    assert read[: len(read) // 3] == [(8, 2), (8, 2), (100, 2)]  # 64 bytes each, and 800


class Quantised(torch.Tensor):
    """A weight that knows no product but its own."""


@pytest.mark.parametrize("kind", ["subclass", "bfloat16", "meta"])
def test_special_weights_are_left_alone(paying, kind):
    layer = nn.Linear(4, 4, device="meta" if kind == "meta" else None)
    if kind == "subclass":
        layer.weight = nn.Parameter(torch.Tensor._make_subclass(Quantised, layer.weight.data), requires_grad=False)
    if kind == "bfloat16":
        layer.bfloat16()
    patch_linears([layer])
    assert "forward" not in vars(layer)


def test_a_forward_of_someone_else_stays(layer):
    """Offloading puts hooks there."""
    other, calls = nn.Linear(4, 4), []
    other.forward = lambda x, own=other.forward: calls.append(1) or own(x)
    patch_linears([other])
    other(torch.randn(1, 4))
    restore_linears([other])
    other(torch.randn(1, 4))
    assert calls == [1, 1]


def test_subclasses_with_a_forward_of_their_own_are_left_alone():
    class Router(nn.Linear):
        def forward(self, x):
            return super().forward(x), "more"

    router = Router(4, 4)
    patch_linears([router])
    assert router(torch.randn(1, 4))[1] == "more"
