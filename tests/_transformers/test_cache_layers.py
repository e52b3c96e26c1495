"""A cache layer that grows in place holds what a concatenating one holds, whoever replaces or copies its tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from mmhall._transformers import caches
from mmhall._transformers.cache_layers import RoomyLayer


def states(count, rows=2):
    return torch.randn(rows, 3, count, 4), torch.randn(rows, 3, count, 5)


def same(layer, other):
    for own, its in ((layer.keys, other.keys), (layer.values, other.values)):
        assert torch.equal(own, its)
    assert layer.get_seq_length() == other.get_seq_length()


@pytest.fixture
def pair():
    """The layer, and one of transformers', after a prompt of 7 positions."""
    layers = RoomyLayer(), DynamicLayer()
    grow(*layers, 7)
    return layers


def grow(layer, other, count=1, rows=2):
    given = states(count, rows)
    for one in (layer, other):
        one.update(*given)
    same(layer, other)


def test_steps_write_in_place_until_the_room_is_full(pair):
    layer, _ = pair
    places = set()
    for _ in range(150):
        grow(*pair)
        places.add((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(places) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.reorder_cache(torch.tensor([1, 0])),
        lambda layer: layer.crop(-3),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.batch_select_indices(torch.tensor([1])),
        lambda layer: setattr(layer, "keys", layer.keys[:, :, 2:]) or setattr(layer, "values", layer.values[:, :, 2:]),
    ],
    ids=["reorder", "crop", "repeat", "select", "drop first"],
)
def test_whatever_others_do_to_its_tensors_is_kept(pair, change):
    grow(*pair)
    for layer in pair:
        change(layer)
    for _ in range(3):
        grow(*pair, rows=len(pair[0].keys))


def test_what_was_handed_out_before_a_crop_stays_as_it_was(pair):
    layer, other = pair
    grow(*pair)
    (given, values), kept = (layer.keys, layer.values), (layer.keys.clone(), layer.values.clone())
    for one in pair:
        one.crop(-3)
    grow(layer, other, 2)
    torch.testing.assert_close((given, values), kept, rtol=0, atol=0)
    place = layer.keys.data_ptr()
    grow(layer, other)
    assert layer.keys.data_ptr() == place  # copied once


def test_after_a_reset_it_is_empty(pair):
    """Transformers' own keeps zeros in older versions."""
    pair[0].reset()
    assert pair[0].get_seq_length() == 0
    grow(pair[0], DynamicLayer())


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_a_copy_and_its_original_go_on_by_themselves(pair, way):
    layer, other = pair
    copied, kept = way(layer), way(other)
    grow(layer, other)
    grow(copied, kept)
    grow(layer, other)
    same(copied, kept)


def test_it_serves_gradients_and_both_modes_of_inference(pair):
    with torch.inference_mode():
        grow(*pair)
    grow(*pair)
    layer, _ = pair
    keys, values = states(1)
    keys.requires_grad_()
    layer.update(keys, values)
    layer.keys.sum().backward()
    assert torch.equal(keys.grad, torch.ones_like(keys))


def test_only_empty_dynamic_layers_become_roomy():
    cache, filled = DynamicCache(), DynamicCache()
    filled.update(*states(2), 0)
    for one in (cache, filled):
        caches.give_room(one)
        one.update(*states(1), 0)
        one.update(*states(1), 1)
    assert [type(layer) for layer in cache.layers] == [RoomyLayer, RoomyLayer]
    assert type(filled.layers[0]) is DynamicLayer
