"""MDI and AEI against the definition, read off whole attention maps of an eager copy of the model."""

from __future__ import annotations

import math

import pytest
import torch

from mmhall.adapters._base import Request
from mmhall.analysis._modality_dominance import ModalityDominance, measure_dominance
from mmhall.errors import ModelError, PromptError
from mmhall.lvlm import LVLM
from tests.attention.reference import Eager
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours
from tests.zoo import built

pytestmark = QUIET

ANSWERS = ((70, 81, 92, 70), (65, 90))


def shares(maps, inputs, image, answer, row):
    """What text, the first word and the picture get from one row of the answer, added up weight by weight."""
    length = inputs["input_ids"].shape[1]
    attended = inputs["attention_mask"][row].tolist()
    text = [at for at in range(length) if attended[at] and not image[row, at]]
    seen = [at for at in range(length) if image[row, at]]
    mean = maps[row].mean(dim=0)[length - 1 : length - 1 + len(answer)].tolist()
    found = [(sum(given[at] for at in text), given[text[0]], sum(given[at] for at in seen)) for given in mean]
    return torch.tensor(found), len(text), len(seen)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mllama"])
def test_it_is_read_off_whole_maps(family):
    adapter = ours(family)
    inputs = adapter.inputs(REQUESTS[:2])
    found = measure_dominance(adapter, inputs, ANSWERS)
    tokens = torch.tensor([ANSWERS[0], (*ANSWERS[1], 0, 0)])
    eager, image = Eager(adapter), adapter.image_mask(inputs["input_ids"])
    eager.logits(adapter.append_answer(inputs, tokens))
    for row, (got, answer) in enumerate(zip(found, ANSWERS, strict=True)):
        for place, layer in enumerate(got.layers):
            (maps,) = eager.maps[layer]
            wanted, words, patches = shares(maps, inputs, image, answer, row)
            have = torch.stack([got.text[:, place], got.first[:, place], got.image[:, place]], dim=1)
            torch.testing.assert_close(have, wanted, rtol=0, atol=1e-5)
            assert (got.text_tokens, got.image_tokens) == (words, patches)
            text, _, seen = wanted.sum(dim=0).tolist()
            mdi = (text / words) / (seen / patches) if seen else math.nan  # a window may have left the picture behind
            assert float(got.mdi[place]) == pytest.approx(mdi, rel=1e-3, nan_ok=True)
            expected = (text / (text + seen)) / (words / (words + patches))
            assert float(got.aei_text[place]) == pytest.approx(expected, rel=1e-3)
    assert [layer for layer, maps in enumerate(eager.maps) if maps] == list(found[0].layers)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mllama"])
def test_an_answer_has_alone_what_it_has_in_a_batch(family):
    adapter = ours(family)
    together = measure_dominance(adapter, adapter.inputs(REQUESTS[:2]), ANSWERS)
    for request, answer, wanted in zip(REQUESTS, ANSWERS, together, strict=False):
        (alone,) = measure_dominance(adapter, adapter.inputs([request]), [answer])
        for name in ("text", "first", "image"):
            torch.testing.assert_close(getattr(alone, name), getattr(wanted, name), rtol=0, atol=1e-5)
        assert (alone.text_tokens, alone.image_tokens) == (wanted.text_tokens, wanted.image_tokens)


def by_hand():
    """Two tokens, four layers, 4 text and 16 image positions; the first text position holds half of the text's."""
    text = torch.tensor([[0.4, 0.5, 0.6, 0.8], [0.2, 0.1, 0.6, 0.0]])
    image = torch.tensor([[0.4, 0.1, 0.2, 0.0], [0.2, 0.2, 0.0, 0.0]])
    return ModalityDominance(text, text / 2, image, 4, 16, (0, 1, 2, 3))


