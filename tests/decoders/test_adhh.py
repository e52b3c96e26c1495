"""AD-HH against its formula written out; where its heads come from; its fit against ablation by hand; its twin."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import mmhall
from mmhall.adapters._base import Request
from mmhall.analysis import head_influence, measure_words
from mmhall.attention import Op, active
from mmhall.errors import CompositionError, FitError, OptionError
from mmhall.fitting import make_learner
from mmhall.options import rules
from mmhall.strategies import Strategy, format_heads
from tests.decoders.fitted import fitted_artifact, made_artifact, made_pairs
from tests.decoders.rows import IN_SEQUENCE, check, check_half, family
from tests.generation.reference import QUIET, REQUESTS, ours
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET


def hidden(weights, after, tau):
    """Weights of a row, (K,), as AD-HH leaves them."""
    edited = weights.clone()
    if sum(weights[after].tolist()) >= tau:
        edited[after] = 0.0
    return edited


def formula(heads, tau):
    def edit(reader, layer, probs):
        edited = probs.clone()
        for row in range(reader.length - 1, probs.shape[2]):
            after = list(range(reader.image[-1] + 1, row + 1))
            for head in [head for at, head in heads if at == layer]:
                edited[0, head, row] = hidden(probs[0, head, row], after, tau)
        return edited

    def reference(adapter, reader, request, answer):
        return reader.logits(adapter.inputs([request]), answer[:-1], probs=edit).log_softmax(-1)

    return reference


def listed(name):
    """Every head but the last of the layers that hold image columns, and how an option lists them."""
    adapter = ours(name)
    layers = [layer for layer, kind in enumerate(adapter.kinds) if kind in adapter.image_kinds]
    heads = [(layer, head) for layer in layers for head in range(adapter.heads - 1)]
    return heads, ", ".join(f"{layer}.{head}" for layer, head in heads)


@pytest.mark.parametrize("name", [name for name in REPRESENTATIVES if name in IN_SEQUENCE])
def test_a_batch_is_the_formula_of_each_prompt(name):
    heads, spec = listed(name)
    check(name, f"adhh(tau=0.3, heads='{spec}')", formula(heads, 0.3))


def test_the_edit_of_a_toy():
    weights = torch.tensor([0.2, 0.3, 0.1, 0.3, 0.1])
    assert_close(hidden(weights, [3, 4], 0.35), torch.tensor([0.2, 0.3, 0.1, 0.0, 0.0]))
    assert torch.equal(hidden(weights, [3, 4], 0.45), weights)


class Note(Op):
    """Notes the newest row's weights in layer 1, after the edits before it."""

    writes, layers = True, frozenset({1})

    def rows(self, call):
        return call.newest

    def edit_probs(self, call, rows, probs):
        self.probs = probs.clone()
        return probs


def noted(spec):
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:2])
    (op,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch).ops
    before, after = Note(), Note()
    with torch.no_grad(), active(adapter.plan([before, op, after])):
        adapter.model(**batch)
    return adapter, batch, before.probs, after.probs, op


def test_heads_that_are_not_listed_and_columns_up_to_the_picture_keep_their_weights():
    adapter, batch, before, after, op = noted("adhh(tau=0, heads='1.0, 1.2')")
    text = adapter.after_image(batch)[:, None, None]
    assert torch.equal(before[:, [1, 3]], after[:, [1, 3]])
    chosen = after[:, [0, 2]]
    assert torch.equal(chosen, before[:, [0, 2]].masked_fill(text, 0.0))
    removed = (before[:, [0, 2]] * text).sum(-1)
    assert (removed > 0).all()
    assert_close(chosen.sum(-1), 1 - removed, rtol=0, atol=1e-6)
    (shares,) = op.findings(len(adapter.layers)).values()
    assert shares[1].nan_to_num(-1).tolist() == [1, -1, 1, -1]
    assert shares[[0, 2]].isnan().all()


def test_each_row_of_a_batch_fires_by_itself():
    _, batch, before, _, _ = noted("adhh(tau=0, heads='1.0')")
    adapter, _ = family("llava")
    masses = (before[:, 0, 0] * adapter.after_image(batch)).sum(-1)
    between = float(masses.mean())
    _, _, _, after, _ = noted(f"adhh(tau={between}, heads='1.0')")
    changed = (before != after).flatten(1).any(1)
    assert changed.tolist() == (masses >= between).tolist()
    assert changed.sum() == 1


