"""ACT against its formula written out; its sinks, blocks, fit and twin."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch.testing import assert_close

import mmhall
from mmhall.adapters import Request, adapter_for, first_tokens
from mmhall.analysis import first_answers, gains_of_heads
from mmhall.attention._attend import attend_with_ops
from mmhall.decoders.act import ACT, _Calibrate, log_bias
from mmhall.errors import CompositionError, FitError, OptionError
from mmhall.generation import first_token_scores
from mmhall.strategies import Session, Strategy
from tests.attention.reference import given_scores
from tests.decoders.fitted import fitted_artifact, made_questions
from tests.decoders.rows import check, check_half, family, scored, written
from tests.generation.reference import QUIET, REQUESTS, built, ours

pytestmark = QUIET

ALL = "act(beta=0.2, theta=0.06, heads='all', layers=':')"


def sinks_of(weights, length, theta):
    """Columns of a head with a mean above theta over the prompt's rows that see them, without the first."""
    means = [weights[:length, k][weights[:length, k] > 0].mean() for k in range(length)]
    return [k for k in range(1, length) if means[k] > theta]


def calibrated(row, sinks, beta):
    """A row's weights, (K,): sinks keep a share, and the others get the rest in proportion."""
    edited, rest = row.clone(), [k for k in range(len(row)) if k not in sinks]
    freed = (1 - beta) * row[sinks].sum()
    edited[sinks] = beta * row[sinks]
    edited[rest] = row[rest] + freed * row[rest] / row[rest].sum()
    return edited


def formula(theta, beta, found):
    def edit(reader, layer, probs):
        edited = probs.clone()
        for head in range(probs.shape[1]):
            sinks = sinks_of(probs[0, head], reader.length, theta)
            found.append(len(sinks))
            for row in range(probs.shape[2]) if sinks else ():
                edited[0, head, row] = calibrated(probs[0, head, row], sinks, beta)
        return edited

    def reference(adapter, reader, request, answer):
        return reader.logits(adapter.inputs([request]), answer[:-1], probs=edit).log_softmax(-1)

    return reference


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "paligemma"])
def test_a_batch_is_the_formula_of_each_prompt(name):
    found = []
    check(name, ALL, formula(0.06, 0.2, found))
    assert min(found) < max(found)


TOY = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.3, 0.6, 0.1, 0], [0.2, 0.5, 0.1, 0.2]])


def op_of(options, heads=1, rows=1, image=()):
    columns = torch.zeros(rows, 4, dtype=torch.bool)
    columns[:, list(image)] = True
    candidates = torch.tensor([False, True, True, True]).expand(rows, 4)
    candidates = candidates & ~columns if options.sinks == "text" else candidates
    return _Calibrate(
        options, torch.ones(1, heads, dtype=torch.bool), torch.ones(rows, 4, dtype=torch.bool), candidates, columns
    )


def outputs(op, weights):
    call = given_scores(weights.clamp_min(1e-30).log()[None, None])
    return attend_with_ops(call, [op], lambda q, k, v, mask: (torch.zeros(1, 4, 1, 4), None))[0, :, 0]


def test_a_toy():
    """Means .5, .5333, .1, .2: above .3 are columns 0 and 1, of which column 0 is left out."""
    op = op_of(ACT(theta=0.3, beta=0.4, sinks="all"))
    wanted = torch.tensor([[1, 0, 0, 0], [0.8, 0.2, 0, 0], [0.57, 0.24, 0.19, 0], [0.32, 0.2, 0.16, 0.32]])
    assert_close(outputs(op, TOY), wanted, rtol=0, atol=1e-4)
    maps = op.findings(1)
    assert maps["sinks of a head"].tolist() == [[1.0]]
    for row in range(4):
        assert_close(calibrated(TOY[row], [1], 0.4), wanted[row], rtol=0, atol=1e-4)


def test_an_image_token_can_be_a_sink_unless_only_text_can():
    for sinks, spared in (("all", False), ("text", True)):
        op = op_of(ACT(theta=0.3, beta=0.4, sinks=sinks), image=(1, 2))
        assert torch.allclose(outputs(op, TOY), TOY, atol=1e-6) == spared
        assert op.findings(1)["share of heads with a sink here"].tolist() == [0.0 if spared else 1.0, 0.0]


