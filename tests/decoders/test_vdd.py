from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.decoders.vdd import divergence_strength
from mmhall.errors import OptionError
from mmhall.strategies import Branch, Session
from mmhall.strategies._contrast import Contrast
from mmhall.strategies._picture_free import PICTURE_FREE, picture_free_inputs
from mmhall.strategies._step import Step
from tests.decoders.rows import check, check_half
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours, said, searched, separately
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

ALL = "+".join(PICTURE_FREE)


def free(llava, picture, kind):
    inputs = llava.adapter.inputs([Request("Is there a dog?", (picture,))])
    session = mmhall.strategy("vdd", free=kind).fitted(llava.adapter).prepare(llava.adapter, inputs)
    return inputs, [branch.inputs for branch in session.branches]


def of_raw_logits(step):
    """The authors' form: 3.5 z - 2.5 mean z_free, out below 5 % of the top probability of z."""
    main, others = step.main, step.branches
    probabilities = main.softmax(dim=-1)
    scores = 3.5 * main - 2.5 * sum(others) / len(others)
    return torch.where(probabilities >= 0.05 * probabilities.amax(dim=-1, keepdim=True), scores, -math.inf)


def by_hand(adapter, inputs, kinds):
    return Session(
        branches=[Branch(picture_free_inputs(adapter, inputs, kind, seed=2)) for kind in kinds], combine=of_raw_logits
    )


def test_none_is_the_prompt_without_its_picture(llava, pictures):
    _, (branch,) = free(llava, pictures[0], "none")
    wanted = llava.adapter.inputs([Request("Is there a dog?")])
    assert branch["input_ids"].tolist() == wanted["input_ids"].tolist()
    assert "pixel_values" not in branch


def test_unk_puts_one_unknown_token_where_the_picture_was(llava, pictures):
    _, (branch,) = free(llava, pictures[0], "unk")
    ids = branch["input_ids"][0].tolist()
    assert llava.adapter.tokenizer.convert_ids_to_tokens(ids)[:5] == ["<s>", "▁USER", ":", "<unk>", "▁Is"]


@pytest.mark.parametrize("kind", ["none+unk", "noise+black", "zero", ALL])
def test_each_kind_is_a_branch_in_its_order(llava, pictures, kind):
    inputs, branches = free(llava, pictures[0], kind)
    wanted = [picture_free_inputs(llava.adapter, inputs, one) for one in kind.split("+")]
    assert len(branches) == len(wanted)
    for branch, one in zip(branches, wanted, strict=True):
        assert branch.keys() == one.keys()
        assert all(torch.equal(branch[key], one[key]) for key in one)


def test_uneven_prompts_are_padded_on_the_left(llava, pictures):
    inputs = llava.adapter.inputs(
        [Request("Is there a dog?", (pictures[0],)), Request("Describe this image.", (pictures[1],))]
    )
    bare = llava.adapter.without_image(inputs)
    alone = [llava.adapter.inputs([Request(p)])["input_ids"][0] for p in ("Is there a dog?", "Describe this image.")]
    for row, mask, wanted in zip(bare["input_ids"], bare["attention_mask"], alone, strict=True):
        torch.testing.assert_close(row[mask.bool()], wanted)
        assert mask.tolist() == sorted(mask.tolist())


def test_the_mean_of_log_probabilities_is_that_of_logits_to_a_constant():
    """Also behind the cut-off, and with tokens that are out everywhere; rows 3 and -7 apart."""
    torch.manual_seed(0)
    main, one, other = torch.randn(3, 4, 50) * 3
    main[:, 7] = one[:, 7] = other[:, 7] = -math.inf
    said = torch.zeros(4, 0)
    first, *rest = (part.log_softmax(dim=-1) for part in (main, one + 3, other - 7))
    got = Contrast(2.5, 0.05)(Step(first, tuple(rest), said))
    theirs = of_raw_logits(Step(main, (one, other), said))
    kept = theirs > -math.inf
    assert torch.equal(got > -math.inf, kept)
    assert not kept.all()
    torch.testing.assert_close(got.softmax(dim=-1), theirs.softmax(dim=-1))
    for mine, their, row in zip(got, theirs, kept, strict=True):
        shift = (mine - their)[row]
        torch.testing.assert_close(shift, shift[:1].expand_as(shift))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "instructblip", "mllama"])
def test_greedy_takes_what_the_mean_of_all_kinds_puts_first(name, monkeypatch):
    """Short and long inputs side by side; the reference reads each anew at every step. A batch says the same."""
    monkeypatch.setattr("tests.generation.reference.LENGTH", 4)
    adapter, found, changed, spec = ours(name), [], [], f"vdd(alpha=2.5, beta=0.05, free='{ALL}', seed=2)"
    for request in REQUESTS[:2]:
        inputs = adapter.inputs([request])
        wanted = separately(adapter, inputs, by_hand(adapter, inputs, PICTURE_FREE))
        assert said(adapter, inputs, spec, max_new_tokens=4) == [wanted]
        found.append(wanted)
        changed.append([wanted] != said(adapter, inputs, max_new_tokens=4))
    assert any(changed), "the picture-free inputs change nothing"
    assert said(adapter, adapter.inputs(REQUESTS[:2]), spec, max_new_tokens=4) == found


