"""A model with mmhall's attention hook: its parts and capabilities."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from mmhall.adapters._anatomy import SITES, Anatomy, find_decoder, find_image_token, layer_kinds
from mmhall.adapters._batch import Batch, Inputs, has_picture
from mmhall.adapters._layer_parts import LayerParts, PartsCheck
from mmhall.adapters._tower import build_tower
from mmhall.attention import (
    FEATURES,
    POSITIONS,
    ROWS,
    VISION,
    Call,
    Drop,
    Exit,
    Exits,
    Op,
    PictureRows,
    Plan,
    ReadOut,
    RecordVectors,
    Rotary,
    TowerHooks,
    active,
    acts_at_site,
    check_layers,
    install_attention_hook,
    measure_rotary,
    overrides,
    remove_attention_hook,
)
from mmhall.errors import CompositionError, ModelError


class HookedModel:
    """Loaded model whose attention and states can be read and edited.

    Attributes:
        model: The loaded model.
        processor: Its processor; None where all inputs are tensors.
        decoder: The language model inside it.
        layers: Layers of the decoder.
        kinds: Kind of each layer: "full", "sliding", "chunked", "cross" (attends to the picture), or "linear" (no
            attention).
        heads: Number of query heads of a layer.
        tuned: Options tuned for this model, by strategy; empty unless `mmhall tune` was run for it.
        artifacts: Artifacts fitted to this model, by strategy; empty unless `mmhall fit` was run for it.
        image_token_id: Id that marks image positions in `input_ids`.
        request_notes: Names of attributes in which the model stores facts about the latest request.
        causal: Whether attention over the prompt's text is causal; set by each family.
    """

    request_notes: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin | None = None) -> None:
        """Install the attention hook in the decoder; without an active plan it computes plain SDPA.

        Raises:
            ModelError: A part of the model is missing, or SDPA cannot compute its attention correctly.
        """
        self.model, self.processor = model, processor
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        self.decoder, self.layers = find_decoder(model)
        config = self.decoder.config
        self.kinds = layer_kinds(config, len(self.layers))
        self.heads: int = config.num_attention_heads
        self.tuned: Mapping[str, Mapping[str, Any]] = {}
        self.artifacts: Mapping[str, Any] = {}
        self.image_token_id: int = find_image_token(model)
        self._accepted = {name for name in inspect.signature(model.forward).parameters if name != "labels"}
        install_attention_hook(self.decoder, self.layers, model.get_output_embeddings())
        self._open = True
        self._tower = TowerHooks(self.anatomy.tower)
        self._parts: dict[int, LayerParts] = {}

    def close(self) -> None:
        """Restore the model's own attention, unless another adapter still uses the hook."""
        if self._open:
            self._open = False
            remove_attention_hook(self.decoder, self.model.get_output_embeddings())
            self._tower.close()

    def check_attention_hook(self) -> None:
        """Check that every attention layer of an untested family calls the attention hook.

        Raises:
            ModelError: Some layer does not call the hook, so that plans would be ignored there.
        """
        called: list[int] = []

        class Count(Op):
            def edit_output(self, call: Call, output: Tensor) -> Tensor:
                called.append(call.layer)
                return output

        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        with torch.inference_mode(), active(self.plan([Count()])):
            self.decoder(input_ids=ids, use_cache=False)
        expected = [layer for layer, kind in enumerate(self.kinds) if kind in Count.kinds]
        if called != expected:
            raise ModelError(
                f"{self.model.config.model_type}: layers {sorted(set(expected) ^ set(called))} do not attend through "
                "transformers' attention interface exactly once; mmhall cannot read or edit their attention"
            )

    def layer_parts(self, layer: int) -> LayerParts:
        """Return the parts of a decoder layer: its two norms, the output projection of its heads, and its MLP.

        They are found once, and compared with what the layer computes.

        Args:
            layer: 0-based.

        Raises:
            ModelError: A part is missing, or the layer computes something else with its parts, such as a gate.
        """
        if layer not in self._parts:
            family = self.model.config.model_type
            parts = LayerParts.of(self.layers[layer], layer, family)
            check = PartsCheck(layer, parts)
            ids = torch.tensor([[0, 1]], device=self.device)
            with torch.inference_mode(), active(self.plan([check])):
                self.decoder(input_ids=ids, use_cache=False)
            if check.differing:
                what = " and ".join(check.differing)
                raise ModelError(f"{family}: layer {layer} does not use {what} as a plain pre-norm layer does")
            self._parts[layer] = parts
        return self._parts[layer]

    def plan(self, ops: Sequence[Op], inputs: Inputs | None = None, *, empty: bool = False) -> Plan | None:
        """Build the plan of some ops for the decoder and the vision tower.

        Args:
            ops: The ops; without ops the result is None.
            inputs: The batch to be read, from which ops know which patches of the vision tower belong to which prompt.
            empty: Without ops, return an empty plan instead of None.

        Raises:
            ModelError: The adapter is closed, so that ops would be ignored; the model lacks a part or a site; or tokens
                cannot be dropped from its layers.
            CompositionError: Two ops edit the same states; an op needs something that the vision tower does not have,
                or acts in a layer in which tokens are missing.
        """
        if ops and not self._open:
            raise ModelError("the model was closed, so its attention cannot be read or edited; load it again")
        if not ops and not empty:
            return None
        for op in ops:
            self._check_op(op)
        for op in ops:
            if isinstance(op, Drop):
                check_layers(op, self.decoder.config, self.kinds, self.newest_only)
        sites = [
            (layer, site)
            for layer in range(len(self.kinds))
            for site in ("in", ROWS, POSITIONS, *SITES)
            if any(acts_at_site(op, self.kinds, layer, site) for op in ops)
        ]
        modules = {(layer, site): self._module_at(layer, site) for layer, site in sites}
        tower = build_tower(self.anatomy, ops, None if inputs is None else self.pictures(inputs))
        if tower is not None:
            self._tower.open(tower)
        return Plan(tuple(ops), self.kinds, modules, tower)

    def _module_at(self, layer: int, site: str) -> torch.nn.Module:
        """Return the module of a site of a decoder layer.

        Raises:
            ModelError: The layer or the decoder has no such module.
        """
        if site == POSITIONS:
            return self.anatomy.rotary
        return self.layers[layer] if site in ("in", ROWS) else self.anatomy.decoder.site(layer, site)

    def _check_op(self, op: Op) -> None:
        """Check that an op can act.

        Raises:
            CompositionError: The op names an unknown site or layer, or edits states without naming a site.
        """
        name, sites, depth = type(op).__name__, {"in", *SITES, FEATURES}, len(self.layers)
        if op.sites - sites:
            known = ", ".join(sorted(sites))
            raise CompositionError(f"{name}: there is no site {min(op.sites - sites)!r}; the sites are {known}")
        if overrides(op, "edit_states") and not op.sites:
            raise CompositionError(f"{name} edits states, but its `sites` is empty; set `sites` in its class")
        beyond = sorted(layer for layer in op.layers or () if layer not in range(depth))
        if beyond and not op.kinds & VISION:
            raise CompositionError(f"{name}: the model has no layer {beyond[0]}; its layers are 0 to {depth - 1}")
        if overrides(op, "keep") and self.newest_only:
            raise CompositionError(
                f"{name} replaces keys and values, but some layers of this model reuse those of earlier layers in the "
                "same pass; use another model or strategy"
            )

    def tower_rows(self, single: Inputs) -> tuple[int, int]:
        """Count the rows of the vision tower for the pictures of one request; see `PictureRows`.

        Args:
            single: Inputs of the request, with pictures.

        Returns:
            Number of rows in its layers, and in its features; 0: unknown.
        """
        pixels = single["pixel_values"]
        rows = pixels.shape[:-3].numel() if pixels.ndim > 3 else 0  # pictures, or tiles of pictures
        return rows, rows

    def pictures(self, inputs: Inputs) -> PictureRows | None:
        """Return which rows of the vision tower belong to which prompt of a batch, or None without pictures.

        For inputs from another processor this is unknown, unless there is only one prompt.
        """
        if not has_picture(inputs):
            return None
        if isinstance(inputs, Batch):
            layers, features = zip(*map(self.tower_rows, inputs.singles), strict=True)
            return PictureRows(layers, features)
        unknown = (0,) * len(inputs["input_ids"])
        return PictureRows(unknown, unknown)

    def exits(self, exits: Sequence[Exit]) -> Exits:
        """Bind early exits to the model.

        Raises:
            ModelError: The layer of an exit or the final norm does not exist, or the layer does not read the whole
                prompt.
        """
        depth = len(self.layers)
        wrong = next((each.layer for each in exits if each.layer not in range(-1, depth)), None)
        if wrong is not None:
            raise ModelError(
                f"there is no layer {wrong} for an early exit: layers are 0 to {depth - 1}, and the embeddings are -1"
            )
        unsupported = {each.layer for each in exits if each.positions is not None} & self.newest_only
        if unsupported:
            raise ModelError(
                f"layer {min(unsupported)} reads only the newest row of a prompt, as it reuses the keys of earlier "
                "layers; read positions at an earlier layer"
            )
        return Exits(exits, self.layers, self.read_out)

    @cached_property
    def read_out(self) -> ReadOut:
        """Computes next-token logits from hidden states, also inside a pass: `read_out(states, norm=True)`."""
        config = self.decoder.config
        cap = getattr(config, "final_logit_softcapping", None)
        return ReadOut(lambda: self.anatomy.final_norm, self.model.get_output_embeddings(), self._compare_head, cap)

    @cached_property
    def rotary(self) -> Rotary:
        """Rotary embedding of the decoder, which turns queries and keys to other positions.

        Raises:
            ModelError: The decoder has none, or one that cannot be turned; see `mmhall.attention.measure_rotary`.
        """
        return measure_rotary(self.decoder, self._record_vectors)

    def _record_vectors(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """Run the decoder; return the queries and the keys of each layer, (heads, Q, D) each."""
        record = RecordVectors()
        with torch.no_grad(), active(self.plan([record])):
            self.decoder(**inputs, use_cache=False)
        return record.vectors

    def _compare_head(self) -> tuple[Tensor, Tensor]:
        """Read some tokens alone; return outputs of the head and logits of the model, (tokens, 1, vocabulary) each."""
        embeddings = self.model.get_input_embeddings().weight
        ids = torch.linspace(0, len(embeddings) - 1, 9, device=self.device).long()[1:-1, None]
        ids = ids[ids != self.image_token_id][:, None]
        states = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        headed: Tensor = self.model.get_output_embeddings()(states)
        logits: Tensor = self.model_for({"input_ids": ids})(input_ids=ids, use_cache=False, return_dict=True).logits
        return headed, logits

    @cached_property
    def anatomy(self) -> Anatomy:
        """Parts of the model: sites of its layers, final norm, vision tower, projector."""
        return Anatomy(self.model)

    @property
    def device(self) -> torch.device:
        """Device of the inputs; for a model whose first weights are offloaded, the device on which accelerate runs."""
        device: torch.device = self.model.device
        if device.type != "meta":
            return device
        devices = getattr(self.model, "hf_device_map", {}).values()
        return torch.device(next((device for device in devices if device not in ("cpu", "disk")), "cpu"))

    @property
    def context_length(self) -> int:
        """Maximum length of a sequence, in positions."""
        return int(self.decoder.config.max_position_embeddings)

    @property
    def newest_only(self) -> frozenset[int]:
        """Layers that read only the newest row of a prompt, as they reuse the keys of earlier layers."""
        return frozenset()

    @property
    def has_deep_features(self) -> bool:
        """Whether features of the pictures are also added to the states after the first layers (DeepStack)."""
        vision = getattr(self.model.config, "vision_config", None)
        return bool(getattr(vision, "deepstack_visual_indexes", None))

    @property
    def can_drop_last_token(self) -> bool:
        """Whether the last token of a prompt can be removed from the cache without a trace."""
        return self.causal and "linear" not in self.kinds

    @property
    def can_split_prompt(self) -> bool:
        """Whether the beginning of a prompt, up to its picture, and the rest can be read in two passes."""
        return self.causal

    @property
    def generator(self) -> PreTrainedModel:
        """Model that decodes, with the generation settings of the checkpoint."""
        return self.model

    def model_for(self, inputs: Inputs) -> PreTrainedModel:
        """Return the model whose `generate` accepts these inputs."""
        return self.model

    @property
    def pad_token_id(self) -> int:
        """Id of padding positions, which are always masked."""
        source = self.tokenizer if self.tokenizer is not None else self.generator.generation_config
        return int(source.pad_token_id or 0)

    @cached_property
    def spellings(self) -> dict[str, list[int]]:
        """Ids of the single tokens that decode to each text, in lower case and without surrounding white space."""
        ids = range(min(len(self.tokenizer), self.decoder.config.vocab_size))
        ids_of: dict[str, list[int]] = {}
        for index, text in enumerate(self.tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=True)):
            ids_of.setdefault(text.strip().lower(), []).append(index)
        return ids_of
