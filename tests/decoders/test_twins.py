"""Random twins: each strategy with an informed choice has one, which draws another and is else the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

import mmhall
from mmhall.adapters import adapter_for
from mmhall.decoders.vhr import Reinforce
from mmhall.errors import ModelError, OptionError
from mmhall.generation._settings import Settings
from mmhall.options import rules
from mmhall.strategies import STRATEGIES, Session
from tests.decoders.fitted import with_artifacts
from tests.decoders.rows import SINKS, scored
from tests.decoders.test_contract import ACTIVE, NEUTRAL, carries, ours
from tests.generation.reference import QUIET, REQUESTS
from tests.jobs import prepared, run
from tests.zoo import ZOO

pytestmark = QUIET

WITHOUT = {
    "greedy": "it chooses nothing",
    "beam": "it chooses nothing",
    "apc": "it is a control, and chooses nothing",
    "brief": "it is a control, and chooses nothing",
    "yes-prompt": "it is a control, and chooses nothing",
    "recomputed": "it is a control, and chooses nothing",
    "self-verify": "it is a plain baseline; the model itself chooses",
    "olm": "it is a control, and chooses nothing",
    "yes-shift": "it is a control, and chooses nothing",
    "flb": "part='top' is its control: one token's score in place of all",
    "opera": "its column is penalised and gone back to; random ones do not persist, so it would not go back",
    "cgd": "a CLIP chooses; the control is another CLIP",
}
TWINS = tuple(name for name in STRATEGIES.names() if "twin" in rules(STRATEGIES.load(name)))
CHOOSING = {  # so that a twin has something else to choose
    **ACTIVE,
    "var": f"var(keep=0.0, {SINKS})",
    "deco": "deco(alpha=6, layers='0:')",
    "kvsmooth": "kvsmooth(strength=0.5, width=0.5, layers=':')",
    "resdec": "resdec(alpha=0.9, beta=0)",
    "m3id": "m3id(decay=0.1, start=1, gate=1)",
    "sig": "sig(scale=1.5)",
}
OWN = {"pine"}  # acts on several pictures
SCORED = tuple(name for name in TWINS if not STRATEGIES.load(name).searches and name not in OWN)  # these have own tests
SEEDS, STEPS = (0, 1, 2, 3), 6


def twin_of(spec, seed):
    return replace(mmhall.strategy(spec), twin=seed)


@cache
def answers(family):
    adapter = ours(family)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(10, adapter.decoder.config.vocab_size - 10, (2, STEPS), generator=generator)


def scores(family, method, rows=(0, 1)):
    """The scores of the next token after each token of given answers to some requests, (rows, STEPS, V)."""
    adapter = ours(family)
    inputs = adapter.inputs([REQUESTS[row] for row in rows])
    return scored(adapter, *prepared(adapter, inputs, method), answers(family)[list(rows)])


def test_every_strategy_has_a_twin_or_a_reason_against_one():
    assert {*TWINS, *WITHOUT} == set(STRATEGIES.names())
    assert not {*TWINS} & {*WITHOUT}


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("family", ["llava", pytest.param("qwen2_5_vl", marks=pytest.mark.long)])
def test_twins_differ_from_the_strategy_and_from_each_other_and_a_batch_is_its_requests(family, name):
    spec = CHOOSING.get(name, name)
    if not carries(spec, family):
        return
    each = [scores(family, twin_of(spec, seed)) for seed in SEEDS]
    assert not any(torch.equal(each[0], other) for other in each[1:])
    assert len({other.numpy().tobytes() for other in each[1:]}) > 1
    alone = torch.cat([scores(family, twin_of(spec, 2), [row]) for row in (0, 1)])
    torch.testing.assert_close(each[2], alone, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(each[2], scores(family, twin_of(spec, 2)), rtol=0, atol=0)


def test_neutral_twins_are_greedy():
    adapter = ours("llava")
    inputs, config = adapter.inputs(REQUESTS), Settings(max_new_tokens=4).resolved(adapter.generator)
    plain = run(adapter, inputs, mmhall.strategy("greedy"), config)
    for name in TWINS:
        method = twin_of(NEUTRAL[name], 7).fitted(adapter)
        session = method.prepare(adapter, inputs)
        assert replace(session, ops=tuple(session.ops)) == Session(), name
        assert torch.equal(run(adapter, inputs, method, config), plain), name


def test_twins_are_written_and_read_back_and_impossible_ones_refused():
    for name in TWINS:
        method = twin_of(CHOOSING.get(name, name), 41)
        assert "twin=41" in str(method)
        assert mmhall.strategy(str(method)) == method
        for twin in (-1, 2**31, 0.5, None):
            with pytest.raises(OptionError, match=f"{name}: twin must be an integer from 0 to"):
                mmhall.strategy(name, twin=twin)


@pytest.mark.slow
def test_a_twin_in_half_precision_stays_finite():
    model, processor = ZOO["llava"]()
    adapter = with_artifacts(adapter_for(model.bfloat16(), processor))
    inputs = adapter.inputs(REQUESTS[:2])
    for name in TWINS:
        decoded, session = prepared(adapter, inputs, twin_of(CHOOSING.get(name, name), 1))
        assert not scored(adapter, decoded, session, answers("llava")).isnan().any(), name


def test_a_twin_with_another_picture_needs_the_pictures_themselves():
    adapter = ours("llava")
    inputs = dict(adapter.inputs(REQUESTS[:1]))
    for name in ("vcd", "vdd", "m3id"):
        with pytest.raises(ModelError, match="without pictures to change"):
            twin_of(CHOOSING.get(name, name), 1).fitted(adapter).prepare(adapter, inputs)


def test_as_many_heads_are_reinforced():
    """Of each layer, also in a twin."""
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:1])
    gains = []
    for seed in (0, 1, 2):
        session = twin_of("vhr(alpha=4, layers='0')", seed).fitted(adapter).prepare(adapter, inputs)
        scored(adapter, inputs, session, answers("llava")[:1])
        gains.append(next(op for op in session.ops if isinstance(op, Reinforce)).gains[0])
    assert len({float(gain.sum()) for gain in gains}) == 1
