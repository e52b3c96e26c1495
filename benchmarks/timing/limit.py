"""The tokens per second that memory allows: a step of one row reads all weights of the decoder, and the cache, once.

No way of decoding one token at a time is faster on this machine, unless weights stay in a processor's cache; how near
plain `generate` comes says how much of a step is anything else. The bandwidth is measured by reading numbers that no
cache holds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from mmhall.benchmarks.timing.model import IMAGE_TOKENS, TEXT_TOKENS, Size, random_llava

_BYTES = {"cpu": 2**29, "cuda": 2**32}  # read at once, by type of device
_TURNS = 5  # the fastest of them counts


@dataclass(frozen=True, slots=True)
class Limit:
    """What a step of one row reads, and how fast memory is read.

    Attributes:
        weights: Bytes of the decoder's weights, with the output layer, without the table of embeddings.
        cache: Bytes of keys and values, on average over an answer.
        bandwidth: Bytes per second.
    """

    weights: int
    cache: int
    bandwidth: float

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of a step that only reads."""
        return self.bandwidth / (self.weights + self.cache)

    def describe(self, step: float) -> str:
        """Describe the limit beside a step of so many seconds."""
        reached = 1 / (step * self.tokens_per_second)
        return (
            f"A step of one row reads {_size(self.weights)} of weights and {_size(self.cache)} of cache. "
            f"Memory is read at {self.bandwidth / 1e9:.3g} GB/s here, which allows {self.tokens_per_second:,.0f} "
            f"tokens a second; plain generate reaches {reached:.0%} of that."
        )


def measure(size: Size, device: str, new_tokens: int) -> Limit:
    """Count what a step of the timed model reads, and measure how fast memory is read.

    Args:
        size: Size of the model.
        device: "cpu" or "cuda".
        new_tokens: Number of tokens of an answer.
    """
    model, _ = random_llava(size, "meta")
    parts = model.model.language_model.layers, model.get_output_embeddings()
    weights = sum(parameter.nbytes for part in parts for parameter in part.parameters())
    positions = IMAGE_TOKENS + TEXT_TOKENS + new_tokens // 2
    cache = 2 * size.layers * size.hidden * positions * size.dtype.itemsize  # each head has its own keys and values
    return Limit(weights, cache, measure_bandwidth(device))


@torch.inference_mode()
def measure_bandwidth(device: str, size: int | None = None) -> float:
    """Return the bytes per second at which a device reads its memory.

    Args:
        device: "cpu" or "cuda".
        size: Bytes to read; None: so many that no cache holds them.
    """
    numbers = torch.ones((_BYTES[device] if size is None else size) // 4, device=device)
    best = 0.0
    for _ in range(_TURNS):
        began = time.perf_counter()
        numbers.sum().item()  # waits for the device
        best = max(best, numbers.nbytes / (time.perf_counter() - began))
    return best


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
