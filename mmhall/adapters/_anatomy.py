"""Parts of a model, found through names and interfaces that transformers uses for all families."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from mmhall.errors import ModelError, UnknownNameError

SITES = ("attn", "mlp", "out")

_KINDS = {"full_attention": "full", "sliding_attention": "sliding", "chunked_attention": "chunked"}
# Attribute names of transformers; fc2 is the second matrix of OPT's MLP.
_UPDATES = {
    "attn": ("self_attn", "cross_attn", "linear_attn", "attention", "attn", "self_attention", "mamba", "conv"),
    "mlp": ("mlp", "feed_forward", "fc2", "experts", "block_sparse_moe", "shared_mlp"),
}
_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f")
_CLS = ("class_embedding", "cls_token")
_PROJECTORS = ("merger", "vision_adapter", "multi_modal_projector", "connector", "embed_vision", "qformer")


@dataclass(frozen=True)
class Stack:
    """Stack of consecutive layers, each with sites at which states can be read and edited.

    Attributes:
        family: Model family, for messages.
        module: Module that contains the layers.
        layers: The layers in the order in which they run.
    """

    family: str
    module: nn.Module
    layers: tuple[nn.Module, ...]

    def site(self, index: int, name: str) -> nn.Module:
        """Return the module at a site of a layer; see `site`.

        Args:
            index: 0-based layer.
            name: "attn", "mlp" or "out".

        Raises:
            ModelError: The layer has no such module, or several.
        """
        return site(self.layers[index], name, self.family)


@dataclass(frozen=True)
class Anatomy:
    """Parts of one model, each found on first use.

    Attributes:
        model: The model.
    """

    model: PreTrainedModel

    @property
    def family(self) -> str:
        """Model family: the `model_type` of transformers."""
        return str(self.model.config.model_type)

    @cached_property
    def decoder(self) -> Stack:
        """Layers of the decoder.

        Raises:
            ModelError: No stack of layers was found.
        """
        module, layers = find_decoder(self.model)
        return Stack(self.family, module, tuple(layers))

    @cached_property
    def final_norm(self) -> nn.Module:
        """Module between the last decoder layer and the head; the identity where there is none.

        Raises:
            ModelError: No norm was found.
        """
        decoder = self.decoder.module
        name = next((name for name in _NORMS if hasattr(decoder, name)), None)
        if name is None:
            raise ModelError(f"{self.family}: no norm was found between the last decoder layer and the head")
        between: tuple[nn.Module | None, ...] = (getattr(decoder, name), getattr(decoder, "project_out", None))
        steps = [step for step in between if step is not None]
        return steps[0] if len(steps) == 1 else nn.Sequential(*steps)

    @property
    def rotary(self) -> nn.Module:
        """Module that computes the rotary embedding of the decoder's positions, in a line.

        Raises:
            ModelError: There is none, or positions have several dimensions.
        """
        rotary: nn.Module | None = getattr(self.decoder.module, "rotary_emb", None)
        if rotary is None:
            raise ModelError(
                f"{self.family}: gaps in the positions cannot be closed: it has no rotary embedding of them"
            )
        if hasattr(rotary, "mrope_section"):
            raise ModelError(f"{self.family}: gaps in the positions cannot be closed: its positions are not a line")
        return rotary

    @cached_property
    def tower(self) -> PreTrainedModel | None:
        """Vision tower; None: none was found."""
        tower: PreTrainedModel = self.model.get_encoder(modality="image")
        return None if tower is self.model or self.decoder.module in tower.modules() else tower

    @cached_property
    def vision(self) -> Stack:
        """Vision tower and its encoder layers, those of both encoders where it has two.

        Raises:
            ModelError: There is no vision tower, or it has no stack of layers with attention and MLP.
        """
        if self.tower is None:
            raise ModelError(f"{self.family}: no vision tower was found")
        layers = tuple(_encoder_layers(self.tower))
        if not layers:
            raise ModelError(f"{self.family}: no stack of encoder layers was found in its {type(self.tower).__name__}")
        return Stack(self.family, self.tower, layers)

    @property
    def feature_layer(self) -> int:
        """Encoder layer whose output the features are, 0-based: the one that the config names, of several the last.

        Where it names none, the last layer of the tower.

        Raises:
            ModelError: There is no vision tower, or its features are the embeddings of the patches.
        """
        depth, config = len(self.vision.layers), self.model.config
        named = getattr(config, "vision_feature_layer", getattr(config, "vision_feature_layers", None))
        entries = [-1] if named is None else [named] if isinstance(named, int) else list(named)
        layer = max(entry % (depth + 1) for entry in entries) - 1  # entry 0 of the hidden states is the embeddings
        if layer < 0:
            raise ModelError(f"{self.family}: its features are the embeddings of the patches, before any attention")
        return layer

    @cached_property
    def has_cls(self) -> bool:
        """Whether the vision tower reads a CLS token beside the patches, usually before them."""
        names = (name.rpartition(".")[2] for name, _ in self.vision.module.named_parameters())
        return any(name in _CLS for name in names)

    @cached_property
    def projector(self) -> nn.Module:
        """First module after the vision tower, which turns features into image tokens.

        Its argument `features_argument` takes the features, (..., patches, width), in the order of the tower, which
        may differ from the order of the image tokens. It may be a part of what transformers calls the vision tower.

        Raises:
            ModelError: No projector was found.
        """
        named = [(path.rpartition(".")[2], part) for path, part in self.model.named_modules()]
        matches = (part for name in _PROJECTORS for part_name, part in named if part_name == name)
        projector: nn.Module | None = next(matches, None)
        if projector is None:
            raise ModelError(f"{self.family}: no module was found that takes the features of the vision tower")
        return projector

    @cached_property
    def features_argument(self) -> str:
        """Parameter of the projector's forward that takes the features.

        The first parameter, possibly passed by position; a Q-Former receives the features by keyword.

        Raises:
            ModelError: The projector was not found.
        """
        parameters = list(inspect.signature(self.projector.forward).parameters)
        return next((name for name in parameters if name == "encoder_hidden_states"), parameters[0])


def site(layer: nn.Module, name: str, family: str) -> nn.Module:
    """Return the module whose output is the state at a site of a layer.

    The output is a tensor or a tuple that begins with one, (batch, rows, width); for some MLPs (batch * rows, width).

    Args:
        layer: A layer of a decoder or a vision tower.
        name: "attn", the output of attention (before its own norm, gate, and the residual sum); "mlp", the output of
            the MLP or the experts (before the same); "out", the output of the layer.
        family: Model family, for messages.

    Raises:
        ModelError: The layer has no such module, or several.
        UnknownNameError: There is no such site.
    """
    if name not in SITES:
        raise UnknownNameError("site", name, SITES)
    if name == "out":
        return layer
    modules = _update_modules(layer, name)
    if len(modules) == 1:
        return modules[0][1]
    names = " and ".join(child for child, _ in modules)
    reason = f"its {names} share what is added there" if modules else f"it has none of {', '.join(_UPDATES[name])}"
    raise ModelError(f"{family}: no single module is the site {name!r} of a {type(layer).__name__}: {reason}")


def _update_modules(layer: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Return the modules of a layer whose output is added at a site, with their names."""
    return [(child, module) for child, module in layer.named_children() if child in _UPDATES[name]]