def test_the_bias_of_sinks():
    """log(.4 * .5 / .8) = -1.3863; where only sinks are seen, and with share 0, it stays finite."""
    masses = torch.tensor([0.0, 0.5, 1.0])
    assert_close(log_bias(masses, 1 - masses, 0.4)[:2], torch.tensor([0.4, 0.25]).log())
    assert log_bias(masses, 1 - masses, 0.4).isfinite().all()
    assert log_bias(masses, 1 - masses, 0.0).isfinite().all()
    assert_close(log_bias(torch.tensor(1.0), torch.tensor(1e-12), 0.4), torch.tensor(0.4e-12 / 0.6).log())


def test_rows_are_read_in_blocks(monkeypatch):
    """The prompts are longer than a block; what is said does not depend on the size of one."""
    adapter, _ = family("llava")
    batch, sizes = adapter.inputs(REQUESTS[:2]), []
    assert batch["input_ids"].shape[1] > 8
    answers = written(adapter, batch, ALL)
    method = mmhall.strategy(ALL).fitted(adapter)
    whole = scored(adapter, batch, method.prepare(adapter, batch), answers)
    for module in ("_rows", "_attend"):
        monkeypatch.setattr(f"mmhall.attention.{module}.BLOCK", 4)
    edit = _Calibrate.edit_scores

    def counted(op, call, rows, scores):
        sizes.append(len(rows))
        return edit(op, call, rows, scores)

    monkeypatch.setattr(_Calibrate, "edit_scores", counted)
    assert_close(scored(adapter, batch, method.prepare(adapter, batch), answers), whole, rtol=1e-5, atol=1e-5)
    assert max(sizes) == 4


def test_heads_that_are_not_listed_are_untouched_and_twins_take_others():
    adapter, _ = family("llava")
    batch = adapter.inputs(REQUESTS[:1])

    def heads(spec):
        (op,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch).ops
        return {(layer, head) for layer, head in product(range(3), range(4)) if op._chosen[layer, head]}

    listed = "act(heads='1.0, 1.2', beta=0, theta=0"
    assert heads(listed + ")") == {(1, 0), (1, 2)}
    twins = [heads(f"{listed}, layers='1', twin={twin})") for twin in (1, 2)]
    assert twins == 2 * [{(1, 1), (1, 3)}]
    (op,) = mmhall.strategy(listed + ")").fitted(adapter).prepare(adapter, batch).ops
    scored(adapter, batch, Session(ops=[op]), written(adapter, batch, "greedy"))
    counts = op.findings(3)["sinks of a head"]
    assert (counts[1, [0, 2]] == batch["input_ids"].shape[1] - 1).all()
    assert counts.isnan().sum() == 10


def test_a_twin_of_all_heads_draws_columns_instead():
    """As many for each head, and never the first."""
    adapter, _ = family("llava")
    batch, sinks = adapter.inputs(REQUESTS[:2]), []
    for twin in (0, 1, 2):
        (op,) = mmhall.strategy(f"{ALL[:-1]}, twin={twin})").fitted(adapter).prepare(adapter, batch).ops
        scored(adapter, batch, Session(ops=[op]), written(adapter, batch, "greedy"))
        sinks.append(op._sinks[0])
        assert not sinks[-1].transpose(1, 2)[first_tokens(batch) | ~batch["attention_mask"].bool()].any()
    assert sinks[0].sum() > 0
    for twin in sinks[1:]:
        assert torch.equal(twin.sum(-1), sinks[0].sum(-1))
        assert not torch.equal(twin, sinks[0])
    assert not torch.equal(*sinks[1:])


def test_in_half_precision():
    check_half("act(beta=0, theta=0.02, heads='all')", "act(beta=1, heads='all')")


def test_the_fit_lists_heads_whose_calibration_helps():
    adapter, questions = ours("llava"), made_questions()
    artifact = fitted_artifact(adapter, "act(by='margin', theta=0.05, layers='1')")
    gains = artifact.tensors["gains"]
    assert gains.shape == (3, 4)
    assert gains[1].ne(0).all()
    assert not gains[[0, 2]].any()
    plain = mmhall.strategy("greedy")
    for head in range(4):
        alone = mmhall.strategy(f"act(theta=0.05, heads='1.{head}')")
        margins = first_answers(adapter, questions, [plain, alone]).margins
        assert_close(gains[1, head], (margins[1] - margins[0]).mean().float())
    adapter.artifacts = {"act": artifact}
    try:
        method = mmhall.strategy("act").fitted(adapter)
        assert (method.heads, method.theta, method.by) == ("fitted", 0.05, "margin")
        assert torch.equal(method._select(adapter), gains > 0)
        assert artifact.facts["numbers"]["heads"]["tried"] == 4
        assert mmhall.strategy("act(beta=0)").fitted(adapter).artifact == artifact.digest
        with pytest.raises(OptionError, match=r"act: theta must be left out, or 0\.05"):
            mmhall.strategy("act(theta=0.1)").fitted(adapter)
    finally:
        adapter.artifacts = {}


