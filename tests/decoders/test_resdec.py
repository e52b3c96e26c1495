"""ResDec against its formula written out, in each kind of family; its window, its weights, and what is neutral."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

import mmhall
from mmhall.adapters import Request
from mmhall.decoders.resdec import residual, steady_window
from mmhall.errors import CompositionError, OptionError
from mmhall.generation._settings import Settings
from mmhall.strategies import CONTRAST, Step, twin_generator
from tests.decoders.reference import searched
from tests.decoders.rows import NEW, check, check_half, family
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours
from tests.jobs import run
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

VARIANTS = {
    "short": ("alpha=0.9, beta=0.1, candidates=12, steps=3", {"alpha": 0.9, "beta": 0.1, "count": 12, "steps": 3}),
    "many": ("alpha=1, beta=0, candidates=64", {"alpha": 1.0, "beta": 0.0, "count": 64, "steps": 32}),
    "twin": ("alpha=1, beta=0, candidates=30, twin=2", {"alpha": 1.0, "count": 30, "steps": 32, "twin": 2}),
}


def kl(one, other):
    return sum(p * math.log(p / q) for p, q in zip(one, other, strict=True))


def mixed_in(steps, *, alpha, count, steps_kept, beta=0.0, twin=0):
    """The scores of the last of some steps, (V,), from the logits of each, (T, V)."""
    main = steps[-1].double().log_softmax(-1)
    tokens = main.argsort(descending=True).tolist()[:count]
    kept = steps[-steps_kept:]
    probs = [logits.double()[tokens].softmax(-1).tolist() for logits in kept]
    apart = []
    for one, other in pairwise(probs):
        middle = [(p + q) / 2 for p, q in zip(one, other, strict=True)]
        apart.append((kl(one, middle) + kl(other, middle)) / 2)
    start = 1 + apart.index(min(apart)) if apart else 0
    window = list(range(start, len(kept)))
    if twin:
        order = torch.randperm(len(kept) - 1, generator=twin_generator(twin, f"steps before {len(steps) - 1}")).tolist()
        others = [at for at in order if at not in window] + [at for at in order if at in window]
        window = [*others[: len(window) - 1], len(kept) - 1]
    peaks = {at: -sum(map(math.log, probs[at])) / len(tokens) for at in window}
    scores = torch.full_like(main, -math.inf)
    for place, token in enumerate(tokens):
        past = sum(peaks[at] * math.log(probs[at][place]) for at in window) / sum(peaks.values())
        now = math.log(probs[-1][place])
        if math.exp(main[token]) >= beta * math.exp(main.max()):
            scores[token] = main[token] + alpha * (past - now)
    return scores.float()


def mixing(options):
    options = dict(options)
    kept = options.pop("steps")

    def reference(adapter, reader, request, answer):
        logits = reader.logits(adapter.inputs([request]), answer[:-1])
        every = [mixed_in(logits[: at + 1], steps_kept=kept, **options) for at in range(len(logits))]
        return torch.stack(every)

    return reference


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options = VARIANTS[variant]
    with torch.no_grad():
        check(name, f"resdec({given})", mixing(options))


@pytest.mark.slow
def test_beams_keep_the_past_of_their_own_text():
    adapter, reader = family("llava")
    given, options = VARIANTS["many"]
    reference, wanted = mixing(options), []
    for request in REQUESTS[:2]:
        wanted.append(searched(lambda answer, one=request: reference(adapter, reader, one, [*answer, 0])[-1], 3)[0])
    config = Settings(max_new_tokens=NEW, num_beams=3).resolved(adapter.generator)
    found = run(adapter, adapter.inputs(REQUESTS[:2]), mmhall.strategy(f"resdec({given})"), config)
    assert list(map(tuple, found.tolist())) == wanted


def test_the_weights_and_scores_of_a_toy():
    logs = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]]]).log()
    torch.testing.assert_close(-logs.mean(-1), torch.tensor([[1.2040, 0.7136, 0.6931]]), rtol=0, atol=1e-4)
    past = residual(logs, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(past, (torch.tensor([[0.4612], [0.2733], [0.2655]]) * logs).sum(1), rtol=0, atol=1e-4)
    got = (0.5 * logs[:, -1] + 0.5 * past).softmax(-1)
    torch.testing.assert_close(got, torch.tensor([[0.6369, 0.3631]]), rtol=0, atol=1e-4)


def test_the_window_begins_at_the_smallest_divergence():
    """Rows: a dip in the middle; a divergence that still falls; steps that are all equal; and a first step alone."""
    rows = torch.tensor([[0.9, 0.5, 0.45, 0.2], [0.1, 0.6, 0.8, 0.85], [0.3, 0.3, 0.3, 0.3]])
    logs = torch.stack([rows, 1 - rows], dim=-1).log()
    wanted = [[False, False, True, True], [False, False, False, True], [False, False, False, True]]
    assert steady_window(logs).tolist() == wanted
    assert steady_window(logs[:, :1]).tolist() == [[True]] * 3


def scores_of(spec, steps):
    """What mmhall makes of the logits of several steps, (T, N, V)."""
    return made_of(spec, steps)[0]


def made_of(spec, steps):
    """The scores of several steps, and what is shown of the session that made them."""
    adapter = ours("llava")
    session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))
    made, memory = [], None
    for t, logits in enumerate(steps):
        said = torch.zeros(len(logits), t, dtype=torch.long)
        step = Step(logits.log_softmax(-1), (), said, **({} if memory is None else {"memory": memory}))
        made.append(session.combine(step))
        memory = step.memory
    return torch.stack(made), session.findings(3)


def test_how_many_earlier_steps_each_token_mixes_in_is_found():
    """The divergence of two steps that follow each other is smallest from step 1 to 2: step 3 mixes in step 2."""
    rows = torch.tensor([0.9, 0.5, 0.45, 0.2])
    steps = torch.stack([rows, 1 - rows], dim=-1).log()[:, None]
    found = made_of("resdec(beta=0, candidates=2)", steps)[1]["earlier steps"]
    assert found.flatten().tolist() == [0, 0, 0, 1]
    assert found.shape == (4, 1, 1)
    assert made_of("resdec(alpha=0)", steps)[1] == {}


def test_first_steps_and_equal_steps_are_the_plain_models():
    torch.manual_seed(0)
    steps = torch.randn(4, 2, 9) * 2
    plain = steps.log_softmax(-1)
    torch.testing.assert_close(scores_of("resdec(beta=0, candidates=9)", steps)[0], plain[0])
    equal = scores_of("resdec(beta=0, candidates=9)", steps[:1].expand(4, -1, -1))
    torch.testing.assert_close(equal, plain[:1].expand(4, -1, -1))
    few = scores_of("resdec(beta=0, candidates=3)", steps)
    assert ((few > -math.inf).sum(dim=-1) == 3).all()


def test_steps_beyond_the_limit_are_forgotten():
    torch.manual_seed(0)
    steps = torch.randn(9, 2, 9) * 2
    spec = "resdec(alpha=1, beta=0, candidates=9, steps=4)"
    torch.testing.assert_close(scores_of(spec, steps)[-1], scores_of(spec.replace("4", "99"), steps[-4:])[-1])


def test_a_twin_mixes_in_other_steps():
    """Of as many, so that the first step, and those whose window is one step, are the strategy's."""
    torch.manual_seed(0)
    steps = torch.randn(9, 2, 9) * 2
    own, one, other = (scores_of(f"resdec(beta=0, candidates=9, twin={twin})", steps) for twin in (0, 1, 2))
    assert torch.equal(own[0], one[0])
    assert not torch.allclose(own, one, atol=1e-2)
    assert not torch.allclose(one, other, atol=1e-2)


