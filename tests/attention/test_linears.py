"""Linear layers of a few rows: the same product, and torch's own wherever nobody asks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmhall.attention import _linears as linears, few_rows
from mmhall.attention._linears import patch_linears, restore_linears


@pytest.fixture
def paying(monkeypatch):
    """A CPU on which the other order is the faster one."""
    monkeypatch.setattr(linears, "is_swapped_faster", lambda: True)


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


def test_the_faster_order_is_taken(monkeypatch):
    """Whichever it is here: measured once, and nothing is touched where it would not pay."""
    times = iter([[2.0], [1.0], [1.0], [2.0]])
    monkeypatch.setattr(linears, "repeat", lambda *_, **__: next(times))
    assert [linears.is_swapped_faster.__wrapped__() for _ in range(2)] == [True, False]
    monkeypatch.setattr(linears, "is_swapped_faster", lambda: False)
    layer = nn.Linear(4, 4)
    patch_linears([layer])
    assert "forward" not in vars(layer)


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
