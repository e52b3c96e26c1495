"""PAI against its formula written out, in every family; what its lift raises and leaves; its guidance as a contrast."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.attention import Op, active
from mmhall.errors import CompositionError, OptionError
from mmhall.strategies._contrast import CONTRAST
from tests.attention.reference import See, planned
from tests.decoders.rows import IN_SEQUENCE, check, guided, pai, scored, written
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours, said

pytestmark = QUIET

EVERY = {0, 1, 2, 3}
VARIANTS = {
    "attention": ("alpha=0.5, gamma=1, layers=':'", {"alpha": 0.5, "layers": EVERY}, (1.0, 0.1)),
    "both": ("alpha=1.5, gamma=1.1, layers='1:'", {"alpha": 1.5, "layers": EVERY - {0}}, (1.1, 0.1)),
    "guidance": ("alpha=0, gamma=2.0, beta=0.02", {"layers": ()}, (2.0, 0.02)),
}


@pytest.mark.parametrize(("name", "variant"), in_turn(IN_SEQUENCE, tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options, guidance = VARIANTS[variant]

    def reference(adapter, reader, request, answer):
        def edit(reader, layer, scores):
            return pai(reader, layer, scores, **options)

        main = reader.logits(adapter.inputs([request]), answer[:-1], scores=edit)
        bare = adapter.without_image(adapter.inputs([request]))
        longer = adapter.append_answer(bare, torch.tensor([answer[:-1]]))
        with torch.no_grad():
            other = adapter.model_for(longer)(**longer, use_cache=False).logits[0, -len(answer) :]
        return torch.stack([guided(*logits, *guidance) for logits in zip(main, other, strict=True)])

    check(name, f"pai({given})", reference)


class Scores(Op):
    """Notes the newest row's scores as the ops before it left them."""

    writes, layers = True, frozenset({1})

    def rows(self, call):
        return call.newest

    def edit_scores(self, call, rows, scores):
        self.noted = scores.clone()
        return scores


@pytest.fixture
def inputs(llava, pictures):
    prompts = ("Is there a dog in the image?", "Please describe this image in detail. What is on the left?")
    return llava.adapter.inputs([Request(p, (image,)) for p, image in zip(prompts, pictures, strict=False)])


def lifted(llava, inputs, alpha):
    """The newest row's scores in layer 1 before and after, (B, H, 1, K)."""
    session = (
        mmhall.strategy("pai", alpha=alpha, gamma=1, layers="1").fitted(llava.adapter).prepare(llava.adapter, inputs)
    )
    before, after = Scores(), Scores()
    planned(llava, inputs, before, *session.ops, after)
    return before.noted, after.noted


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_every_image_column_grows_by_a_share_of_its_size(llava, inputs, alpha):
    before, after = lifted(llava, inputs, alpha)
    image = (inputs["input_ids"] == llava.adapter.image_token_id)[:, None, None].expand_as(before)
    assert (before[image] > 0.1).any()
    assert (before[image] < -0.1).any()
    torch.testing.assert_close(after[image], before[image] + alpha * before[image].abs(), rtol=1e-5, atol=1e-5)
    assert (after[image] > before[image]).all()
    assert torch.equal(after[~image], before[~image])


@pytest.mark.parametrize("name", ["llava", "llava_phi3", "gemma3", "idefics2", "llama4", "cohere2_vision"])
def test_masked_columns_stay_masked_however_strong_the_lift(name):
    """Padding, and pictures that sliding windows and chunks have left behind."""
    adapter = ours(name)
    batch = adapter.inputs(REQUESTS[:2])
    length = batch["input_ids"].shape[1]
    session = mmhall.strategy("pai(alpha=1000, gamma=1, layers=':')").fitted(adapter).prepare(adapter, batch)
    plain, lifted = See([length - 1]), See([length - 1])
    for see, ops in ((plain, ()), (lifted, session.ops)):
        with torch.no_grad(), active(adapter.plan([*ops, see])):
            adapter.model(**batch)
    image, hidden = adapter.image_mask(batch["input_ids"]), 0
    for call, (_, before), (_, after) in zip(plain.calls, plain.seen, lifted.seen, strict=True):
        seen = call.mask[:, :, -1:] if call.mask.dtype == torch.bool else call.mask[:, :, -1:] > -1e30
        out = ~seen.expand_as(after)
        assert after.isfinite().all()
        assert not after[out].any()
        assert not before[out].any()
        assert out[0].any()  # the shorter prompt's padding
        hidden += int((out & image[:, None, None]).sum())
    assert (hidden > 0) == (name != "llava")


