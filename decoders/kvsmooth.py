"""Smoothing of keys and values (KVSmooth).

Paper     CVPR 2026, arXiv:2602.04268, known from summaries; no released code was found.
Idea      A token that attends diffusely writes unstable keys and values; pull them towards those of the token before,
          the more, the more diffuse its attention is among recent tokens.
Formula   e = entropy of the newest row's attention in a layer, mean over heads
          r = share of the last `window` entropies of the layer, e included, that are smaller than e
          lambda = r, kept within strength - width and strength + width, and within 0 and 1
          K_t = (1 - lambda) K_t + lambda K_(t-1), V_t likewise, in the cache, for later tokens; in all `layers`
Defaults  window 15, width 0.2, all layers but the first three; strength 0.9 for LLaVA-1.5-7B, 0.7 for InstructBLIP and
          other models.
Cost      The newest row's attention is computed explicitly, not by the fused kernel.
Compared  keys: paper before or after rotary embedding is not known; ours after, as the cache holds them
          column before: paper not known; ours the smoothed one (previous="raw": as it was computed)
          own column: paper not known; ours raw for the token itself, smoothed for later tokens
          ranks: paper not known; ours among entropies of the answer, e included; the first token has lambda = strength
          baseline: paper not known to be greedy or sampled; ours what runs beside it
Differs   Layers of sliding windows, chunks or recurrence are left out: their caches do not hold every column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import LongTensor, Tensor

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import Call, Op
from mmhall.options import by_model, option
from mmhall.strategies import Session, Strategy, layers_option, select_layers, twin_generator, twin_option

_QUEUE = "kvsmooth entropies"
_RAW = "kvsmooth raw {}"


@dataclass(frozen=True)
class KVSmooth(Strategy):
    """Pull each new key and value towards the ones before, more where attention is diffuse.

    Attributes:
        strength: Middle of the range of lambda, in [0, 1].
        width: How far lambda may be from `strength`, in [0, 1]; 0: lambda is constant; with strength 0, nothing is
            smoothed.
        window: Number of recent entropies among which a new one is ranked, >= 1.
        previous: Which column a new one is pulled towards: the "smoothed" one before, or the "raw" one.
        layers: Layers in which keys and values are smoothed.
        twin: 0: the strategy; a larger number: the seed of a random twin (ranks at random instead of those of the
            entropies).
    """

    name: ClassVar[str] = "kvsmooth"
    claims: ClassVar[frozenset[str]] = frozenset({"the cached keys and values"})
    published: ClassVar = {
        ("llava", 32): {"strength": 0.9, "layers": "3:"},
        ("instructblip", 32): {"strength": 0.7, "layers": "3:"},
    }

    strength: float = by_model(0.7, low=0, high=1, tries=(0.3, 0.5, 0.7, 0.9))
    width: float = option(0.2, low=0, high=1)
    window: int = option(15, low=1, high=4096)
    previous: str = option("smoothed", choices=("smoothed", "raw"))
    layers: str = layers_option("9%:")
    twin: int = twin_option()

    def refusal(self, adapter: Adapter) -> str | None:
        """Refuse models in which layers share keys, or none caches every column."""
        if adapter.newest_only:
            return "some of its layers reuse the keys and values of earlier layers in the same pass"
        if "full" not in adapter.kinds:
            return "none of its layers caches the keys and values of all tokens"
        return None

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Smooth the columns of the answer; without a picture return an empty session."""
        if not has_picture(inputs) or self.strength == self.width == 0:
            return Session()
        return Session(ops=[_Smooth(self, select_layers(adapter, self, "layers", self.layers, {"full"}))])

    def smoothing(self, entropies: Tensor) -> Tensor:
        """Return lambda of the newest of some entropies, (..., window) to (...).

        The last of 1.0, 1.4, 0.8, 1.2, 1.1 is larger than two of five: rank 0.4. With strength 0.7 and width 0.2 lambda
        is 0.5.

        Args:
            entropies: Recent entropies, the newest last.
        """
        rank = (entropies[..., :-1] < entropies[..., -1:]).sum(dim=-1) / entropies.shape[-1]
        return self.limited(rank) if entropies.shape[-1] > 1 else torch.full_like(entropies[..., 0], self.strength)

    def limited(self, rank: Tensor) -> Tensor:
        """Return lambda for ranks in [0, 1], same shape."""
        return rank.clamp(max(0.0, self.strength - self.width), min(1.0, self.strength + self.width))


