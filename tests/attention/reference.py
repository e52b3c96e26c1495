"""Plain eager attention on a copy of a model, with the edits under test, and the ops that ask mmhall for the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import eager_mask

from mmhall._transformers.calls import CACHE
from mmhall.adapters._base import Adapter
from mmhall.attention import SELF_ATTENTION, Block, Call, Frame, Op, active
from mmhall.attention._passes import Pass
from mmhall.generation._settings import Settings
from mmhall.lvlm import LVLM
from mmhall.strategies import strategy
from tests.jobs import run

PROMPTS = ("Is there a dog in the image?", "What is on the left of it, and what is behind that? Tell me.")
SIZES = ((40, 24), (30, 56))
NEW = 5

EVERY = SELF_ATTENTION | {"cross"}
Edit = Callable[[int, Tensor], Tensor]


class Eager:
    """A copy of a bound model whose decoder attends eagerly; it caches every column, also of sliding layers.

    Edits take the layer and what it computed for all rows: masked scores (B, H, Q, K), weights (B, H, Q, K) or
    head outputs (B, Q, H, Dv).

    Attributes:
        model: The copy.
        maps: Weights of the latest run by layer, one (B, H, Q, K) a pass; columns are positions of the prompt.
        values: Values of the latest layer, (B, H, K, Dv).
    """

    def __init__(self, adapter):
        self.model, decoder, layers = copy.deepcopy((adapter.model, adapter.decoder, adapter.layers))
        self._cache = (lambda: None) if "linear" in adapter.kinds else DynamicCache
        self._edits, self.maps = {}, [[] for _ in layers]
        for index, layer in enumerate(layers):
            for part in layer.modules():
                part.eager = self, index
        decoder.set_attn_implementation("eager_reference")
        decoder.config.output_hidden_states = True  # else Gemma 4 leaves out rows of a prompt where keys are shared

    def logits(self, inputs, **edits: Edit) -> Tensor:
        self._begin(edits)
        pictured = "pixel_values" in inputs
        model = (
            self.model if pictured else getattr(self.model, "language_model", self.model)
        )  # of a BLIP, the inner one
        with torch.no_grad():
            return model(**inputs).logits

    def generate(self, inputs, config, **edits: Edit) -> Tensor:
        """Return the new tokens that transformers' own search finds."""
        self._begin(edits)
        ids = self.model.generate(**inputs, generation_config=config, **{CACHE: self._cache()})
        return ids[:, -config.max_new_tokens :]

    def edited(self, what: str, layer: int, tensor: Tensor) -> Tensor:
        return self._edits[what](layer, tensor) if what in self._edits else tensor

    def _begin(self, edits):
        assert set(edits) <= {"scores", "probs", "output"}
        self._edits, self.maps = edits, [[] for _ in self.maps]


