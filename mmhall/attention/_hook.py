"""Attention hook: the attention function that mmhall registers with transformers, and its binding to a decoder.

The function computes transformers' own SDPA, except in layers and passes in which the active plan has ops.
A mask function is registered under the same name: without it transformers would build no mask for an unknown
attention, and padding and causality would be lost without an error.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmhall._transformers import caches
from mmhall._transformers.attention import attention_name, register_attention, sdpa, set_attention
from mmhall.attention._all_positions import lay_out, pick_rows
from mmhall.attention._attend import attend_with_ops
from mmhall.attention._linears import patch_linears, restore_linears
from mmhall.attention._ops import Call, Op, overrides
from mmhall.attention._passes import Pass, current_passes, hook_passes, suspended, unhook_passes
from mmhall.errors import CompositionError, MmhallWarning, ModelError

NAME = "mmhall"
_LAYER = "_mmhall_layer"
_NO_WEIGHTS = (
    "output_attentions is set, but the attention of mmhall returns no attention weights; use LVLM.trace, or close the "
    "LVLM, which restores the model's own attention"
)
_OPEN: WeakKeyDictionary[PreTrainedModel, tuple[int, str]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute SDPA, with the ops of the active plan in this layer.

    Args:
        module: The attention module of one decoder layer.
        query: (B, H, Q, D).
        key: (B, KV, K, D), cache included.
        value: (B, KV, K, Dv), cache included.
        attention_mask: None, or (B|1, 1|H, Q, K).
        dropout: Passed to SDPA.
        scaling: Factor of the scores.
        **kwargs: Passed to SDPA.

    Returns:
        Head outputs, (B, Q, H, Dv), and None instead of weights.
    """
    if kwargs.get("output_attentions"):
        warnings.warn(_NO_WEIGHTS, MmhallWarning, stacklevel=2)
    passes = current_passes()
    plain = partial(sdpa, module, dropout=dropout, scaling=scaling, **kwargs)
    if passes is None:
        return plain(query, key, value, attention_mask)[0], None
    layer = getattr(module, _LAYER)
    ops, kind = passes.ops_of_layer(layer)
    mask = passes.mask(kind, attention_mask, query.shape[2], key.shape[2], key.device)
    if not any(ops):
        return plain(query, key, value, mask)[0], None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    outputs = []
    for first, count in _group_blocks(ops):
        rows = slice(passes.blocks[first].rows.start, passes.blocks[first + count - 1].rows.stop)
        part = query[rows], key[rows], value[rows], _mask_rows(mask, rows)
        if ops[first]:
            outputs.append(_attend_block(passes.blocks[first], layer, kind, part, scale, ops[first], plain, rows))
        else:
            outputs.append(plain(*part)[0])
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0], None


def _attend_block(
    where: Pass,
    layer: int,
    kind: str,
    part: tuple[Tensor, Tensor, Tensor, Tensor | None],
    scale: float,
    ops: Sequence[Op],
    plain: Callable[..., Any],
    rows: slice,
) -> Tensor:
    """Compute the attention of one block with its ops; `part` holds its queries, keys, values and mask."""
    plan, lockstep = where.block.plan, where.frame.reference
    assert plan is not None
    layout, left = plan.layout(layer), None
    if layout is not None:
        part, left = lay_out(where, layout, part)
    offset = where.first_column(kind, part[1].shape[2])
    reference = lockstep(layer) if lockstep is not None and layer in plan.compared else None
    call = Call(layer, kind, where, offset, *part, scale, reference)
    with suspended():
        output = attend_with_ops(call, ops, plain)
        if layer in plan.keeping:
            _replace_in_cache(call, ops, rows)
    return pick_rows(output, left)


def _group_blocks(ops: Sequence[Sequence[Op]]) -> Iterator[tuple[int, int]]:
    """Yield the first index and the number of blocks of each call: a block with ops alone, blocks without together."""
    first = 0
    while first < len(ops):
        last = first + 1
        while not ops[first] and last < len(ops) and not ops[last]:
            last += 1
        yield first, last - first
        first = last


