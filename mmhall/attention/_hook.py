"""The one attention function mmhall registers with transformers, and its binding to a decoder.

It is transformers' own SDPA unless the active plan asks for something in this layer and this pass.
The mask function is registered under the same name: without it transformers would build no mask
at all for an unknown attention, and padding and causality would vanish without an error.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import LongTensor, Tensor, nn
from transformers import PreTrainedModel

from mmhall._transformers import caches
from mmhall._transformers.attention import attention_name, register_attention, sdpa, set_attention
from mmhall.attention._linears import close_linears, open_linears
from mmhall.attention._ops import Call, Op, overrides
from mmhall.attention._passes import Pass, close_passes, current, open_passes, suspended
from mmhall.attention._rows import causal, masked, output_of, scores_of, uncast
from mmhall.errors import CompositionError, MmhallWarning, ModelError

NAME = "mmhall"
_LAYER = "_mmhall_layer"
_NO_WEIGHTS = (
    "attention weights were asked for (output_attentions), and mmhall's attention returns none; use LVLM.trace, or "
    "close the LVLM, which gives the model its own attention back"
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
    """Attend as SDPA does, except where the active plan asks for more.

    Args:
        module: The attention module of one decoder layer.
        query: (B, H, Q, D).
        key: (B, KV, K, D), cache included.
        value: (B, KV, K, Dv), cache included.
        attention_mask: None, or (B|1, 1|H, Q, K).
        dropout: Passed on.
        scaling: Factor of the scores.
        **kwargs: Passed on.

    Returns:
        Head outputs (B, Q, H, Dv), and no weights.
    """
    if kwargs.get("output_attentions"):
        warnings.warn(_NO_WEIGHTS, MmhallWarning, stacklevel=2)
    passes = current()
    plain = partial(sdpa, module, dropout=dropout, scaling=scaling, **kwargs)
    if passes is None:
        return plain(query, key, value, attention_mask)[0], None
    layer = getattr(module, _LAYER)
    own, kind = passes.asked(layer)
    mask = passes.mask(kind, attention_mask, query.shape[2], key.shape[2], key.device)
    if not any(own):
        return plain(query, key, value, mask)[0], None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    size, outputs = len(query) // len(own), []
    for first, count in _runs(own):
        rows = slice(first * size, (first + count) * size)
        part = query[rows], key[rows], value[rows], _rows(mask, rows)
        if own[first]:
            outputs.append(_block(passes.blocks[first], layer, kind, part, scale, own[first], plain, rows))
        else:
            outputs.append(plain(*part)[0])
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0], None


def _block(
    where: Pass,
    layer: int,
    kind: str,
    part: tuple[Tensor, Tensor, Tensor, Tensor | None],
    scale: float,
    ops: Sequence[Op],
    plain: Callable[..., Any],
    rows: slice,
) -> Tensor:
    """Attend in the rows of one block, with its ops; `part` is its queries, keys, values and mask."""
    offset = where.first_column(kind, part[1].shape[2])
    plan, compared = where.block.plan, where.frame.reference
    assert plan is not None
    reference = compared(layer) if compared is not None and layer in plan.compared else None
    call = Call(layer, kind, where, offset, *part, scale, reference)
    with suspended():
        output = planned(call, ops, plain)
        if layer in plan.keeping:
            _keep(call, ops, rows)
    return output


def _runs(own: Sequence[Sequence[Op]]) -> Iterator[tuple[int, int]]:
    """Give the first and the number of blocks that are attended together: each with ops alone, others in one call."""
    first = 0
    while first < len(own):
        last = first + 1
        while not own[first] and last < len(own) and not own[last]:
            last += 1
        yield first, last - first
        first = last


def _check_kept(kept: object, newest: Sequence[Tensor]) -> None:
    """Refuse keys and values of other shapes: broadcast, they would be those of something else.

    Raises:
        CompositionError: They have others.
    """
    wanted = [tuple(part.shape) for part in newest]
    got = [tuple(part.shape) for part in kept] if isinstance(kept, tuple) else type(kept).__name__
    if got != wanted:
        raise CompositionError(f"`keep` must return keys and values of shapes {wanted}, got {got}; correct it")


def _keep(call: Call, ops: Sequence[Op], rows: slice) -> None:
    """Put what ops want later passes to find into the cache.

    Raises:
        CompositionError: The layer's columns are not those of this pass's tokens, or its cache cannot be written to.
    """
    for op in ops:
        if not overrides(op, "keep"):
            continue
        if call.where.frame.candidates:
            raise CompositionError(
                "keys and values cannot be replaced while a search tries several tokens after each row; use this "
                "strategy with greedy decoding, sampling, beams or another search"
            )
        if call.kind == "cross":
            raise CompositionError(
                f"keys and values of layer {call.layer} cannot be replaced: its columns are positions of the picture, "
                "not tokens; choose layers of full attention"
            )
        newest = [part[:, :, -call.count :] for part in (call.key, call.value)]
        kept = op.keep(call, *newest)
        if kept is not None:
            _check_kept(kept, newest)
            caches.replace_newest(call.where.cache, call.layer, rows, *kept)


def install_attention_hook(decoder: PreTrainedModel, layers: Sequence[nn.Module], head: nn.Module) -> None:
    """Let a decoder attend through the registered function, until it was closed as often as opened.

    Args:
        decoder: The language model inside the vision-language model; nothing else is touched.
        layers: Its layers, in order.
        head: What turns its output into logits.

    Raises:
        ModelError: The decoder's attention is of a kind SDPA would silently get wrong, or cannot be replaced.
    """
    family = decoder.config.model_type
    if getattr(decoder.config, "attn_logit_softcapping", None):
        raise ModelError(f"{family}: soft-capped attention cannot be computed by SDPA; mmhall refuses it")
    if any(hasattr(part, "sinks") for layer in layers for part in layer.modules()):
        raise ModelError(f"{family}: attention sinks cannot be computed by SDPA; mmhall refuses them")

    def opened() -> None:
        for index, layer in enumerate(layers):
            for part in layer.modules():
                setattr(part, _LAYER, index)
        open_linears([*decoder.modules(), head])
        open_passes(decoder)

    if not bind(decoder, NAME, attention, opened):
        raise ModelError(f"{family}: its attention cannot be replaced through transformers' interface")


def remove_attention_hook(decoder: PreTrainedModel, head: nn.Module) -> None:
    """Undo one `install_attention_hook`; the last one gives the decoder back the attention it had."""

    def closed() -> None:
        close_linears([*decoder.modules(), head])
        close_passes(decoder)
        for part in decoder.modules():
            vars(part).pop(_LAYER, None)

    unbind(decoder, closed)


def bind(
    part: PreTrainedModel, name: str, function: Callable[..., Any], opened: Callable[[], None] = lambda: None
) -> bool:
    """Let a part of a model attend through a function, until it was unbound as often as bound.

    Args:
        part: The decoder, or the vision tower.
        name: To register the function under.
        function: An attention function as transformers calls it.
        opened: Called the first time.

    Returns:
        Whether it attends through the function now; if not, nothing was changed.
    """
    with _LOCK:
        own = attention_name(part)
        count, before = _OPEN.get(part, (0, "sdpa" if own == name else own))  # the name: a copy of an open part
        if count == 0:
            register_attention(name, function)
            if not set_attention(part, name):
                return False
            opened()
        _OPEN[part] = count + 1, before
        return True


def unbind(part: PreTrainedModel, closed: Callable[[], None]) -> None:
    """Undo one `bind`; the last one gives the part back the attention it had, and calls `closed`."""
    with _LOCK:
        count, before = _OPEN.pop(part)
        if count > 1:
            _OPEN[part] = count - 1, before
        else:
            set_attention(part, before)
            closed()


def _rows(mask: Tensor | None, rows: slice) -> Tensor | None:
    return mask if mask is None or len(mask) == 1 else mask[rows]


def planned(call: Call, ops: Sequence[Op], plain: Callable[..., Any]) -> Tensor:
    """Attend with ops: SDPA, `plain`, with their biases for all rows, and over it by hand the rows that ops edit.

    Rows that are only looked at are computed beside it and change nothing, to the last bit.
    """
    with uncast(call.query):
        biases = [bias for op in ops if (bias := op.bias(call)) is not None]
        asked = [(op, rows) for op in ops if (rows := op.rows(call)) is not None and rows.numel()]
        writes = any(op.writes for op, _ in asked)
        step = not call.prefill and all(len(rows) == call.query.shape[2] for _, rows in asked)
        probs = _newest_by_hand(call, [op for op, _ in asked], biases, asked[0][1]) if asked and step else None
        mask = _biased_mask(call, biases)
    if probs is not None and writes:  # the edited rows are the whole attention: SDPA would compute it twice
        with uncast(call.query):
            output = output_of(call, probs)
    else:
        output = plain(call.query, call.key, call.value, mask)[0]
    with uncast(call.query):
        if asked and not step:
            output = _edit_prompt_rows(output, call, asked, biases)
        for op in ops:
            output = op.edit_output(call, output)
    return output


def _newest_by_hand(call: Call, ops: Sequence[Op], biases: Sequence[Tensor], rows: LongTensor) -> Tensor:
    """Compute all rows of a step, mostly one, let each op edit and see them; return weights, (B, H, Q, K)."""
    scores = sum(biases, start=scores_of(call))
    for op in ops:
        scores = op.edit_scores(call, rows, scores)
    if any(op.writes for op in ops):
        scores = masked(call, scores, rows)
    probs = scores.softmax(dim=-1)
    for op in ops:
        probs = op.edit_probs(call, rows, probs)
    for op in ops:
        op.see(call, rows, probs)
    return probs


def _edit_prompt_rows(
    output: Tensor, call: Call, asked: Sequence[tuple[Op, LongTensor]], biases: Sequence[Tensor]
) -> Tensor:
    """Put the rows that ops edit over a prompt's head outputs, and show all ops theirs."""
    writers = [(op, rows) for op, rows in asked if op.writes]
    lookers = [(op, rows) for op, rows in asked if not op.writes]
    if writers:
        rows = _union(writers)
        probs = _rows_by_hand(call, rows, biases, writers)
        output = output.index_copy(1, rows, output_of(call, probs).to(output.dtype))
        _let_see(call, writers, rows, probs)
    if lookers:
        every = _union(lookers)
        seen = _rows_by_hand(call, every, biases)
        if writers:
            both = torch.isin(every, rows)
            seen = seen.index_copy(2, both.nonzero()[:, 0], probs[:, :, torch.isin(rows, every)])
        _let_see(call, lookers, every, seen)
    return output