def _encoder_layers(tower: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a tower: modules in a list with one attention and one MLP each."""
    for part in tower.modules():
        if isinstance(part, nn.ModuleList):
            yield from (layer for layer in part if all(len(_update_modules(layer, name)) == 1 for name in _UPDATES))


def find_decoder(model: PreTrainedModel) -> tuple[PreTrainedModel, list[nn.Module]]:
    """Find the decoder of a model and its layers.

    Raises:
        ModelError: No stack of layers was found.
    """
    for part in model.get_decoder().modules():
        layers = getattr(part, "layers", None)
        if isinstance(part, PreTrainedModel) and isinstance(layers, nn.ModuleList) and len(layers):
            return part, list(layers)
    raise ModelError(f"{model.config.model_type}: no stack of decoder layers was found under get_decoder()")


def layer_kinds(config: Any, count: int) -> tuple[str, ...]:
    """Return the kind of each decoder layer: "full", "sliding", "chunked", "cross", or "linear" (no attention)."""
    types = getattr(config, "layer_types", None)
    if types is None:
        sliding = getattr(config, "sliding_window", None) is not None
        types = ["sliding_attention" if sliding else "full_attention"] * count
    cross = set(getattr(config, "cross_attention_layers", None) or ())
    return tuple("cross" if i in cross else _KINDS.get(kind, "linear") for i, kind in enumerate(types[:count]))


def find_image_token(model: PreTrainedModel) -> int:
    """Return the token id that marks image positions.

    Raises:
        ModelError: The config does not contain it.
    """
    token = getattr(model.config, "image_token_id", None)
    if token is None:
        token = getattr(model.config, "image_token_index", None)
    if not isinstance(token, int):
        raise ModelError(f"{model.config.model_type}: its config has no image_token_id, so image positions are unknown")
    return token
