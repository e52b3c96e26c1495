"""FLB against its formula written out, in each kind of family; its weights, its control, and what is neutral."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters import Request
from mmhall.decoders.flb import boosted_part
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._settings import Settings
from mmhall.strategies import CONTRAST, Step
from tests.decoders.reference import searched
from tests.decoders.rows import check, check_half, family
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours
from tests.jobs import run
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

VARIANTS = {
    "all": ("gamma=2, rate=0.5, beta=0.02", {"gamma": 2.0, "rate": 0.5, "beta": 0.02}),
    "top": ("gamma=2, rate=0.5, beta=0.02, part='top'", {"gamma": 2.0, "rate": 0.5, "beta": 0.02, "top": True}),
}


def boosted(main, first, written, *, gamma, rate, beta, top=False):
    """The scores of one step, (V,), from its logits and those of the first token."""
    main, weight = main.log_softmax(-1), gamma * (1 - math.exp(-rate * written))
    added = first
    if top:
        added = torch.zeros_like(first)
        added[first.argmax()] = first.max() - first.median()
    return torch.where(main.exp() < beta * main.exp().max(), -math.inf, main + weight * added)


def boosting(options):
    def reference(adapter, reader, request, answer):
        main = reader.logits(adapter.inputs([request]), answer[:-1])
        return torch.stack([boosted(logits, main[0], written, **options) for written, logits in enumerate(main)])

    return reference


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options = VARIANTS[variant]
    check(name, f"flb({given})", boosting(options))


def test_beams_keep_the_first_scores_of_their_prompt():
    adapter, reader = family("llava")
    given, options = VARIANTS["all"]
    reference, wanted = boosting(options), []
    for request in REQUESTS[:2]:
        wanted.append(searched(lambda answer, one=request: reference(adapter, reader, one, [*answer, 0])[-1], 3)[0])
    config = Settings(max_new_tokens=4, num_beams=3).resolved(adapter.generator)
    found = run(adapter, adapter.inputs(REQUESTS[:2]), mmhall.strategy(f"flb({given})"), config)
    assert list(map(tuple, found.tolist())) == wanted


def test_the_weight_grows_towards_gamma():
    method = mmhall.strategy("flb").fitted(ours("llava"))
    got = [method.weight(t) for t in (0, 1, 10, 50, 100)]
    torch.testing.assert_close(torch.tensor(got), torch.tensor([0, 0.0146, 0.1180, 0.2754, 0.2980]), rtol=0, atol=1e-4)


def combined(spec, first, main, written):
    """What mmhall makes of logits after some tokens, (N, V), and of those of the first token."""
    adapter = ours("llava")
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))
    steps = [
        Step(
            logits.log_softmax(-1),
            (),
            torch.zeros(len(logits), t, dtype=torch.long),
            levels=(logits.logsumexp(-1, keepdim=True),),
        )
        for t, logits in ((0, first), (written, main))
    ]
    plain = session.combine(steps[0])
    later = Step(steps[1].main, (), steps[1].said, memory=steps[0].memory, levels=steps[1].levels)
    return plain + steps[0].levels[0], session.combine(later) + later.levels[0]


def test_the_scores_of_a_toy():
    """A token below the cut-off stays out although its boosted score is the highest."""
    first, main = torch.tensor([[0.0, 3.0, 5.0]]), torch.tensor([[2.0, 1.5, -1.0]])
    _, got = combined("flb", first, main, 50)
    torch.testing.assert_close(got, torch.tensor([[2.0, 2.3261, -math.inf]]), rtol=0, atol=1e-4)


def test_first_scores_that_are_all_equal_and_the_first_token_change_nothing_but_by_the_cut_off():
    torch.manual_seed(0)
    main = torch.randn(2, 9) * 2
    cut = torch.where(main.softmax(-1) < 0.1 * main.softmax(-1).amax(-1, keepdim=True), -math.inf, main)
    first, later = combined("flb", torch.full((2, 9), 3.0), main, 20)
    assert torch.equal(first, torch.full((2, 9), 3.0))
    torch.testing.assert_close(later.log_softmax(-1), cut.log_softmax(-1))
    first, _ = combined("flb", main, main, 20)
    torch.testing.assert_close(first, cut)


def test_the_control_raises_the_first_best_token_alone_by_its_lead():
    first = torch.tensor([[1.0, 4.0, 2.0, -math.inf, 2.5], [0.0, 0.0, 7.0, 1.0, 0.5]])
    wanted = torch.tensor([[0.0, 2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 6.5, 0.0, 0.0]])
    assert torch.equal(boosted_part(first, "top"), wanted)
    assert boosted_part(first, "all").isfinite().all()


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    asked = (("flb(gamma=0, beta=0)", REQUESTS[0]), ("flb(rate=0, beta=0)", REQUESTS[0]), ("flb", Request("What?")))
    for spec, request in asked:
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert session.combine is None, spec


def test_in_half_precision():
    check_half("flb(gamma=8, rate=1)", "flb(gamma=0, beta=0)")


def test_what_it_claims_and_what_it_cannot_do_is_refused():
    assert mmhall.strategy("flb").claims == {CONTRAST}
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("flb+vcd")
    for option, value in (("gamma", -0.1), ("rate", -1), ("beta", 1.1), ("part", "nouns"), ("gamma", math.nan)):
        with pytest.raises(OptionError, match=rf"^flb: {option} must be .*, got"):
            mmhall.strategy("flb", **{option: value})