def _union(asked: Sequence[tuple[Op, LongTensor]]) -> LongTensor:
    rows: LongTensor = torch.unique(torch.cat([rows for _, rows in asked]))
    return rows


def _rows_by_hand(
    call: Call, rows: LongTensor, biases: Sequence[Tensor], writers: Sequence[tuple[Op, LongTensor]] = ()
) -> Tensor:
    """Compute some rows, in order, and let each op edit its own among them; return weights, (B, H, R, K)."""
    at = [(op, torch.searchsorted(rows, wanted)) for op, wanted in writers]
    scores = scores_of(call, rows)
    for bias in biases:
        scores = scores + (bias if bias.shape[2] == 1 else bias[:, :, rows])
    for op, where in at:
        own: LongTensor = rows[where]  # type: ignore[assignment]
        scores = scores.index_copy(2, where, op.edit_scores(call, own, scores[:, :, where]))
    if at:
        scores = masked(call, scores, rows)
    probs = scores.softmax(dim=-1)
    for op, where in at:
        own = rows[where]  # type: ignore[assignment]
        probs = probs.index_copy(2, where, op.edit_probs(call, own, probs[:, :, where]))
    return probs


def _let_see(call: Call, asked: Sequence[tuple[Op, LongTensor]], rows: LongTensor, probs: Tensor) -> None:
    """Show each op the final weights of its rows, (B, H, R, K) of all."""
    for op, wanted in asked:
        op.see(call, wanted, probs[:, :, torch.searchsorted(rows, wanted)])


def _biased_mask(call: Call, biases: Sequence[Tensor]) -> Tensor | None:
    """Merge biases into the mask SDPA gets; masked columns stay at the dtype's minimum."""
    if not biases:
        return call.mask
    total = sum(biases[1:], start=biases[0])
    mask = call.mask
    if mask is None and call.causal:
        mask = causal(call, torch.arange(call.query.shape[2], device=call.query.device))
    if mask is None:
        return total.to(call.query.dtype)
    lowest = torch.finfo(call.query.dtype).min
    if mask.dtype == torch.bool:
        return torch.where(mask, total.to(call.query.dtype).clamp_min(lowest), lowest)
    return (mask.float() + total).clamp_min(lowest).to(call.query.dtype)
