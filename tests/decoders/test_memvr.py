"""MemVR against its formula written out, in every family that can carry it; its gate, its look, and neutral."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters._anatomy import Anatomy
from mmhall.adapters._base import Request
from mmhall.attention import active
from mmhall.decoders.memvr import look, uncertainty
from mmhall.errors import CompositionError, OptionError
from mmhall.strategies._layers import parse_layers
from tests.decoders.rows import check, check_half, family
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours, said

pytestmark = QUIET

REFUSED = {"mllama", "blip_2"}
GATE = 0.8  # of random models: some rows are above, some below


def unsure(logits):
    top = sorted(logits.softmax(-1).tolist(), reverse=True)[:10]
    weights = [one / sum(top) for one in top]
    return -sum(p * math.log(p) for p in weights) / math.log(10)


def seen_again(output, source, features, ratio):
    """Rows of one prompt that look together, (T, D)."""
    picture = (source @ features.T) @ features
    return (1 - ratio) * output + ratio * picture * (output.abs().mean() / picture.abs().mean())


def looked(layers, ratio, gate, fired):
    """Return what gives the scores of every step of a given answer, (NEW, V); `fired` gets pairs of layer and row.

    An eager copy reads prompt and answer in one pass. The tokens that it is asked for come from its own head, to which
    the states that enter a layer are handed in a pass of their own.
    """

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        model, hooks, done = reader.eager.model, [], set()
        head, norm, stack = model.get_output_embeddings(), Anatomy(model).final_norm, Anatomy(model).decoder

        def asked(layer):
            cap = getattr(adapter.decoder.config, "final_logit_softcapping", None)
            logits = head(norm(reader.states[layer])).float()
            return logits if cap is None else cap * torch.tanh(logits / cap)

        for layer in layers:

            def edit(module, args, kwargs, output, layer=layer):
                source = (args[0] if args else kwargs["hidden_states"]).view(-1, reader.states[0].shape[-1])
                update = output[0] if isinstance(output, tuple) else output
                rows, last = update.reshape(source.shape).clone(), reader.length - 1
                features, logits = reader.states[0][reader.image], asked(layer)
                for row in range(last, len(rows)):
                    if row in done or unsure(logits[row]) <= gate:
                        continue
                    done.add(row)
                    fired.append((layer, row - last))
                    together = slice(0, row + 1) if row == last else slice(row, row + 1)
                    rows[together] = seen_again(rows[together], source[together], features, ratio)
                rows = rows.view(update.shape)
                return (rows, *output[1:]) if isinstance(output, tuple) else rows

            hooks.append(stack.site(layer, "mlp").register_forward_hook(edit, with_kwargs=True))
        logits = reader.logits(inputs, answer[:-1])
        for hook in hooks:
            hook.remove()
        return logits.log_softmax(-1)

    return reference


CARRYING = [name for name in FAMILIES if name not in REFUSED]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "llava" else pytest.mark.slow) for name in CARRYING]
)
def test_a_batch_is_the_formula_of_each_prompt(name):
    fired, depth = [], len(ours(name).layers)
    reference = looked(range(1, depth), 0.4, GATE, fired)
    check(name, f"memvr(ratio=0.4, gate={GATE}, layers='1:')", reference)
    if name == "llava":
        assert len({layer for layer, _ in fired}) > 1, fired
        assert len(fired) < 8, "each row looks"


def test_all_rows_of_both_prompts_look():
    fired = []
    check("llava", "memvr(ratio=0.4, gate=0.1, layers='2')", looked([2], 0.4, 0.1, fired))
    assert len(fired) == 8


def test_it_looks_once_a_pass():
    """With the gate open each row looks in the first layer, and never in the second."""
    adapter, _ = family("llava")
    session = (
        mmhall.strategy("memvr(gate=0, layers='1:')").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:2]))
    )
    with torch.no_grad(), active(adapter.plan(session.ops)):
        adapter.model(**adapter.inputs(REQUESTS[:2]))
    found = session.ops[1].findings(3)["second looks"][:, 0]
    assert math.isnan(found[0])
    assert found[1:].tolist() == [2, 0]


def test_the_look_of_a_toy():
    """b = (3, 1), as large as the output: 0.9 (4, 0) + 0.1 (3, 1). The size of either factor cancels."""
    features = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    output, source = torch.tensor([[[4.0, 0.0]]]), torch.tensor([[[2.0, -1.0]]])
    for scale in (1.0, 3.0, 0.2):
        got = look(output, source, scale * features, 0.1)
        torch.testing.assert_close(got, torch.tensor([[[3.9, 0.1]]]), rtol=0, atol=1e-4)


def test_sizes_are_of_each_prompt_and_of_rows_without_padding():
    """Outputs (4, 0), (0, 8), b (3, 1), (1, 1), ratio 1: apart (3, 1), (4, 4); as one prompt (6, 2), (2, 2)."""
    features = torch.eye(2)[None]
    output, picture = torch.tensor([[[4.0, 0.0], [0.0, 8.0]]]), torch.tensor([[[3.0, 1.0], [1.0, 1.0]]])
    apart = look(output, picture, features, 1.0)
    torch.testing.assert_close(apart, torch.tensor([[[3.0, 1.0], [4.0, 4.0]]]))
    together = look(output, picture, features, 1.0, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(together, torch.tensor([[[6.0, 2.0], [2.0, 2.0]]]))
    padded = look(*(torch.cat([99 * part[:, :1], part], 1) for part in (output, picture)), features, 1.0,
                  torch.tensor([[False, True, True]]))  # fmt: skip
    torch.testing.assert_close(padded[:, 1:], together)


def test_the_gate_of_a_toy():
    logits = torch.tensor([[2.0, 1.0, *[0.0] * 8, -9.0], [4.0, 1.0, *[0.0] * 8, -9.0], [0.0] * 10 + [-1.0]])
    torch.testing.assert_close(uncertainty(logits), torch.tensor([0.8382, 0.3448, 1.0]), rtol=0, atol=1e-4)


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    for spec, request in (
        ("memvr(ratio=0)", REQUESTS[0]),
        ("memvr(gate=1)", REQUESTS[0]),
        ("memvr(ratio=0, twin=3)", REQUESTS[0]),
        ("memvr", Request("What?")),
    ):
        assert not mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request])).ops


def test_a_prompt_without_a_picture_is_left_alone_beside_one_with():
    """Inputs of another processor can hold both."""
    adapter = ours("llava")
    both = dict(adapter.inputs(REQUESTS[:2]))
    bare = adapter.placeholders(both["input_ids"])[1]
    both["input_ids"][1, bare], both["attention_mask"][1, bare] = 0, 0
    both["pixel_values"] = both["pixel_values"][:1]
    session = mmhall.strategy("memvr(ratio=0.9, gate=0)").fitted(adapter).prepare(adapter, both)
    with torch.no_grad():
        plain = adapter.model(**both).logits[:, -1]
        with active(adapter.plan(session.ops)):
            got = adapter.model(**both).logits[:, -1]
    assert torch.equal(got[1], plain[1])
    assert (got[0] - plain[0]).abs().max() > 0.1


def test_what_stands_in_the_padding_does_not_count():
    adapter, read = ours("llava"), []
    batch = dict(adapter.inputs(REQUESTS[:2]))
    padding = batch["attention_mask"] == 0
    for filler in (0, 7):
        filled = {**batch, "input_ids": batch["input_ids"].masked_fill(padding, filler)}
        session = mmhall.strategy("memvr(ratio=0.9, gate=0, layers='1')").fitted(adapter).prepare(adapter, filled)
        with torch.no_grad(), active(adapter.plan(session.ops)):
            read.append(adapter.model(**filled).logits[:, -1])
    torch.testing.assert_close(*read)


def test_the_twin_looks_at_other_features_of_the_same_size():
    adapter = ours("llava")
    batch, seen = adapter.inputs(REQUESTS[:2]), []
    for spec in ("memvr(gate=0)", "memvr(gate=0, twin=1)", "memvr(gate=0, twin=2)"):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch)
        with torch.no_grad(), active(adapter.plan(session.ops)):
            adapter.model(**batch)
        seen.append(session.ops[0].values)
    own, first, second = seen
    torch.testing.assert_close(own.norm(dim=-1), first.norm(dim=-1))
    assert (torch.cosine_similarity(first, second, dim=-1).abs() < 0.9).all()
    assert (torch.cosine_similarity(own, first, dim=-1).abs() < 0.9).all()
    spec = "memvr(gate=0, ratio=0.8, twin=1)"
    alone = [said(adapter, adapter.inputs([one]), spec, max_new_tokens=4)[0] for one in REQUESTS[:2]]
    assert said(adapter, batch, spec, max_new_tokens=4) == alone


def test_what_papers_give_and_what_it_claims():
    assert parse_layers("21%:52%", ["full"] * 32, {"full"}, "memvr", "layers") == set(range(7, 17))
    with pytest.raises(CompositionError, match="both want the update of the MLP"):
        mmhall.strategy("memvr+memvr(ratio=0.3)")


@pytest.mark.parametrize(("name", "reason"), [("mllama", "cross-attention"), ("blip_2", "two matrices of its MLP")])
def test_models_that_cannot_carry_it_say_why(name, reason):
    with pytest.raises(CompositionError, match=rf"^memvr: .* cannot carry it: .*{reason}"):
        mmhall.strategy("memvr").fitted(ours(name))


def test_in_half_precision():
    check_half("memvr(ratio=0.5, gate=0)", "memvr(ratio=0)")


def test_what_it_cannot_do_is_refused():
    for option, value in (("ratio", -0.1), ("ratio", math.nan), ("gate", 1.1), ("layers", "a"), ("twin", -1)):
        with pytest.raises(OptionError, match=rf"^memvr: {option} must be .*, got"):
            mmhall.strategy("memvr", **{option: value})
