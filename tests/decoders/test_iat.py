"""IAT against its formula written out, in the families; what it leaves alone; its twin."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.attention import Op
from mmhall.errors import OptionError
from mmhall.generation import Settings
from mmhall.strategies import rank_columns
from tests.decoders.rows import check, check_half, family, written
from tests.generation.reference import QUIET, REQUESTS, ours
from tests.jobs import decode
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

UNSEEN = -1e30


def raised(scores, alpha):
    """Scores of a row as IAT leaves them, column by column."""
    return torch.tensor([s + alpha * abs(s) if s > UNSEEN else s for s in scores.tolist()])


def formula(layers, alpha=2.0, drawn=None):
    """Return what gives the scores of every step of a given answer, (NEW, V).

    Args:
        layers: Layers that are edited.
        alpha: Strength.
        drawn: Returns the columns to raise in place of the answer's, from a reader and their number.
    """

    def edit(reader, layer, scores):
        edited = scores.clone()
        for row in range(reader.length, scores.shape[2]) if layer in layers else ():
            columns = list(range(reader.length, row + 1))
            columns = columns if drawn is None else drawn(reader, len(columns))
            for head in range(scores.shape[1]):
                edited[0, head, row, columns] = raised(scores[0, head, row, columns], alpha)
        return edited

    def reference(adapter, reader, request, answer):
        return reader.logits(adapter.inputs([request]), answer[:-1], scores=edit).log_softmax(-1)

    return reference


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_batch_is_the_formula_of_each_prompt(name):
    attending = [layer for layer, kind in enumerate(ours(name).kinds) if kind not in ("linear", "cross")]
    check(name, f"iat(alpha=6, layers='{', '.join(map(str, attending))}')", formula(attending, 6.0))


def test_the_edit_of_a_toy():
    """Scores (2, 1 | -1, 1): the answer's become -0.2 and 1.8."""
    scores = torch.tensor([2.0, 1.0, -1.0, 1.0])
    plain = torch.tensor([0.5601, 0.2060, 0.0279, 0.2060])
    torch.testing.assert_close(scores.softmax(-1), plain, rtol=0, atol=1e-4)
    edited = torch.cat([scores[:2], raised(scores[2:], 0.8)])
    torch.testing.assert_close(edited, torch.tensor([2.0, 1.0, -0.2, 1.8]))
    wanted = torch.tensor([0.4353, 0.1601, 0.0482, 0.3564])
    torch.testing.assert_close(edited.softmax(-1), wanted, rtol=0, atol=1e-4)


class Note(Op):
    """Notes the newest row's scores of every step in a layer, before or after an edit, (B, H, 1, K) each."""

    writes, layers = True, frozenset({1})

    def __init__(self):
        self.seen, self.passes = [], []

    def rows(self, call):
        self.passes.append(call.step)
        return call.newest if call.step else None

    def edit_scores(self, call, rows, scores):
        self.seen.append(scores.clone())
        return scores


def noted(spec, new=4):
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    (op,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch).ops
    before, after = Note(), Note()
    config = Settings(max_new_tokens=new).resolved(adapter.generator)
    session = mmhall.Session(ops=[before, op, after])
    with torch.inference_mode():
        decode(adapter, batch, session, config, [0, 0])
    return adapter, batch, before, after


def test_columns_of_the_prompt_are_untouched():
    _, batch, before, after = noted("iat(alpha=2, layers='1')")
    length = batch["input_ids"].shape[1]
    assert before.passes == [0, 1, 2, 3]
    for step, (old, new) in enumerate(zip(before.seen, after.seen, strict=True), start=1):
        assert old.shape[-1] == length + step
        assert torch.equal(old[..., :length], new[..., :length])
        torch.testing.assert_close(new[..., length:], old[..., length:] + 2 * old[..., length:].abs())


def test_no_row_is_computed_before_there_is_an_answer():
    adapter = ours("llava")
    for spec in ("iat", "iat(twin=1)"):
        (op,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1])).ops
        assert op.rows(SimpleNamespace(step=0, newest=torch.tensor([9]))) is None
        assert op.rows(SimpleNamespace(step=1, newest=torch.tensor([0]))).tolist() == [0]


def test_the_first_token_is_that_of_plain_decoding():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    steered, plain = (written(adapter, batch, spec) for spec in ("iat(alpha=50, layers=':')", "greedy"))
    assert torch.equal(steered[:, 0], plain[:, 0])
    assert not torch.equal(steered, plain)


@pytest.mark.parametrize("name", ["llava", "mllama"])
def test_the_twin_raises_as_many_columns_of_the_prompt(name):
    adapter = ours(name)
    layers = [layer for layer, kind in enumerate(adapter.kinds) if kind != "cross"]

    def drawn(reader, count):
        request = next(one for one in REQUESTS if adapter.inputs([one])["input_ids"].shape[1] == reader.length)
        (rank,) = rank_columns(adapter, adapter.inputs([request]), 7)
        assert (rank < count).sum() == count
        return (rank < count).nonzero()[:, 0].tolist()

    check(name, f"iat(alpha=6, layers='{', '.join(map(str, layers))}', twin=7)", formula(layers, 6.0, drawn))


def test_columns_are_ranked_text_first_without_the_first_token_and_padding():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    ranks, image = rank_columns(adapter, batch, 3), adapter.image_mask(batch["input_ids"])
    for index, request in enumerate(REQUESTS[:2]):
        single = adapter.inputs([request])
        width = single["input_ids"].shape[1]
        rank, padding = ranks[index, -width:], ranks[index, :-width]
        places = torch.where(rank == ranks.shape[1], width, rank)
        assert torch.equal(places, rank_columns(adapter, single, 3)[0])
        assert (padding == ranks.shape[1]).all()
        assert rank[0] == ranks.shape[1]
        assert rank[1:].sort().values.tolist() == list(range(width - 1))
        text = ~image[index, -width:]
        assert rank[1:][text[1:]].max() < rank[~text].min()
    assert not torch.equal(ranks, rank_columns(adapter, batch, 4))


def test_in_half_precision():
    check_half("iat(alpha=2, layers=':')", "iat(alpha=0)")


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    for spec, request in (("iat(alpha=0)", REQUESTS[0]), ("iat(alpha=0, twin=1)", REQUESTS[0]), ("iat", Request("?"))):
        assert mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request])) == mmhall.Session()


def test_what_the_paper_gives_is_filled_in():
    method = type(mmhall.strategy("iat"))
    assert method.published["llava", 32] == {"alpha": 0.8, "layers": "5:18"}
    fitted = mmhall.strategy("iat").fitted(ours("llava"))
    assert (fitted.alpha, fitted.layers) == (0.8, "15%:55%")


@pytest.mark.parametrize(("option", "value"), [("alpha", -0.1), ("layers", "x"), ("twin", -1)])
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^iat: {option} must be .*, got"):
        mmhall.strategy("iat", **{option: value})
