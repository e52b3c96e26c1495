"""Residual-update directed decoding regulation (RUDDER).

Paper     arXiv:2511.10292, ICML 2026; the authors' code is released in part.
Idea      The updates that attention adds to a prompt's states carry visual evidence; pool them into one vector while
          the prompt is read, and add it to every new token, as strongly as the token's states agree with it.
Formula   v = N(pool over the prompt of a), a the attention's update of the layer, N(x) = x / |x|
          s = cos(h, v), h the input of the layer; p = softplus(k s + c), q = softplus(c - k s)
          a' = a + alpha g v, g = p / (p + q), at least floor, at the last position of the prompt and every later one
Defaults  c 1, floor 0.05, pool "mean"; LLaVA-1.5-7B layer 30 of 32, alpha 20, k 5; Idefics2 28, 8, 5; InstructBLIP
          1, 6.5, 8. Alpha is a length, and the lengths of states differ between models: tune it.
Cost      One vector is added per token; no further pass or branch.
Differs   The released code pools in a prefill of its own, over the difference of update and normed states
          (deviation=True), and gates on the update (gate_on="update"). Several layers may be named, each with its own
          vector. In models with a norm between attention and sum, the vector passes that norm too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize, softplus

from mmhall.adapters import Adapter, Inputs, has_picture
from mmhall.attention import SELF_ATTENTION, Op, Visit
from mmhall.options import by_model, option
from mmhall.strategies import Session, Strategy, layers_option, random_like, select_layers, twin_option


@dataclass(frozen=True)
class RUDDER(Strategy):
    """Add the prompt's pooled attention update to every new token.

    Attributes:
        alpha: Largest length of the added vector, >= 0; 0 adds nothing.
        k: Steepness of trust over agreement, >= 0; 0: trust is one half.
        c: Width of the range in which trust stays near one half, >= 0.
        floor: Smallest trust, in [0, 1].
        pool: Weight updates of all positions equally ("mean") or by their length ("length").
        gate_on: What must agree with the vector: the "residual" that enters the layer, or the "update".
        deviation: Whether to pool the update minus the normed states that attention reads.
        layers: Layers whose update is edited.
        twin: 0: the strategy; a larger number: the seed of a random twin (a direction at random, not the pooled one).
    """

    name: ClassVar[str] = "rudder"
    claims: ClassVar[frozenset[str]] = frozenset({"the update of attention"})
    published: ClassVar = {
        ("llava", 32): {"alpha": 20.0, "k": 5.0, "layers": "30"},
        ("idefics2", 32): {"alpha": 8.0, "k": 5.0, "layers": "28"},
        ("instructblip", 32): {"alpha": 6.5, "k": 8.0, "layers": "1"},
    }

    alpha: float = by_model(8.0, low=0, tries=(2.0, 4.0, 8.0, 12.0, 16.0, 20.0))
    k: float = by_model(5.0, low=0)
    c: float = option(1.0, low=0)
    floor: float = option(0.05, low=0, high=1)
    pool: str = option("mean", choices=("mean", "length"))
    gate_on: str = option("residual", choices=("residual", "update"))
    deviation: bool = option(False)
    layers: str = layers_option("95%")
    twin: int = twin_option()

    def prepare(self, adapter: Adapter, inputs: Inputs) -> Session:
        """Pool while the prompt is read, then add the vector; without a picture return an empty session."""
        if not has_picture(inputs) or self.alpha == 0:
            return Session()
        layers = select_layers(adapter, self, "layers", self.layers, SELF_ATTENTION, whole=True)
        return Session(ops=[_AddVector(self, layers, inputs["attention_mask"].bool())])

    def trust(self, agreement: Tensor) -> Tensor:
        """Return the share of `alpha` that is added at some cosine, same shape."""
        up, down = (softplus(sign * self.k * agreement + self.c) for sign in (1, -1))
        return (up / (up + down)).clamp_min(self.floor)


class _AddVector(Op):
    """Pools the attention update of a prompt, and adds it to new tokens."""

    sites = frozenset({"attn"})

    def __init__(self, options: RUDDER, layers: frozenset[int], attended: Tensor) -> None:
        self.layers, self._options, self._attended = layers, options, attended
        self._entering: Tensor  # the input of the current layer
        self._vectors: dict[int, Tensor] = {}

    def see_states(self, visit: Visit) -> None:
        self._entering = visit.states

    def edit_states(self, visit: Visit, states: Tensor) -> Tensor:
        options, rows = self._options, visit.newest
        if visit.prefill:
            updates = states.float() - visit.source.float() if options.deviation else states.float()
            pooled = pool_updates(updates, self._attended.to(states.device), options.pool)
            if options.twin:  # one direction for all prompts
                pooled = random_like(pooled[:1], options.twin, f"layer {visit.layer}").expand_as(pooled)
            self._vectors[visit.layer] = pooled
        vector = visit.each(self._vectors[visit.layer])[:, None]
        gated = self._entering if options.gate_on == "residual" else states
        trust = options.trust(cosine_similarity(gated[:, rows].float(), vector, dim=-1))
        added = options.alpha * trust[..., None] * vector
        return states.index_copy(1, rows, (states[:, rows].float() + added).to(states.dtype))


def pool_updates(updates: Tensor, attended: Tensor, pool: str) -> Tensor:
    """Pool updates over positions into a vector of length 1, (B, D).

    The mean of (3, 4) and (0, 1) is (1.5, 2.5), of length 2.915; weighted by their lengths 5 and 1 it is (2.5, 3.5).

    Args:
        updates: (B, T, D).
        attended: Positions without padding, (B, T) bool.
        pool: "mean", or "length": weighted by each update's length.
    """
    weights = attended[..., None] * (updates.norm(dim=-1, keepdim=True) if pool == "length" else 1.0)
    return normalize((weights * updates).sum(dim=1), dim=-1)
