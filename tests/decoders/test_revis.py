"""REVIS against its formula written out, on the families' representatives; its fit, its sign, its gate and its twin."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.decoders.revis import (
    REFUSALS,
    PushRisky,
    YesNoAnswer,
    _answers,
    choose_layer,
    differing_phrases,
    find_directions,
    measure_risk,
    remove_prior,
)
from mmhall.errors import CompositionError, FitError, OptionError
from mmhall.fitting import make_learner
from mmhall.strategies import Pair, yes_no_tokens
from mmhall.strategies._layers import parse_layers
from tests.decoders.fitted import fitted_artifact, made_pairs, with_artifacts
from tests.decoders.rows import check, family
from tests.decoders.steering import edited, from_row, outputs
from tests.generation.reference import QUIET, REQUESTS, in_turn, ours
from tests.zoo import REPRESENTATIVES

pytestmark = QUIET

CLOSE = {"rtol": 0, "atol": 1e-4}
VARIANTS = {"all": "alpha=1.5, threshold=-0.1", "answer": "alpha=-2, threshold=-0.5, rows='answer', scale='states'"}


@pytest.mark.parametrize(("name", "variant"), in_turn(tuple(REPRESENTATIVES), tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    adapter, _ = family(name)
    artifact = with_artifacts(adapter).artifacts["revis"]
    layer, fired = int(artifact.facts["chosen"]["layer"]), set()
    vector = artifact.tensors["direction"][layer]
    if variant == "answer":
        vector = vector / vector.norm() * artifact.tensors["lengths"][layer]
    alpha, threshold = (1.5, -0.1) if variant == "all" else (-2.0, -0.5)

    def reference(adapter, reader, request, answer):
        reader.begin(adapter.inputs([request]))
        first = 0 if variant == "all" else reader.length - 1

        def push(part):
            rows = []
            for row in part:
                risky = float(-row @ vector / (row.norm() * vector.norm())) > threshold
                fired.add(risky)
                rows.append(row + alpha * vector if risky else row)
            return torch.stack(rows)

        with edited(reader, "out", [layer], lambda _, states: from_row(first, states, push)):
            return reader.logits(adapter.inputs([request]), answer[:-1]).log_softmax(-1)

    with torch.no_grad():
        check(name, f"revis({VARIANTS[variant]})", reference)
    assert True in fired


def push(states, *, direction=(0.0, 2.0), alpha=1.6, threshold=0.2):
    class Place:
        device = states.device

    op = PushRisky(0, torch.tensor(direction), alpha, threshold)
    return op.edit_states(Place(), states[None])[0]


def test_the_edit_of_a_toy():
    """v = (0, 2): risks 1, -0.8 and 0.2425; rows below the threshold stay bit for bit."""
    states = torch.tensor([[0.0, -2.0], [3.0, 4.0], [4.0, -1.0]])
    torch.testing.assert_close(
        measure_risk(states, torch.tensor([0.0, 2.0])), torch.tensor([1.0, -0.8, 0.2425]), **CLOSE
    )
    wanted = torch.tensor([[0.0, 1.2], [3.0, 4.0], [4.0, 2.2]])
    torch.testing.assert_close(push(states), wanted, **CLOSE)
    assert torch.equal(push(states)[1], states[1])
    longer = push(states, direction=(0.0, 6.0), alpha=1.6 / 3)  # the length of v does not move the gate
    torch.testing.assert_close(longer, wanted, **CLOSE)
    assert torch.equal(push(states, threshold=1.0), states)


def test_the_projection_of_a_toy():
    """(2, 1), (1, 3), (0, 2) without the x axis, along which the prior varies: (0, 1), (0, 3), (0, 2), mean norm 2."""
    visual = torch.tensor([[[2.0, 1.0]], [[1.0, 3.0]], [[0.0, 2.0]]])
    prior = torch.tensor([[[-3.0, 1.0]], [[0.0, 1.0]], [[3.0, 1.0]]])
    left = remove_prior(visual, prior)
    torch.testing.assert_close(left, torch.tensor([[[0.0, 1.0]], [[0.0, 3.0]], [[0.0, 2.0]]]), **CLOSE)
    torch.testing.assert_close(find_directions(left, component=False)[0], torch.tensor([[0.0, 2.0]]), **CLOSE)
    assert torch.equal(remove_prior(visual, torch.ones_like(prior)), visual)  # a prior that does not vary


def test_the_sign_does_not_depend_on_the_order_of_pairs():
    samples = torch.tensor([[[1.0, 0.0]], [[3.0, 2.0]], [[8.0, 7.0]]])
    for component in (False, True):
        found = [find_directions(one, component=component)[0] for one in (samples, samples.flip(0), -samples)]
        torch.testing.assert_close(found[0], found[1])
        torch.testing.assert_close(found[0], -found[2])
        assert float(found[0][0] @ samples.mean(dim=0)[0]) > 0
        assert float(found[0].norm()) == pytest.approx(float(samples.norm(dim=-1).mean()), rel=1e-5)


def test_a_component_across_the_mean_is_refused():
    """(0, 3, 0.1), (0, 3, -0.1): the mean is along the second axis, the component along the third."""
    samples = torch.tensor([[[0.0, 3.0, 0.1]], [[0.0, 3.0, -0.1]]])
    torch.testing.assert_close(
        find_directions(samples, component=False)[0], torch.tensor([[0.0, 3.0017, 0.0]]), **CLOSE
    )
    with pytest.raises(FitError, match="use their mean"):
        find_directions(samples, component=True)


def answers(correct, false):
    made = [YesNoAnswer(True, True, torch.tensor(risks)) for risks in correct]
    return made + [YesNoAnswer(True, False, torch.tensor(risks)) for risks in false]


def test_the_last_layer_with_riskier_false_answers_is_chosen():
    """In layer 2 the false answer is less risky than the correct ones, in layers 0 and 1 more."""
    correct = [[-0.5, -0.5, 0.5], [-0.3, -0.3, 0.5], [-0.1, -0.1, 0.5], [0.0, 0.0, 0.5], [0.1, 0.1, 0.5]]
    given = answers(correct, [[0.3, 0.2, 0.1]])
    layer, thresholds, record = choose_layer(given, [0, 1, 2], 85)
    assert (layer, thresholds.tolist()) == (1, pytest.approx([0.04, 0.04, 0.5], abs=1e-6))  # 85th percentile, linear
    assert (record["questions"], record["correct"], record["false yes"]) == (6, 5, 1)
    layer, thresholds, _ = choose_layer(given, [0], 50)
    assert (layer, float(thresholds[0])) == (0, pytest.approx(-0.1))
    assert choose_layer(given, [2], 50)[0] == 2
    with pytest.raises(FitError, match="in no layer are the states of false yes answers"):
        choose_layer(answers(correct, [[-0.9, -0.9, -0.9]]), [0, 1, 2], 85)
    with pytest.raises(FitError, match=r"\(0 of 5 questions\)"):
        choose_layer(answers(correct, []), [0, 1, 2], 85)
    with pytest.raises(FitError, match="none of 1 yes/no questions was answered correctly"):
        choose_layer(answers([], [[0.0]]), [0], 85)


def test_questions_ask_about_what_the_texts_differ_in():
    def phrases(faithful, hallucinated):
        return list(differing_phrases(Pair("0", None, "", faithful, hallucinated)))

    listed = phrases("The image shows a dog, a cup and skis.", "The image shows a dog, an oven and skis.")
    assert listed == [("a cup", True), ("an oven", False)]
    assert phrases("Skis by a red cup.", "Skis by a red bed.") == [("cup", True), ("bed", False)]
    assert phrases("A dog sits.", "A dog sits there.") == []
    assert phrases("One two three four five six.", "Seven eight nine ten eleven twelve.") == []


def test_the_fit_is_that_of_plain_passes():
    """The pairs whose number is a multiple of three ask questions; the others give the direction."""
    adapter = ours("llava")
    found = fitted_artifact(adapter, "revis(layer='1')")

    def states(pair, text, images):
        ids = torch.tensor([adapter.tokenizer(text, add_special_tokens=False)["input_ids"]])
        inputs = adapter.append_answer(adapter.inputs([Request(pair.prompt, images)]), ids)
        return torch.stack([layer[-1] for layer in outputs(adapter, inputs)])

    pairs = [pair for number, pair in enumerate(made_pairs()) if number % 3]
    refused = torch.stack([states(pairs[0], text, ()) for text in REFUSALS]).mean(dim=0)
    visual = torch.stack([states(p, p.faithful, (p.picture,)) - states(p, p.faithful, ()) for p in pairs])
    prior = torch.stack([states(p, p.hallucinated, ()) - refused for p in pairs])
    for layer in (1, 2):
        centred = prior[:, layer] - prior[:, layer].mean(dim=0)
        axis = torch.linalg.svd(centred)[2][0]
        left = visual[:, layer] - (visual[:, layer] @ axis)[:, None] * axis
        mean = left.mean(dim=0)
        wanted = mean / mean.norm() * left.norm(dim=-1).mean()
        torch.testing.assert_close(found.tensors["direction"][layer], wanted, rtol=1e-2, atol=1e-2)


def test_what_the_fit_has_chosen_is_used_unless_another_is_given():
    adapter = with_artifacts(ours("llava"))
    chosen = adapter.artifacts["revis"].facts["chosen"]
    fitted = mmhall.strategy("revis").fitted(adapter)
    assert (fitted.layer, fitted.threshold) == ("1", chosen["threshold"])
    assert mmhall.strategy("revis").origins(adapter)["layer"] == "chosen by the fit of its artifact"
    given = mmhall.strategy("revis(layer='2', threshold=0.5)").fitted(adapter)
    assert (given.layer, given.threshold) == ("2", 0.5)
    thresholds = adapter.artifacts["revis"].tensors["thresholds"].tolist()
    assert len(set(thresholds)) == len(adapter.layers)
    assert mmhall.strategy("revis(layer='2')").fitted(adapter).threshold == thresholds[2]
    assert thresholds[1] == chosen["threshold"]
    with pytest.raises(OptionError, match="layer must be one layer of this model"):
        mmhall.strategy("revis(layer=':')").fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1]))
    assert parse_layers("31%:", ["full"] * 32, {"full"}, "revis", "layer") == set(range(10, 32))


def test_a_fit_is_not_told_the_threshold_that_it_chooses():
    with pytest.raises(OptionError, match=r"revis: threshold must be left out: the fit chooses it.*got 0\.5"):
        make_learner("revis(threshold=0.5)")
    assert str(make_learner("revis(layer='1')")) == "revis(layer='1')"


def test_the_answer_is_the_likelier_of_all_spellings():
    """As `yes_no_tokens` finds them."""
    adapter = ours("llava")
    pair, tokens = made_pairs(1)[0], yes_no_tokens(adapter)
    with torch.inference_mode():
        asked = list(
            _answers(adapter, pair, torch.ones(len(adapter.layers), adapter.decoder.config.hidden_size), tokens)
        )
    assert [answer.shown for answer in asked] == [True, False]
    for answer, phrase in zip(asked, ("a dog", "a cat"), strict=True):
        question = f"Is there {phrase} in the image? Please answer with yes or no."
        logits = adapter.model(**adapter.inputs([Request(question, (pair.picture,))])).logits[0, -1].float()
        yes, no = (logits[list(ids)].exp().sum() for ids in tokens)
        assert answer.said_yes == bool(yes > no)


def direction(spec):
    adapter = with_artifacts(ours("llava"))
    (op,) = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS[:1])).ops
    return op._direction


def test_the_twin_has_another_direction_of_the_same_length():
    true, one, again = (direction(f"revis(twin={twin})") for twin in (0, 1, 1))
    torch.testing.assert_close(one.norm(), true.norm())
    assert torch.equal(one, again)
    assert abs(torch.nn.functional.cosine_similarity(one, true, dim=0)) < 0.7


def test_neutral_options_and_no_picture_ask_for_nothing():
    adapter = with_artifacts(ours("llava"))
    cases = [(f"revis({neutral})", REQUESTS[0]) for neutral in ("alpha=0", "alpha=0, twin=3", "threshold=1")]
    for spec, request in (*cases, ("revis", Request("What?"))):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs([request]))
        assert session == mmhall.Session(), spec


def test_two_edits_of_a_layers_output_are_refused():
    with pytest.raises(CompositionError, match="both want the output of a layer"):
        mmhall.strategy("revis+revis(layer='2')")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alpha", float("nan")),
        ("threshold", 1.1),
        ("scale", "x"),
        ("component", 1),
        ("percentile", 101),
        ("layer", "x"),
    ],
)
def test_what_it_cannot_do_is_refused(option, value):
    with pytest.raises(OptionError, match=rf"^revis: {option} must be .*, got"):
        mmhall.strategy("revis", **{option: value})