def _check_replacement(replacement: object, newest: Sequence[Tensor]) -> None:
    """Check the shapes of replaced keys and values; broadcasting would give wrong ones.

    Raises:
        CompositionError: The shapes differ from the original shapes.
    """
    expected = [tuple(part.shape) for part in newest]
    got = [tuple(part.shape) for part in replacement] if isinstance(replacement, tuple) else type(replacement).__name__
    if got != expected:
        raise CompositionError(f"`keep` must return keys and values of shapes {expected}, got {got}; correct it")


def _replace_in_cache(call: Call, ops: Sequence[Op], rows: slice) -> None:
    """Replace the newest keys and values in the cache by those that ops return.

    Raises:
        CompositionError: The layer's columns are not tokens of this pass, or its cache cannot be written to.
    """
    for op in ops:
        if not overrides(op, "keep"):
            continue
        if call.where.frame.candidates:
            raise CompositionError(
                "keys and values cannot be replaced while a search tries candidate tokens; use this "
                "strategy with greedy decoding, sampling, beams or another search"
            )
        if call.kind == "cross":
            raise CompositionError(
                f"keys and values of layer {call.layer} cannot be replaced: its columns are positions of the picture, "
                "not tokens; choose layers of full attention"
            )
        newest = [part[:, :, -call.count :] for part in (call.key, call.value)]
        replacement = op.keep(call, *newest)
        if replacement is not None:
            _check_replacement(replacement, newest)
            caches.replace_newest(call.where.cache, call.layer, rows, *replacement)


def install_attention_hook(decoder: PreTrainedModel, layers: Sequence[nn.Module], head: nn.Module) -> None:
    """Install the attention hook in a decoder; it stays until it was removed as often as installed.

    Args:
        decoder: The language model inside the vision-language model; other parts do not change.
        layers: Its layers, in order.
        head: Output head, which computes the logits.

    Raises:
        ModelError: SDPA cannot compute the decoder's attention correctly, or the attention cannot be replaced.
    """
    family = decoder.config.model_type
    if getattr(decoder.config, "attn_logit_softcapping", None):
        raise ModelError(f"{family}: soft-capped attention cannot be computed by SDPA; mmhall refuses it")
    if any(hasattr(part, "sinks") for layer in layers for part in layer.modules()):
        raise ModelError(f"{family}: attention sinks cannot be computed by SDPA; mmhall refuses them")

    def prepare() -> None:
        for index, layer in enumerate(layers):
            for part in layer.modules():
                setattr(part, _LAYER, index)
        patch_linears([*decoder.modules(), head])
        hook_passes(decoder)

    if not bind_attention(decoder, NAME, attention, prepare):
        raise ModelError(f"{family}: its attention cannot be replaced through transformers' interface")


def remove_attention_hook(decoder: PreTrainedModel, head: nn.Module) -> None:
    """Undo one `install_attention_hook`; the last call restores the decoder's own attention."""

    def restore() -> None:
        restore_linears([*decoder.modules(), head])
        unhook_passes(decoder)
        for part in decoder.modules():
            vars(part).pop(_LAYER, None)

    unbind_attention(decoder, restore)


def bind_attention(
    part: PreTrainedModel, name: str, function: Callable[..., Any], prepare: Callable[[], None] = lambda: None
) -> bool:
    """Make a part of a model use an attention function, until it was unbound as often as bound.

    Args:
        part: The decoder, or the vision tower.
        name: Name under which the function is registered.
        function: An attention function as transformers calls it.
        prepare: Called at the first binding.

    Returns:
        Whether the part uses the function now; if not, nothing was changed.
    """
    with _LOCK:
        usual = attention_name(part)
        # a part that already has the name, but is not counted, is a copy of a bound part
        count, before = _OPEN.get(part, (0, "sdpa" if usual == name else usual))
        if count == 0:
            register_attention(name, function)
            if not set_attention(part, name):
                return False
            prepare()
        _OPEN[part] = count + 1, before
        return True


def unbind_attention(part: PreTrainedModel, restore: Callable[[], None]) -> None:
    """Undo one `bind_attention`; the last call restores the part's own attention and calls `restore`."""
    with _LOCK:
        count, before = _OPEN.pop(part)
        if count > 1:
            _OPEN[part] = count - 1, before
        else:
            set_attention(part, before)
            restore()


def _mask_rows(mask: Tensor | None, rows: slice) -> Tensor | None:
    return mask if mask is None or len(mask) == 1 else mask[rows]
