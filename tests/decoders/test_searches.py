"""VAR, PAI and VAF drawn from and searched with beams, against naive searches over their formulas; and refused."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.errors import CompositionError
from mmhall.lvlm import LVLM
from mmhall.strategies import Branch, Session
from tests.decoders.rows import SINKS, Instead, Reader, check, guided, pai, vaf, var
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours, said, searched, separately
from tests.zoo import ZOO

pytestmark = QUIET

STRATEGIES = {
    "var": (f"var({SINKS}, layers=':', keep=0)", {"probs": partial(var, layers={0, 1, 2, 3}, keep=0.0)}, None),
    "pai": (
        "pai(alpha=1, layers=':', gamma=1.5, beta=0.05)",
        {"scores": partial(pai, layers={0, 1, 2, 3}, alpha=1.0)},
        1.5,
    ),
    "vaf": ("vaf(layers=':', alpha=0.8)", {"scores": partial(vaf, layers={0, 1, 2, 3}, alpha=0.8)}, None),
}
DRAWN, SEARCHED, SEVERAL = (
    in_turn(names, tuple(STRATEGIES))
    for names in (
        ("llava", "qwen2_5_vl", "gemma3", "llama4"),
        ("llava", "gemma3", "qwen2_5_vl"),
        ("llava", "llava_next", "qwen2_5_vl"),
    )
)
LENGTH = 3


@cache
def reader(name):
    return Reader(ours(name))


@pytest.fixture
def asked(request, monkeypatch):
    """A strategy, and what stands in for an adapter and a session where a prompt is decoded naively."""
    spec, edits, gamma = STRATEGIES[request.param]
    monkeypatch.setattr("tests.generation.reference.LENGTH", LENGTH)

    def naive(name, inputs):
        session = Session()
        if gamma is not None:
            session = Session(
                branches=[Branch(ours(name).without_image(inputs))],
                combine=lambda step: guided(step.main[0], step.branches[0][0], gamma, 0.05)[None],
            )
        return Instead(reader(name), inputs, **edits), session

    return spec, naive


def drawing(seed):
    random = torch.Generator().manual_seed(seed)
    return lambda scores: torch.multinomial(scores.softmax(dim=-1), 1, generator=random)


@pytest.mark.parametrize(("name", "asked"), DRAWN, indirect=["asked"])
def test_draws_are_those_of_the_formula(name, asked):
    spec, naive = asked
    adapter, plain = ours(name), []
    batch, seeds = adapter.inputs(REQUESTS[:2]), (1,)
    for seed in seeds:
        wanted = []
        for request in REQUESTS[:2]:
            inputs = adapter.inputs([request])
            stand_in, session = naive(name, inputs)
            wanted.append(separately(stand_in, inputs, session, drawing(seed)))
        assert said(adapter, batch, spec, max_new_tokens=LENGTH, do_sample=True, seed=seed) == wanted
        plain.append(said(adapter, batch, max_new_tokens=LENGTH, do_sample=True, seed=seed) == wanted)
    assert not all(plain)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "asked"), SEARCHED, indirect=["asked"])
def test_beams_are_those_of_a_naive_search_over_the_formula(name, asked, monkeypatch):
    spec, naive = asked
    adapter, found = ours(name), []
    monkeypatch.setattr(adapter.generator.generation_config, "early_stopping", "never")
    for request in REQUESTS[:2]:
        inputs = adapter.inputs([request])
        stand_in, session = naive(name, inputs)
        found += searched(stand_in, inputs, session, 3)[:2]
    settings = {"max_new_tokens": LENGTH, "num_beams": 3, "num_return_sequences": 2}
    assert said(adapter, adapter.inputs(REQUESTS[:2]), spec, **settings) == found
    assert said(adapter, adapter.inputs(REQUESTS[:2]), **settings) != found


@pytest.mark.parametrize(("name", "strategy"), SEVERAL)
def test_of_several_pictures_rows_are_behind_the_last_and_columns_before_the_first(name, strategy):
    """Text between pictures is neither; all pictures count as one. Prompts with three, two and one."""
    spec, edits, gamma = STRATEGIES[strategy]
    images = [request.images[0] for request in REQUESTS[:3]]
    requests = [
        Request(p, tuple(images[:n])) for p, n in (("What has changed?", 3), ("Is it the same?", 2), ("So?", 1))
    ]

    def reference(adapter, reader, request, answer):
        inputs = adapter.inputs([request])
        main = reader.logits(inputs, answer[:-1], **edits)
        if gamma is None:
            return main.log_softmax(-1)
        longer = adapter.append_answer(adapter.without_image(inputs), torch.tensor([answer[:-1]]))
        with torch.no_grad():
            other = adapter.model_for(longer)(**longer, use_cache=False).logits[0, -len(answer) :]
        return torch.stack([guided(*logits, gamma, 0.05) for logits in zip(main, other, strict=True)])

    check(name, spec, reference, requests)


@pytest.mark.parametrize("name", [*STRATEGIES, "vhr+vaf"])
def test_pictures_that_are_no_columns_are_refused(name):
    lvlm = LVLM(*ZOO["mllama"]())
    (image,) = REQUESTS[0].images
    refused = name.split("+")[-1]
    with pytest.raises(
        CompositionError, match=rf"^{refused}: mllama cannot carry it: .*cross-attention.*no image columns"
    ):
        lvlm.generate(image, "What?", name, max_new_tokens=2)
    with pytest.raises(CompositionError, match="mllama"):
        mmhall.strategy(name).fitted(lvlm.adapter)