def test_impossible_tokens_stay_impossible():
    steps = torch.randn(3, 1, 6)
    steps[:, :, 2] = -math.inf
    got = scores_of("resdec(alpha=1, beta=0, candidates=9)", steps)
    assert (got[..., 2] == -math.inf).all()
    assert got[..., [0, 1, 3, 4, 5]].isfinite().all()


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = ours("llava")
    neutral = (("resdec(alpha=0, beta=0)", REQUESTS[0]), ("resdec(alpha=0, beta=0, twin=1)", REQUESTS[0]))
    for spec, request in (*neutral, ("resdec", Request("What?"))):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert session.combine is None, spec


def test_in_half_precision():
    check_half("resdec(alpha=1, beta=0, candidates=64)", "resdec(alpha=0, beta=0)")


def test_what_it_claims_and_what_it_cannot_do_is_refused():
    assert mmhall.strategy("resdec").claims == {CONTRAST}
    with pytest.raises(CompositionError, match="both want the contrast"):
        mmhall.strategy("resdec+flb")
    wrong = (("alpha", -0.1), ("alpha", 1.1), ("beta", math.nan), ("candidates", 1), ("steps", 1), ("twin", -1))
    for option, value in wrong:
        with pytest.raises(OptionError, match=rf"^resdec: {option} must be .*, got"):
            mmhall.strategy("resdec", **{option: value})