class _Smooth(Op):
    """Smooths the newest column of each layer, for later tokens."""

    kinds, remembers, first_row = frozenset({"full"}), True, -1
    writes = True  # nothing; but the row, whose weights are needed anyhow, is then not computed by SDPA a second time

    def __init__(self, options: KVSmooth, layers: frozenset[int]) -> None:
        self.layers, self._options, self._order = layers, options, sorted(layers)
        self._newest: list[Tensor] = []  # entropies of this pass in the layers so far, (B,) each
        self._shares: dict[int, list[Tensor]] = {layer: [] for layer in self._order}

    def rows(self, call: Call) -> LongTensor | None:
        return None if call.step == 0 or self._options.twin else call.newest

    def see(self, call: Call, rows: LongTensor, probs: Tensor) -> None:
        self._newest = [] if call.layer == self._order[0] else self._newest
        self._newest.append(torch.special.entr(probs[:, :, -1]).sum(dim=-1).mean(dim=-1))

    def keep(self, call: Call, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor] | None:
        if call.step == 0:
            return None
        share = self._random(call) if self._options.twin else self._ranked(call)
        self._shares[call.layer].append(share)
        before = self._before(call, keys, values)
        smoothed = [
            torch.lerp(part.float(), past.float(), share[:, None, None, None]).to(part.dtype)
            for part, past in zip((keys, values), before, strict=True)
        ]
        return smoothed[0], smoothed[1]

    def findings(self, depth: int) -> dict[str, Tensor]:
        shares = (self._shares.get(layer) for layer in range(depth))
        means = [float(torch.stack([part[0] for part in found]).mean()) if found else math.nan for found in shares]
        return {"smoothing": torch.tensor(means)[:, None]}

    def _ranked(self, call: Call) -> Tensor:
        """Return lambda of each row, (B,); after the last layer, store the entropies of the pass."""
        place, memory = self._order.index(call.layer), call.memory
        newest = self._newest[-1][:, None]
        recent = memory[_QUEUE][:, place] if _QUEUE in memory else newest[:, :0]
        share = self._options.smoothing(torch.cat([recent.to(newest.device), newest], dim=1))
        if call.layer == self._order[-1]:
            added = torch.stack([part.to(newest.device) for part in self._newest], dim=1)[:, :, None]
            queue = torch.cat([memory[_QUEUE].to(newest.device), added], dim=2) if _QUEUE in memory else added
            kept = self._options.window - 1
            memory[_QUEUE] = queue[:, :, max(0, queue.shape[2] - kept) :]
        return share

    def _random(self, call: Call) -> Tensor:
        """Return lambda for a rank at random, the same in all rows, (B,)."""
        generator = twin_generator(self._options.twin, f"layer {call.layer}, token {call.step}")
        count = min(call.step, self._options.window)
        rank = torch.randint(count, (1,), generator=generator) / count
        share = self._options.limited(rank) if count > 1 else torch.full((1,), self._options.strength)
        return share.to(call.device).expand(len(call.key))

    def _before(self, call: Call, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the column before, (B, KV, 1, D)."""
        if self._options.previous == "smoothed":
            return call.key[:, :, -2:-1], call.value[:, :, -2:-1]
        name, memory = _RAW.format(call.layer), call.memory
        raw = memory.get(name)
        memory[name] = torch.cat([keys, values], dim=-1)
        if raw is None:  # the last column of the prompt
            return call.key[:, :, -2:-1], call.value[:, :, -2:-1]
        return raw[..., : keys.shape[-1]], raw[..., keys.shape[-1] :]