@pytest.mark.parametrize(
    ("name", "decoding"),
    [("llava", {}), ("gemma3", {"num_beams": 3}), ("instructblip", {"do_sample": True, "seed": 3})],
)
def test_guidance_alone_is_visual_debiasing(name, decoding):
    adapter = ours(name)
    batch = adapter.inputs(REQUESTS[:2])
    guided = said(adapter, batch, "pai(alpha=0, gamma=1.7, beta=0.2)", **decoding)
    assert guided == said(adapter, batch, "vdd(alpha=0.7, beta=0.2, free='none')", **decoding)
    assert guided != said(adapter, batch, **decoding)


def test_its_guided_scores_are_the_contrasts_up_to_a_constant():
    adapter = ours("llava")
    batch = adapter.inputs(REQUESTS[:2])
    specs = ("pai(alpha=0, gamma=1.7, beta=0.2)", "vdd(alpha=0.7, beta=0.2, free='none')")
    answers = written(adapter, batch, specs[0])
    pais, vdds = (
        scored(adapter, batch, mmhall.strategy(spec).fitted(adapter).prepare(adapter, batch), answers) for spec in specs
    )
    torch.testing.assert_close(pais.softmax(-1), vdds.softmax(-1))


@pytest.mark.parametrize(("spec", "lifts"), [("pai(gamma=1, beta=0.9)", True), ("pai(alpha=0, gamma=1)", False)])
def test_without_guidance_there_is_no_branch_and_no_cut_off(llava, inputs, spec, lifts):
    session = mmhall.strategy(spec).fitted(llava.adapter).prepare(llava.adapter, inputs)
    assert bool(session.ops) == lifts
    assert not session.branches
    assert session.combine is None


def test_the_branch_is_not_steered(llava, inputs):
    """Its scores at the end of the prompt are those of the plain model without a picture."""
    noted = []
    session = mmhall.strategy("pai(alpha=3, gamma=1.5)").fitted(llava.adapter).prepare(llava.adapter, inputs)
    (branch,) = session.branches
    with torch.no_grad():
        held = branch.inputs
        bare = [held["input_ids"][i : i + 1, -n:] for i, n in enumerate(held["attention_mask"].sum(1).tolist())]
        wanted = torch.cat([llava.model(input_ids=ids).logits[:, -1].log_softmax(-1) for ids in bare])

    def note(step):
        noted.append(step.branches[0])
        return step.main

    watched = mmhall.Session(ops=session.ops, branches=session.branches, combine=note)
    scored(llava.adapter, inputs, watched, torch.zeros(2, 1, dtype=torch.long))
    torch.testing.assert_close(noted[0], wanted, rtol=0, atol=1e-4)


def test_what_it_claims():
    rows = mmhall.strategy("vaf").claims
    assert mmhall.strategy("pai").claims == mmhall.strategy("pai(gamma=1.1)").claims == rows | {CONTRAST}
    assert mmhall.strategy("pai(gamma=1)").claims == rows
    mmhall.strategy("pai(gamma=1)+vcd")
    for spec, reason in (
        ("pai+vcd", "both want the contrast"),
        ("vdd+pai(gamma=2)", "both want the contrast"),
        ("pai(gamma=1)+vaf", "both want the rows of attention"),
        ("var+pai(gamma=1)", "both want the rows of attention"),
        ("gift+vcd+pai", "both want the"),
    ):
        with pytest.raises(CompositionError, match=reason):
            mmhall.strategy(spec)


@pytest.mark.parametrize(
    ("option", "value"), [("alpha", -0.1), ("gamma", 0.9), ("gamma", 0), ("beta", 1.1), ("beta", -1)]
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^pai: {option} must be a number (>= \d|in \[0, 1\]), got"):
        mmhall.strategy("pai", **{option: value})