@pytest.mark.parametrize(
    ("name", "kind"),
    list(zip(("llava", "qwen2_5_vl", "gemma4", "instructblip", "mllama", "qwen3_5"), PICTURE_FREE, strict=True)),
)
def test_beams_search_by_each_kind(name, kind, monkeypatch):
    monkeypatch.setattr("tests.generation.reference.LENGTH", 4)
    adapter = ours(name)
    monkeypatch.setattr(adapter.generator.generation_config, "early_stopping", "never")
    inputs = adapter.inputs(REQUESTS[:1])
    naive = searched(adapter, inputs, by_hand(adapter, inputs, [kind]), 2)
    spec = f"vdd(alpha=2.5, beta=0.05, free={kind!r}, seed=2)"
    assert said(adapter, inputs, spec, max_new_tokens=4, num_beams=2, num_return_sequences=2) == naive[:2]


@pytest.mark.parametrize("kind", ["white", "none+none", "", "none, unk"])
def test_unknown_picture_free_inputs_are_refused(kind):
    with pytest.raises(OptionError, match="vdd: free must be one or several of none, unk, noise, zero, one, black"):
        mmhall.strategy("vdd", free=kind)


def test_the_seed_is_checked():
    with pytest.raises(OptionError, match="vdd: seed must be an integer from 0 to"):
        mmhall.strategy("vdd", seed=-1)


def kl(one, other):
    return sum(math.exp(p) * (p - q) for p, q in zip(one.tolist(), other.tolist(), strict=True))


def weighed(main, other, *, alpha, beta):
    """The scores of one step, (V,), from logits with and without the picture."""
    main, other = main.double().log_softmax(-1), other.double().log_softmax(-1)
    strength = alpha * (1 + math.tanh(2 / (kl(main, other) + kl(other, main))))
    scores = (1 + strength) * main - strength * other
    return torch.where(main.exp() < beta * main.exp().max(), -math.inf, scores).float()


@pytest.mark.parametrize(("name", "beta"), in_turn(tuple(REPRESENTATIVES), (0.0, 0.02)))
def test_by_divergence_a_batch_is_the_formula_of_each_prompt(name, beta):
    def reference(adapter, reader, request, answer):
        bare = adapter.without_image(adapter.inputs([request]))
        longer = adapter.append_answer(bare, torch.tensor([answer[:-1]]))
        with torch.no_grad():
            other = adapter.model_for(longer)(**longer, use_cache=False).logits[0, -len(answer) :].float()
        main = reader.logits(adapter.inputs([request]), answer[:-1])
        return torch.stack([weighed(*pair, alpha=0.8, beta=beta) for pair in zip(main, other, strict=True)])

    check(name, f"vdd(weight='divergence', alpha=0.8, beta={beta})", reference)


def test_the_strength_by_divergence_of_toys():
    """It lies between alpha and 2 alpha; equal predictions have the limit, and no NaN."""
    main = torch.tensor([[0.7, 0.3], [0.99, 0.01], [0.4, 0.6]]).log()
    free = torch.tensor([[0.5, 0.5], [0.01, 0.99], [0.4, 0.6]]).log()
    got = divergence_strength(main, free, 0.8)
    torch.testing.assert_close(got, torch.tensor([[1.6], [0.9748], [1.6]]), rtol=0, atol=1e-4)
    torch.testing.assert_close(divergence_strength(main, free - 3.0, 0.8), got)
    adapter = ours("llava")
    session = mmhall.strategy("vdd(weight='divergence', alpha=0.8, beta=0)").prepare(
        adapter, adapter.inputs(REQUESTS[:1])
    )
    scores = session.combine(Step(main, (free,), torch.zeros(3, 0, dtype=torch.long)))
    torch.testing.assert_close(scores[0].softmax(-1), torch.tensor([0.9005, 0.0995]), rtol=0, atol=1e-4)
    torch.testing.assert_close(scores[2], main[2])
    fixed = mmhall.strategy("vdd", alpha=float(got[1, 0]), beta=0).prepare(adapter, adapter.inputs(REQUESTS[:1]))
    step = Step(main[1:2], (free[1:2],), torch.zeros(1, 0, dtype=torch.long))
    torch.testing.assert_close(fixed.combine(step)[0], scores[1])


def test_the_strength_of_a_row_does_not_depend_on_others_nor_on_tokens_that_are_out():
    torch.manual_seed(0)
    main, free = torch.randn(3, 7).log_softmax(-1), torch.randn(3, 7).log_softmax(-1)
    every = divergence_strength(main, free, 1.0)
    assert every.unique().numel() == 3
    for row in range(3):
        torch.testing.assert_close(
            divergence_strength(main[row : row + 1], free[row : row + 1], 1.0), every[row : row + 1]
        )
    out = torch.full((3, 1), -math.inf)
    torch.testing.assert_close(divergence_strength(torch.cat([main, out], 1), torch.cat([free, out], 1), 1.0), every)


def test_by_divergence_neutral_options_are_neutral_also_in_half_precision():
    adapter = ours("llava")
    for spec in ("vdd(weight='divergence', alpha=0, beta=0)", "vdd(weight='divergence')"):
        request = Request("What?", REQUESTS[0].images if "alpha" in spec else ())
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert (session.combine, list(session.branches)) == (None, []), spec
    check_half("vdd(weight='divergence')", "vdd(weight='divergence', alpha=0, beta=0)")
    with pytest.raises(OptionError, match=r'^vdd: weight must be "constant" or "divergence", got'):
        mmhall.strategy("vdd(weight='nolan')")