def test_the_twin_takes_as_many_other_heads_of_each_layer():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:1])

    def heads(spec):
        (op,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch).ops
        return {layer: set(chosen.tolist()) for layer, chosen in op._heads.items()}

    informed = heads("adhh(heads='0.1, 0.2, 2.3')")
    twins = [heads(f"adhh(heads='0.1, 0.2, 2.3', twin={twin})") for twin in range(1, 9)]
    for twin in twins:
        assert {layer: len(chosen) for layer, chosen in twin.items()} == {0: 2, 2: 1}
        assert not any(twin[layer] & informed[layer] for layer in informed)
    assert len({tuple(twin[2]) for twin in twins}) > 1


def test_all_heads_may_be_taken():
    adapter = ours("qwen3_5")
    (op,) = mmhall.strategy("adhh(heads='all')").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1])).ops
    assert op.layers == {layer for layer, kind in enumerate(adapter.kinds) if kind == "full"}
    assert all(heads.tolist() == list(range(adapter.heads)) for heads in op._heads.values())


def test_in_half_precision():
    check_half("adhh(tau=0, heads='0.0, 1.1')", "adhh(tau=2, heads='0.0')")


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    for spec, request in (
        ("adhh(tau=1.5, heads='1.0')", REQUESTS[0]),
        ("adhh(heads='')", REQUESTS[0]),
        ("adhh(heads='1.0', tau=2, twin=1)", REQUESTS[0]),
        ("adhh(heads='1.0', tau=0)", Request("?")),
    ):
        assert mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request])) == mmhall.Session()


@pytest.fixture
def bare():
    """A model without an artifact; what the test gives it is taken away again."""
    adapter = ours("llava")
    before, adapter.artifacts = adapter.artifacts, {}
    yield adapter
    adapter.artifacts = before


def ranked(adapter):
    """An artifact that ranks head 2 of layer 1 first, then head 0 of layer 2."""
    scores = torch.zeros(len(adapter.layers), adapter.heads)
    scores[1, 2], scores[2, 0] = 2.0, 1.0
    return made_artifact(Strategy.fitted(mmhall.strategy("adhh"), adapter), {"scores": scores})


def test_a_fit_ranks_the_heads_and_share_says_how_many(bare):
    with pytest.raises(CompositionError, match="adhh: needs an artifact"):
        mmhall.strategy("adhh").fitted(bare)
    bare.artifacts = {"adhh": ranked(bare)}
    for share, wanted in ((0.01, {1: [2]}), (2 / 12, {1: [2], 2: [0]}), (0, None)):
        fitted = mmhall.strategy(f"adhh(share={share}, tau=0)").fitted(bare)
        assert (fitted.heads, fitted.artifact) == ("fitted", bare.artifacts["adhh"].digest)
        ops = fitted.prepare(bare, bare.inputs(REQUESTS[:1])).ops
        assert ({k: v.tolist() for k, v in ops[0]._heads.items()} if ops else None) == wanted


def test_heads_that_are_given_or_published_need_no_artifact(bare):
    given = mmhall.strategy("adhh(heads='1.0')").fitted(bare)
    assert (given.heads, given.artifact) == ("1.0", None)
    kind = type(given)
    assert len(kind.published["llava", 32]["heads"].split(",")) == 20
    published = {("llava", len(bare.layers)): {"heads": "0.0, 1.1"}}
    patched = type("ADHH", (kind,), {"published": published})
    assert patched().fitted(bare).heads == "0.0, 1.1"
    assert patched().origins(bare)["heads"].startswith("published")
    bare.artifacts = {"adhh": ranked(bare)}
    assert mmhall.strategy("adhh(heads='1.0')").fitted(bare).artifact is None
    own = patched().fitted(bare)
    assert (own.heads, own.artifact) == ("fitted", bare.artifacts["adhh"].digest)
    assert patched().origins(bare)["heads"] == "as its artifact was fitted"
    with pytest.raises(OptionError, match="artifact must be left out"):
        mmhall.strategy("adhh(heads='1.0', artifact='0123456789ab')").fitted(bare)


