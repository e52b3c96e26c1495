"""ACG against its formula written out, in every family with image columns; its identities; its twin."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import mmhall
from mmhall.adapters._base import Request
from mmhall.attention import Op, active
from mmhall.decoders.acg import orthogonal_part
from mmhall.errors import CompositionError, OptionError
from tests.decoders.rows import IN_SEQUENCE, check, check_half, family
from tests.generation.reference import QUIET, REQUESTS, ours
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET


def amplified(scores, values, image, gamma):
    """The output of one row and head, (D,), from scores (K,) and values (K, D), with a second softmax."""
    bare = scores.clone()
    bare[image] = -torch.inf
    whole, without = scores.softmax(-1) @ values, bare.softmax(-1) @ values
    unit = without / without.norm()
    change = whole - without
    return whole + gamma * (change - (change @ unit) * unit)


class Eagerly:
    """Edits of an eager copy: the scores and values of a layer give the rows from the prompt's last on."""

    def __init__(self, layers, gamma):
        self.layers, self.gamma = layers, gamma
        self.scores = torch.empty(0)

    def note(self, reader, layer, scores):
        self.scores = scores
        return scores

    def edit(self, reader, layer, output):
        if layer not in self.layers:
            return output
        edited, values = output.clone(), reader.eager.values
        for row in range(reader.length - 1, output.shape[1]):
            for head in range(output.shape[2]):
                edited[0, row, head] = amplified(self.scores[0, head, row], values[0, head], reader.image, self.gamma)
        return edited


def formula(layers, gamma):
    def reference(adapter, reader, request, answer):
        edits = Eagerly(layers, gamma)
        logits = reader.logits(adapter.inputs([request]), answer[:-1], scores=edits.note, output=edits.edit)
        return logits.log_softmax(-1)

    return reference


@pytest.mark.parametrize("name", [name for name in REPRESENTATIVES if name in IN_SEQUENCE])
def test_a_batch_is_the_formula_of_each_prompt(name):
    layers = [layer for layer, kind in enumerate(ours(name).kinds) if kind != "linear"]
    check(name, f"acg(gamma=2, layers='{', '.join(map(str, layers))}')", formula(layers, 2.0))


def test_the_edits_of_two_toys():
    for scores, values, wanted, gamma in (
        ([0.0, 3.0], [[3.0, 4.0], [1.0, 2.0]], [1.164, 2.752], 1.4),
        ([0.0, 3.0], [[1.0, 0.0], [1.0, 2.0]], [1.0, 5.1], 2.4),
    ):
        probs, columns = torch.tensor([1.0, scores[1]]) / (1 + scores[1]), torch.tensor(values)
        added = orthogonal_part(probs[1] * columns[1], probs[0] * columns[0])
        assert_close(probs @ columns + gamma * added, torch.tensor(wanted), rtol=0, atol=1e-4)
        log = torch.tensor([0.0, scores[1]]).clamp_min(1.0).log()
        assert_close(amplified(log, columns, [1], gamma), torch.tensor(wanted), rtol=0, atol=1e-4)


def test_what_is_added_is_orthogonal_and_comes_from_the_picture_alone():
    draw = torch.Generator().manual_seed(0)
    probs = torch.randn(5, 9, generator=draw).softmax(-1)
    values, image = torch.randn(9, 4, generator=draw), torch.arange(9) >= 4
    added = orthogonal_part((probs * image) @ values, (probs * ~image) @ values)
    bare = (probs * ~image) @ values / (probs * ~image).sum(-1, keepdim=True)
    unit = bare / bare.norm(dim=-1, keepdim=True)
    assert_close((added * bare).sum(-1), torch.zeros(5), rtol=0, atol=1e-6)
    change = probs @ values - bare
    assert_close(added, change - (change * unit).sum(-1, keepdim=True) * unit)


def test_a_head_that_sees_nothing_but_the_picture_is_left_alone():
    image, rest = torch.tensor([[0.75, 1.5], [0.75, 1.5]]), torch.tensor([[0.0, 0.0], [0.75, 1.0]])
    for other in (None, torch.tensor([1.0, 0.0])):
        added = orthogonal_part(image, rest, other)
        assert torch.equal(added[0], torch.zeros(2))
        assert added[1].abs().min() > 0


class Note(Op):
    """Notes head outputs of a layer, as the ops before it have left them."""

    def __init__(self, layer):
        self.layers = frozenset({layer})

    def edit_output(self, call, output):
        self.output = output
        return output


def noted(spec):
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    before, after = Note(1), Note(1)
    ops = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch).ops
    with torch.no_grad(), active(adapter.plan([before, *ops, after])):
        adapter.model(**batch)
    return before.output, after.output


def test_rows_of_a_prompt_before_the_last_are_untouched():
    before, after = noted("acg(gamma=3, layers='1')")
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert ((after - before)[:, -1].norm(dim=-1) > 0).all()


def test_the_twin_adds_as_much_in_another_orthogonal_direction():
    before, after = noted("acg(gamma=3, layers='1')")
    informed = (after - before)[:, -1]
    changes = []
    for twin in (1, 2):
        before, after = noted(f"acg(gamma=3, layers='1', twin={twin})")
        change = (after - before)[:, -1]
        assert_close(change.norm(dim=-1), informed.norm(dim=-1), rtol=1e-4, atol=1e-5)
        changes.append(change)
    for one, other in ((informed, changes[0]), (informed, changes[1]), changes):
        assert (torch.nn.functional.cosine_similarity(one, other, dim=-1).abs() < 0.99).all()


def test_in_half_precision():
    check_half("acg(gamma=2)", "acg(gamma=0)")


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    for spec, request in (("acg(gamma=0)", REQUESTS[0]), ("acg(gamma=0, twin=1)", REQUESTS[0]), ("acg", Request("?"))):
        assert mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request])) == mmhall.Session()


def test_models_without_image_columns_are_refused():
    with pytest.raises(CompositionError, match=r"mllama cannot carry it: .*cross-attention"):
        mmhall.strategy("acg").fitted(ours("mllama"))


@pytest.mark.parametrize(("option", "value"), [("gamma", float("nan")), ("gamma", "a"), ("layers", ""), ("twin", -1)])
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^acg: {option} must be .*, got"):
        mmhall.strategy("acg", **{option: value})
