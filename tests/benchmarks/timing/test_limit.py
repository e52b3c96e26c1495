"""The limit that memory sets is its bandwidth over what a step reads."""

from __future__ import annotations

import pytest
import torch

from mmhall.benchmarks.timing import limit, model


def test_the_limit_is_bandwidth_over_bytes():
    """2 GB of weights and 0.5 GB of cache at 100 GB/s: 40 tokens a second, a step of 0.1 s reaches a quarter."""
    found = limit.Limit(2_000_000_000, 500_000_000, 100e9)
    assert found.tokens_per_second == 40
    assert found.describe(0.1) == (
        "A step of one row reads 2.0 GB of weights and 500 MB of cache. Memory is read at 100 GB/s here, which allows "
        "40 tokens a second; plain generate reaches 25% of that."
    )


def test_bytes_are_those_of_the_decoder_and_of_its_cache():
    size, tokens = model.Size(2, 128, torch.bfloat16), 64
    adapter = model.random_adapter(size, "cpu")
    decoder, head = adapter.model.model.language_model, adapter.model.lm_head
    inputs = model.timed_request(adapter)
    with torch.inference_mode():
        cache = adapter.model(**inputs, use_cache=True).past_key_values
    prompt = sum(each.nbytes for layer in cache.layers for each in (layer.keys, layer.values))
    found = limit.measure(size, "cpu", tokens)
    assert found.weights == sum(each.nbytes for part in (decoder.layers, head) for each in part.parameters())
    assert found.cache == pytest.approx(prompt * (1 + tokens / 2 / inputs["input_ids"].shape[1]), rel=0.01)


def test_bandwidth_is_measured(monkeypatch):
    """A clock that ticks once a second between the first and the last look: 4 MB take a second."""
    monkeypatch.setattr(limit.time, "perf_counter", iter(range(20)).__next__)
    assert limit.measure_bandwidth("cpu", 4_000_000) == 4e6