def test_where_no_head_helps_there_is_nothing_to_use():
    adapter = ours("llava")
    with pytest.raises(FitError, match="calibrating no single head raises the accuracy on 6 questions"):
        Strategy.fitted(ACT(theta=1.0), adapter).fit(adapter, made_questions(), 0)
    adapter.artifacts = {}
    with pytest.raises(CompositionError, match="act: needs an artifact fitted on this model"):
        mmhall.strategy("act").fitted(adapter)
    with pytest.raises(OptionError, match="act: heads must be heads 0 to 3 of layers"):
        mmhall.strategy("act(heads='9.0')").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))


def test_objectives_of_questions():
    """Accuracy and margin know the answers; the entropy does not."""
    adapter, questions = ours("llava"), made_questions(4)
    flipped = [replace(question, is_yes=not question.is_yes) for question in questions]
    one, other = (first_answers(adapter, asked, [mmhall.strategy("greedy")]) for asked in (questions, flipped))
    assert_close(one.margins, -other.margins)
    assert_close(one.entropies, other.entropies)
    assert float(one.objective("accuracy") + other.objective("accuracy")) == 1
    assert float(one.objective("entropy")) == -float(one.entropies.mean())
    logits = first_answers(adapter, questions[:1], [mmhall.strategy("apc(beta=1)")])
    assert float(logits.entropies) == 0  # one token is left
    among = torch.zeros(3, 4, dtype=torch.bool)
    among[2, 1] = True
    greedy = mmhall.strategy("greedy")
    assert not gains_of_heads(adapter, questions, lambda head: greedy, lambda head: greedy, among, "margin").any()


def test_rounding_makes_no_head_gain():
    """No mean is above 1, so that nothing is calibrated; but attention is computed explicitly in one layer."""
    adapter, questions = ours("llava"), made_questions()
    method = ACT(theta=1.0, by="margin", layers=":")
    with pytest.raises(FitError, match="calibrating no single head raises the margin on 6 questions"):
        Strategy.fitted(method, adapter).fit(adapter, questions, 0)
    plain = mmhall.strategy("greedy")
    among, alone = torch.ones(3, 4, dtype=torch.bool), partial(method._alone, 1.0)
    assert gains_of_heads(adapter, questions, alone, lambda head: plain, among, "margin").any()


@pytest.mark.parametrize("first", ["vtc-cls(keep=0.3)", "debiased-pruning(keep=0.3, layer='0')"])
@pytest.mark.parametrize("twin", [0, 1])
def test_dropped_tokens_are_no_sinks_and_a_batch_is_its_prompts(first, twin):
    """A prompt with two pictures keeps more tokens than the others, whose dropped tokens fill the batch."""
    adapter = ours("llava")
    both = Request("Are they alike?", (*REQUESTS[0].images, *REQUESTS[1].images))
    requests = [*REQUESTS[:2], both]
    spec = f"act(heads='all', layers=':', beta=0, theta=0.08, twin={twin})+{first}"
    batch = adapter.inputs(requests)
    together = first_token_scores(adapter, batch, mmhall.strategy(spec))
    for row, request in enumerate(requests):
        alone = first_token_scores(adapter, adapter.inputs([request]), mmhall.strategy(spec))[0]
        assert_close(together[row], alone, rtol=0, atol=1e-5)
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch)
    scored(adapter, batch, session, torch.zeros(3, 1, dtype=torch.long))
    act, ranking = session.ops[:2]
    assert act._sinks[2].any()
    assert not act._sinks[2].transpose(1, 2)[ranking.dropped()].any()


def test_margins_do_not_depend_on_the_level_of_logits():
    """Log-probabilities are above -20 nats, so that nothing is at the floor, whatever is added to all logits."""
    model, processor = built("llava")
    adapter, questions = adapter_for(model, processor), made_questions(4)

    def margins():
        return first_answers(adapter, questions, [mmhall.strategy("greedy")], floor=-20.0).margins

    before = margins()
    hook = model.get_output_embeddings().register_forward_hook(lambda *call: call[2] - 30)
    try:
        assert_close(margins(), before, rtol=0, atol=1e-4)
    finally:
        hook.remove()