def test_indices_by_hand():
    """Layer 0: A_T = 0.4 + 0.2 = 0.6 = A_O, so MDI = (0.6 / 4) / (0.6 / 16) = 4, AEI_T = 0.5 / 0.2, AEI_O = 0.5 / 0.8.

    Layer 1: 0.6 and 0.3: 8, (2 / 3) / 0.2, (1 / 3) / 0.8; layer 2: 1.2 and 0.2: 24, (6 / 7) / 0.2, (1 / 7) / 0.8;
    layer 3: the picture gets nothing.
    """
    found = by_hand()
    assert found.mdi[:3].tolist() == pytest.approx([4, 8, 24])
    assert math.isnan(found.mdi[3])
    assert found.aei_text.tolist() == pytest.approx([2.5, 10 / 3, 30 / 7, 5])
    assert found.aei_image.tolist() == pytest.approx([0.625, 5 / 12, 5 / 28, 0])


def test_layers_are_grouped_by_depth():
    """Of four layers: 0 and 1, 1 and 2, 2 and 3; the last has no MDI, and so its group has none."""
    groups = by_hand().groups()
    assert [groups[name]["mdi"] for name in ("early", "middle", "late")] == [
        pytest.approx(6),
        pytest.approx(16),
        None,
    ]
    assert groups["late"]["aei_text"] == pytest.approx((30 / 7 + 5) / 2)
    assert groups["early"]["aei_image"] == pytest.approx((0.625 + 5 / 12) / 2)


@pytest.mark.parametrize(
    ("depth", "means"), [(1, (0, 0, 0)), (2, (0.5, 0.5, 0.5)), (3, (0.5, 0.5, 1.5)), (6, (0.5, 2.5, 4.5))]
)
def test_shallow_models_have_groups(depth, means):
    """Layer l has MDI l."""
    layers = torch.arange(depth)[None].float()
    groups = ModalityDominance(layers, layers, torch.ones(1, depth), 1, 1, tuple(range(depth))).groups()
    assert tuple(groups[name]["mdi"] for name in ("early", "middle", "late")) == means


def test_the_first_position_can_be_left_out():
    """Half of the text's attention on one of four positions: MDI falls to (A_T / 2 / 3) / (A_O / 16), two thirds."""
    without = by_hand().without_first()
    assert without.mdi[:3].tolist() == pytest.approx([8 / 3, 16 / 3, 16])
    assert without.text_tokens == 3
    assert without.without_first().text_tokens == 2


def test_a_token_has_a_balance_of_its_own():
    """Second token, layer 1: (0.1 / 4) / (0.2 / 16) = 2."""
    assert float(by_hand().of([1]).mdi[1]) == pytest.approx(2)


def test_where_the_prompt_gets_nothing_there_is_no_index():
    nothing = ModalityDominance(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), 4, 16, (0,))
    assert all(value is None for value in nothing.groups()["early"].values())


def test_a_person_asks_for_an_answer_in_words(llava, pictures):
    found = llava.balance(pictures[0], "What is there?", "a dog and a cup")
    tokens = llava.adapter.tokenizer("a dog and a cup", add_special_tokens=False)["input_ids"]
    inputs = llava.adapter.inputs([Request("What is there?", (pictures[0],))])
    (wanted,) = measure_dominance(llava.adapter, inputs, [tokens])
    torch.testing.assert_close(found.mdi, wanted.mdi)
    assert found.image_tokens == 64
    assert found.image_tokens + found.text_tokens == inputs["input_ids"].shape[1]
    shares = llava.score(pictures[0], "What is there?", "a dog and a cup").image_shares
    assert found.image.mean(dim=1).tolist() == pytest.approx(shares, abs=1e-6)


def test_what_cannot_be_compared_is_refused(llava, pictures):
    for image, answer in ((None, "a dog"), (pictures[0], "")):
        with pytest.raises(PromptError, match="MDI and AEI compare what"):
            llava.balance(image, "What is there?", answer)
    with pytest.raises(PromptError, match="exceed the model's context"):
        llava.balance(pictures[0], "What is there?", "a dog and " * 300)


def test_layers_of_their_own_for_the_picture_are_refused():
    with pytest.raises(ModelError, match="mllama: attends to the picture in layers of their own"):
        LVLM(*built("mllama")).balance(REQUESTS[0].images[0], "What?", "a")