def _attend(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    eager, layer = module.eager
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = eager.edited("scores", layer, query @ key.transpose(-1, -2) * scaling + attention_mask)
    probs = eager.edited("probs", layer, scores.softmax(-1))
    eager.maps[layer].append(probs)
    eager.values = value
    output = eager.edited("output", layer, (probs @ value).transpose(1, 2))
    return output.contiguous(), probs


AttentionInterface.register("eager_reference", _attend)
AttentionMaskInterface.register("eager_reference", eager_mask)


def reweighed(weights: Tensor) -> Edit:
    """Multiply the weights of each layer by (layer, B, H, position) and renormalise."""

    def edit(layer, probs):
        weighted = probs * weights[layer][: len(probs), :, None, : probs.shape[-1]]
        return weighted / weighted.sum(-1, keepdim=True)

    return edit


def planned(lvlm, inputs, *ops) -> Tensor:
    """Return the logits of one pass with ops."""
    with torch.no_grad(), active(lvlm.adapter.plan(ops)):
        return lvlm.model(**inputs).logits


def given_scores(scores: Tensor, mask: Tensor | None = None) -> Call:
    """Return a call with these scores, (B, H, T, T), whose head outputs are its weights: values are unit vectors."""
    rows, heads, count, _ = scores.shape
    block = Block(None)
    units = torch.eye(count).expand(rows, heads, -1, -1)
    return Call(0, "full", Pass(Frame((block,)), block, count, count, None), 0, scores, units, units, mask, 1.0)


def real(logits, inputs):
    """Leave out padded positions, whose values nobody reads."""
    return logits[inputs["attention_mask"].bool()]


class See(Op):
    """Sees rows at some positions of the prompt, and every row after it."""

    kinds = EVERY

    def __init__(self, positions):
        self._wanted, self.calls, self.seen = torch.tensor(positions), [], []

    def rows(self, call):
        return call.rows_at(self._wanted) if call.step == 0 else call.newest

    def see(self, call, rows, probs):
        self.calls.append(call)
        self.seen.append((call.layer, probs))


class Weigh(Op):
    """Multiplies weights by (layer, B, H, position)."""

    kinds = EVERY

    def __init__(self, weights):
        self._log = weights.log()

    def bias(self, call):
        columns = torch.arange(call.key.shape[2]) + call.offset
        return self._log[call.layer, : len(call.key), :, None, columns.clamp_min(0)]


class Scale(Op):
    """Scales head outputs by (layer, H)."""

    kinds = EVERY

    def __init__(self, gains):
        self._gains = gains

    def edit_output(self, call, output):
        return output * self._gains[call.layer][:, None]


class Override(Op):
    """Edits the last row."""

    kinds, writes = EVERY, True

    def __init__(self, scores: Edit | None = None, probs: Edit | None = None):
        self._scores, self._probs = scores, probs

    def rows(self, call):
        return call.newest

    def edit_scores(self, call, rows, scores):
        return scores if self._scores is None else self._scores(call.layer, scores)

    def edit_probs(self, call, rows, probs):
        return probs if self._probs is None else self._probs(call.layer, probs)


def pictures() -> list[Image.Image]:
    generator = torch.Generator().manual_seed(3)
    return [
        Image.fromarray(torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).numpy())
        for width, height in SIZES
    ]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def close(got, wanted):
    """5e-5 for logits up to 5, and as much more as they are larger: so much do eager and SDPA differ by themselves."""
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5 * max(5.0, float(wanted.abs().max())))


@dataclass
class Family:
    """A bound model, a copy that was never bound, and a copy that attends eagerly."""

    lvlm: LVLM
    own: PreTrainedModel
    eager: Eager


@dataclass
class Case(Family):
    """A family with a batch; weights (layer, B, H, position) are drawn anew for every layer, prompt and head."""

    inputs: dict[str, torch.Tensor]
    weights: torch.Tensor

    @property
    def adapter(self) -> Adapter:
        return self.lvlm.adapter

    @property
    def length(self) -> int:
        return self.inputs["input_ids"].shape[1]

    @property
    def newest_only(self) -> tuple[int, ...]:
        """Layers that `generate` gives no more than the newest row of a prompt, as they only reuse earlier keys."""
        return (2, 3) if self.lvlm.name == "gemma4" else ()

    def passes(self, count: int) -> list[tuple[int, int]]:
        """List the step and layer of every attention call in some passes."""
        attending = [layer for layer, kind in enumerate(self.adapter.kinds) if kind != "linear"]
        return [(step, layer) for step in range(count) for layer in attending]

    def check_seen(self, op: See, positions: list[int]) -> None:
        """Check that what an op saw while decoding are the rows of the eager reference's latest run."""
        for call, (layer, probs) in zip(op.calls, op.seen, strict=True):
            wanted = self.eager.maps[layer][call.step]
            placed = torch.zeros(*probs.shape[:3], wanted.shape[-1])
            placed[..., call.offset : call.offset + probs.shape[-1]] = probs
            rows = [-1] if call.step > 0 or layer in self.newest_only else positions
            torch.testing.assert_close(placed, wanted[:, :, rows], rtol=0, atol=1e-5)

    @cached_property
    def plain(self) -> torch.Tensor:
        return planned(self.lvlm, self.inputs)

    def config(self, new: int = NEW):
        config = Settings(max_new_tokens=new).resolved(self.own)
        config.min_new_tokens = new
        return config

    @cached_property
    def unsteered(self) -> torch.Tensor:
        """What the model writes by itself."""
        return self.own.generate(**self.inputs, generation_config=self.config())[:, -NEW:]

    @cached_property
    def weighed(self) -> torch.Tensor:
        """What mmhall writes with the case's weights."""
        return self.generate(Weigh(self.weights))

    def generate(self, *ops: Op, new: int = NEW) -> torch.Tensor:
        return run(self.adapter, self.inputs, strategy("greedy"), self.config(new), 0, watch=ops)
