"""A model bound to mmhall's attention: its parts, and what it can do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from mmhall.adapters._anatomy import SITES, Anatomy, find_decoder, find_image_token, kinds_of
from mmhall.adapters._batch import Batch, Inputs, has_picture
from mmhall.adapters._tower import tower_of
from mmhall.attention import (
    FEATURES,
    ROWS,
    VISION,
    Call,
    Drop,
    Exit,
    Exits,
    Op,
    OpenTower,
    PictureRows,
    Plan,
    active,
    acts_at_site,
    check_layers,
    install_attention_hook,
    overrides,
    remove_attention_hook,
)
from mmhall.errors import CompositionError, ModelError


class BoundModel:
    """Holds one loaded model whose attention can be read and steered.

    Attributes:
        model: The loaded model.
        processor: Its processor; None where only tensors are at hand.
        decoder: The language model inside it.
        layers: The decoder's layers.
        kinds: What each layer attends to: "full", "sliding", "chunked", "cross" (the picture), or "linear" (nothing).
        heads: Query heads of a layer.
        tuned: Options found best for this very model, by strategy; empty unless `mmhall tune` was run for it.
        artifacts: What strategies have learnt about this very model, by strategy; empty unless `mmhall fit` was run.
        image_token_id: Id that marks image positions in `input_ids`.
    """

    request_notes: ClassVar[tuple[str, ...]] = ()  # attributes in which the model notes something of the last request
    causal: ClassVar[bool] = False  # whether no row of a prompt's text sees what follows it; a family says so itself

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin | None = None) -> None:
        """Bind the decoder's attention to mmhall's door; plain SDPA as long as no plan is active.

        Raises:
            ModelError: The model lacks what mmhall needs, or attends in a way mmhall would get wrong.
        """
        self.model, self.processor = model, processor
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        self.decoder, self.layers = find_decoder(model)
        config = self.decoder.config
        self.kinds = kinds_of(config, len(self.layers))
        self.heads: int = config.num_attention_heads
        self.tuned: Mapping[str, Mapping[str, Any]] = {}
        self.artifacts: Mapping[str, Any] = {}
        self.image_token_id: int = find_image_token(model)
        self._accepted = {name for name in inspect.signature(model.forward).parameters if name != "labels"}
        install_attention_hook(self.decoder, self.layers, model.get_output_embeddings())
        self._open = True
        self._tower = OpenTower()

    def close(self) -> None:
        """Give the model its own attention back, unless someone else still needs mmhall's."""
        if self._open:
            self._open = False
            remove_attention_hook(self.decoder, self.model.get_output_embeddings())
            self._tower.close()

    def check_attention_hook(self) -> None:
        """Check that every attention layer of an untested family really goes through the door.

        Raises:
            ModelError: Some layer attends by itself, so that plans would be ignored without a word.
        """
        seen: list[int] = []

        class Count(Op):
            def edit_output(self, call: Call, output: Tensor) -> Tensor:
                seen.append(call.layer)
                return output

        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        with torch.inference_mode(), active(self.plan([Count()])):
            self.decoder(input_ids=ids, use_cache=False)
        wanted = [layer for layer, kind in enumerate(self.kinds) if kind in Count.kinds]
        if seen != wanted:
            raise ModelError(
                f"{self.model.config.model_type}: layers {sorted(set(wanted) ^ set(seen))} do not attend through "
                "transformers' attention interface exactly once; mmhall cannot read or steer them"
            )

    def plan(self, ops: Sequence[Op], inputs: Inputs | None = None, *, empty: bool = False) -> Plan | None:
        """Sort ops into the layers of the decoder and the vision tower.

        Args:
            ops: No ops: no plan.
            inputs: The batch to be read: tells ops which patches of the vision tower belong to which prompt.
            empty: Without ops, return a plan that asks for nothing.

        Raises:
            ModelError: The adapter was closed: ops would be ignored without a word; or the model lacks a part or site,
                or its layers cannot do without tokens that are to be dropped.
            CompositionError: Two ops edit the same states, or one asks for what the vision tower does not have, or acts
                where tokens are missing.
        """
        if ops and not self._open:
            raise ModelError("the model was closed and has its own attention back; load it again to read or steer it")
        if not ops and not empty:
            return None
        for op in ops:
            self._check_op(op)
        for op in ops:
            if isinstance(op, Drop):
                check_layers(op, self.decoder.config, self.kinds, self.newest_only)
        whole = "in", ROWS
        named = [
            (layer, site)
            for layer in range(len(self.kinds))
            for site in (*whole, *SITES)
            if any(acts_at_site(op, self.kinds, layer, site) for op in ops)
        ]
        modules = {
            (layer, site): self.layers[layer] if site in whole else self.anatomy.decoder.site(layer, site)
            for layer, site in named
        }
        tower = tower_of(self.anatomy, ops, None if inputs is None else self.pictures(inputs))
        if tower is not None:
            self._tower.open(tower)
        return Plan(tuple(ops), self.kinds, modules, tower)

    def _check_op(self, op: Op) -> None:
        """Refuse an op that would be ignored without a word.

        Raises:
            CompositionError: It names a site or a layer that is not there, or edits states at no site.
        """
        name, sites, depth = type(op).__name__, {*SITES, FEATURES}, len(self.layers)
        if op.sites - sites:
            known = ", ".join(sorted(sites))
            raise CompositionError(f"{name}: there is no site {min(op.sites - sites)!r}; the sites are {known}")
        if overrides(op, "edit_states") and not op.sites:
            raise CompositionError(f"{name} edits states and says at no site where: set `sites` in its class")
        beyond = sorted(layer for layer in op.layers or () if layer not in range(depth))
        if beyond and not op.kinds & VISION:
            raise CompositionError(f"{name}: the model has no layer {beyond[0]}; its layers are 0 to {depth - 1}")
        if overrides(op, "keep") and self.newest_only:
            raise CompositionError(
                f"{name} replaces keys and values, and some layers of this model reuse those of earlier ones in the "
                "same pass; use another model or strategy"
            )

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count the rows of the vision tower that hold the pictures of one request; see `PictureRows`.

        Args:
            single: Inputs of that request, with pictures.

        Returns:
            Those of its layers and those of its features; 0: not known.
        """
        pixels = single["pixel_values"]
        rows = pixels.shape[:-3].numel() if pixels.ndim > 3 else 0  # pictures, or tiles of pictures
        return rows, rows

    def pictures(self, inputs: Inputs) -> PictureRows | None:
        """Tell which rows of the vision tower belong to which prompt of a batch; None: there are no pictures.

        Of inputs that some other processor made it is not known, unless there is one prompt.
        """
        if not has_picture(inputs):
            return None
        if isinstance(inputs, Batch):
            layers, features = zip(*map(self.tower_rows, inputs.singles), strict=True)
            return PictureRows(layers, features)
        unknown = (0,) * len(inputs["input_ids"])
        return PictureRows(unknown, unknown)

    def exits(self, wanted: Sequence[Exit]) -> Exits:
        """Bind early exits to the model.

        Raises:
            ModelError: An exit's layer or the final norm is not there, or the layer is not given the whole prompt.
        """
        depth = len(self.layers)
        wrong = next((one.layer for one in wanted if one.layer not in range(-1, depth)), None)
        if wrong is not None:
            raise ModelError(
                f"there is no layer {wrong} to leave early: the model's are 0 to {depth - 1}, and its embeddings are -1"
            )
        placed = {one.layer for one in wanted if one.positions is not None} & self.newest_only
        if placed:
            raise ModelError(
                f"layer {min(placed)} is given the newest row of a prompt only, as it reuses the keys of earlier ones; "
                "read positions at an earlier layer"
            )
        norm = self.anatomy.final_norm if any(one.norm for one in wanted) else None
        return Exits(wanted, self.layers, norm, self.model.get_output_embeddings())

    @cached_property
    def anatomy(self) -> Anatomy:
        """The parts of the model: sites of its layers, final norm, vision tower, projector."""
        return Anatomy(self.model)

    @property
    def device(self) -> torch.device:
        """Where inputs belong; of a model whose first weights lie on disk, where accelerate computes."""
        device: torch.device = self.model.device
        if device.type != "meta":
            return device
        places = getattr(self.model, "hf_device_map", {}).values()
        return torch.device(next((place for place in places if place not in ("cpu", "disk")), "cpu"))

    @property
    def context_length(self) -> int:
        """Longest sequence the decoder can hold, in positions."""
        return int(self.decoder.config.max_position_embeddings)

    @property
    def newest_only(self) -> frozenset[int]:
        """Layers that are given the newest row of a prompt only, as they reuse the keys of earlier ones."""
        return frozenset()

    @property
    def can_drop_last_token(self) -> bool:
        """Whether the last token of a prompt can be dropped, and nothing of it is left behind."""
        return self.causal and "linear" not in self.kinds

    @property
    def can_split_prompt(self) -> bool:
        """Whether a prompt's beginning, the picture in it, can be read by itself, and what follows later."""
        return self.causal

    @property
    def generator(self) -> PreTrainedModel:
        """The model whose loop decodes, and whose own generation settings hold."""
        return self.model

    def model_for(self, inputs: Inputs) -> PreTrainedModel:
        """Return the module whose `generate` reads these inputs."""
        return self.model

    @property
    def pad_token_id(self) -> int:
        """Id that fills rows; never read."""
        given = self.tokenizer if self.tokenizer is not None else self.generator.generation_config
        return int(given.pad_token_id or 0)

    @cached_property
    def spellings(self) -> dict[str, list[int]]:
        """Ids of the tokens that say each text by themselves; in lower case, without white space around it."""
        ids = range(min(len(self.tokenizer), self.decoder.config.vocab_size))
        spelled: dict[str, list[int]] = {}
        for index, text in enumerate(self.tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=True)):
            spelled.setdefault(text.strip().lower(), []).append(index)
        return spelled