def without(adapter, reader, request, ids, layer, head):
    """Probability of the last token, its prediction read without a head's output, all by complete eager passes."""

    def edit(reader, at, output):
        edited = output.clone()
        if at == layer:
            edited[0, reader.length + len(ids) - 2, head] = 0.0
        return edited

    logits = reader.logits(adapter.inputs([request]), ids[:-1], output=edit)
    return float(logits[-1].softmax(-1)[ids[-1]])


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_5", "gemma4", "instructblip"])
def test_influence_is_what_the_token_loses_without_the_head(name):
    adapter, reader = family(name)
    ids = adapter.tokenizer("There is a dog", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        got = head_influence(adapter, adapter.inputs(REQUESTS[:1]), ids)
    for layer, head in ((0, 1), (len(adapter.layers) - 1, 0), (1, adapter.heads - 1)):
        if adapter.kinds[layer] == "linear":
            assert not got[layer].any()
            continue
        wanted = without(adapter, reader, REQUESTS[0], ids, -1, 0)
        wanted -= without(adapter, reader, REQUESTS[0], ids, layer, head)
        assert float(got[layer, head]) == pytest.approx(wanted, abs=1e-6)
    assert (got != 0).any()


def test_a_fit_scores_heads_by_hallucinated_less_true_words():
    adapter = ours("llava")
    pairs = made_pairs(alike=True)
    artifact = fitted_artifact(adapter, "adhh")
    differences = []
    for pair in pairs:
        (inputs,) = [adapter.inputs([Request(pair.prompt, (pair.picture,))])]
        ids = [adapter.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (pair.faithful, pair.hallucinated)]
        at = next(i for i, (one, other) in enumerate(zip(*ids, strict=True)) if one != other)
        with torch.inference_mode():
            true, false = (head_influence(adapter, inputs, part[: at + 1]) for part in ids)
        differences.append(false - true)
    assert_close(artifact.tensors["scores"], torch.stack(differences).mean(0))
    top = artifact.tensors["scores"].flatten().argmax().item()
    assert artifact.facts["numbers"]["heads"] == f"{top // adapter.heads}.{top % adapter.heads}"


def test_a_fit_refuses_words_that_do_not_differ_beyond_chance():
    adapter = ours("llava")
    pairs = made_pairs(alike=True)
    turned = [type(p)(p.id, p.picture, p.prompt, p.hallucinated, p.faithful) for p in pairs[1::2]]
    with pytest.raises(FitError, match="the influence of heads does not tell true from hallucinated words"):
        fitted_artifact_of(adapter, [*pairs[::2], *turned])
    same = [type(p)(p.id, p.picture, p.prompt, p.faithful, p.faithful.replace(", and", " and")) for p in pairs]
    with pytest.raises(FitError, match="the texts of no pair differ in a content word"):
        measure_words(adapter, same, lambda inputs, text: torch.zeros(0))


def fitted_artifact_of(adapter, pairs):
    with torch.inference_mode():
        return Strategy.fitted(mmhall.strategy("adhh"), adapter).fit(adapter, pairs, 0)


def test_heads_are_not_given_to_a_fit():
    with pytest.raises(OptionError, match=r"adhh: heads must be left out: a fit finds the heads, got '1\.0'"):
        make_learner("adhh(heads='1.0')")
    assert str(make_learner("adhh")) == "adhh(heads='fitted')"


@pytest.mark.parametrize(
    ("option", "value"), [("tau", -0.1), ("heads", "3"), ("heads", "every"), ("share", 1.1), ("twin", -1)]
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^adhh: {option} must be .*, got"):
        mmhall.strategy("adhh", **{option: value})


@pytest.mark.parametrize(("name", "head"), [("llava", "1.4"), ("llava", "3.0"), ("qwen3_5", "0.0")])
def test_heads_that_a_model_lacks_are_refused(name, head):
    adapter = ours(name)
    with pytest.raises(
        OptionError, match=rf"^adhh: heads must be heads 0 to {adapter.heads - 1} of layers .*, got '{head}'"
    ):
        mmhall.strategy(f"adhh(heads='{head}')").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))


def test_lists_are_written_as_they_are_read():
    chosen = torch.tensor([[False, True, True], [False] * 3, [True, False, False]])
    assert format_heads(chosen) == "0.1, 0.2, 2.0"
    assert rules(type(mmhall.strategy("adhh")))["heads"].holds("0.1, 0.2, 2.0")
