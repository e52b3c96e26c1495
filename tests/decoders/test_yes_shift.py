"""A constant added to yes: the worked example, the first token against complete passes, and the fit of the constant."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mmhall
from mmhall.adapters import adapter_for
from mmhall.benchmarks.data.pictures import read_coco
from mmhall.benchmarks.data.questions import make_yes_no_questions
from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
from mmhall.decoders.yes_shift import auroc
from mmhall.errors import CompositionError, DataError, ModelError, OptionError
from mmhall.fitting import fit, hold_out
from mmhall.results.thresholds import best_shift, shift_to_share
from mmhall.strategies import PairSet, QuestionSet, Step, YesNoTokens, _yes_no, yes_no_tokens
from tests.conftest import make_random_llava
from tests.decoders.reference import REQUESTS, greedily, said, slow
from tests.generation.reference import QUIET, built

pytestmark = QUIET

MARGINS = np.array([-2.0, -1.0, -0.5, 0.5, -3.0, -1.5, -0.8, 0.2])
LABELS = np.array([True] * 4 + [False] * 4)


@pytest.fixture(scope="module")
def llava(processor):
    return mmhall.LVLM(make_random_llava(processor), processor, "random")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_scenes(folder, 8, 5))
    return make_yes_no_questions(read_coco(folder / ANNOTATIONS, folder), "drawn scenes", 5)


def outcome(shift):
    """Number of questions answered yes, and of right answers."""
    says = MARGINS + shift > 0
    return int(says.sum()), int((says == LABELS).sum())


def test_the_worked_example():
    assert auroc(MARGINS, LABELS) == 0.625
    assert outcome(0.0) == (2, 4)
    assert shift_to_share(MARGINS, 0.5) == pytest.approx(0.9)
    assert outcome(0.9) == (4, 4)
    assert best_shift(MARGINS, LABELS) == pytest.approx(-0.35)
    assert [outcome(shift)[1] for shift in (-0.35, 0.65, 1.25, 2.5)] == [5] * 4
    scores = torch.tensor([[1.0, 2.0, 1.5, 1.9, 7.0]])
    assert float(YesNoTokens((0, 1), (2, 3)).margin(scores)) == pytest.approx(-0.0998, abs=1e-4)
    assert float(YesNoTokens((0,), (2,)).margin(scores)) == pytest.approx(-0.5)


def test_every_share_is_met_where_margins_differ():
    for count in range(9):
        assert outcome(shift_to_share(MARGINS, count / 8))[0] == count
    equal = np.array([1.0, 1.0, -1.0, -1.0])
    assert int((equal + shift_to_share(equal, 0.25) > 0).sum()) == 0


def test_the_best_shift_is_the_smallest_of_the_best():
    assert best_shift(np.array([2.0, 1.0, -1.0, -3.0]), LABELS[2:6]) == 0.0
    margins = np.array([1.0, -1.0])
    assert best_shift(margins, np.array([True, True])) > 1
    assert best_shift(margins, np.array([False, False])) <= -1
    assert best_shift(margins, np.array([False, True])) == 2.0  # all yes or all no: the positive of two alike


@pytest.mark.parametrize("name", ["llava", "mllama", "qwen3_5"])
def test_only_the_first_token_is_shifted(name):
    """Against complete passes, prompt by prompt: tokens exactly, the first token's scores closely."""
    model = slow(name)
    tokenizer = model.adapter.tokenizer
    yes = tokenizer.convert_tokens_to_ids(["y", "Y"])  # it splits all words into letters; " " begins no, too
    assert yes_no_tokens(model.adapter) == (
        tuple(sorted(yes)),
        tuple(sorted(tokenizer.convert_tokens_to_ids(["n", "N"]))),
    )
    inputs = model.adapter.inputs(REQUESTS)
    plain = torch.stack([model.read(model.adapter.inputs([one])).log_softmax(dim=-1) for one in REQUESTS])
    for shift in (20.0, -20.0):
        wanted = plain.clone()
        wanted[:, yes] += shift

        def scores(row, wanted=wanted):
            single = model.adapter.inputs([REQUESTS[row]])
            return lambda answer: model.read(model.longer(single, answer)) if answer else wanted[row]

        spec = f"yes-shift(shift={shift})"
        assert said(model.adapter, inputs, spec) == [greedily(scores(row)) for row in range(len(REQUESTS))]
        combine = mmhall.strategy(spec).fitted(model.adapter).prepare(model.adapter, inputs).combine
        got = combine(Step(plain, (), torch.empty(len(REQUESTS), 0)))
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
        assert combine(Step(plain, (), torch.ones(len(REQUESTS), 1))) is plain


def test_choices_follow_the_margin(llava, pictures):
    for picture in pictures:
        plain = llava.choose(picture, "Is there a dog?")
        margin = plain.scores[0] - plain.scores[1]
        for shift in (-margin - 0.01, -margin + 0.01):
            shifted = llava.choose(picture, "Is there a dog?", strategy=f"yes-shift(shift={shift})")
            assert shifted.choice == ("yes" if margin + shift > 0 else "no")
            assert shifted.scores[0] - shifted.scores[1] == pytest.approx(margin + shift, abs=1e-4)


def test_half_precision_without_a_shift_is_greedy():
    model, processor = built("llava")
    adapter = adapter_for(model.bfloat16(), processor)
    inputs = adapter.inputs(REQUESTS)
    assert said(adapter, inputs, "yes-shift(shift=0)") == said(adapter, inputs, "greedy")
    assert said(adapter, inputs, "yes-shift(shift=80)") != said(adapter, inputs, "greedy")


@pytest.mark.slow
def test_a_fit_meets_its_share_and_its_artifact_is_named(llava, questions, pictures, monkeypatch):
    adapter, used = llava.adapter, hold_out(questions)[0].samples
    count = len(used)
    for share in (0.25, 0.75):
        artifact = fit(llava, f"yes-shift(share={share})", questions, 1)
        assert artifact.facts["data"]["questions"] == count
        assert artifact.origin.startswith(f"fitted on {count} questions of drawn scenes (")
        assert f"{count} questions are few" in artifact.facts["remarks"][0]
        numbers = artifact.facts["numbers"]
        assert numbers["with shift"]["share of yes"] == pytest.approx(round(share * count) / count)
        assert set(numbers["tokens of yes"]) == {"▁Yes", "▁yes"}
        monkeypatch.setattr(adapter, "artifacts", {"yes-shift": artifact})
        asked = [llava.choose(q.picture, q.text, strategy="yes-shift").choice for q in used]
        assert asked.count("yes") == round(share * count)
        fitted = mmhall.strategy("yes-shift").fitted(adapter)
        assert (fitted.share, fitted.artifact, fitted.shift) == (share, artifact.digest, numbers["shift"])
        assert mmhall.strategy(str(fitted)).fitted(adapter) == fitted
        assert mmhall.strategy("yes-shift").origins(adapter)["shift"] == "chosen by the fit of its artifact"
        answer = llava.generate(pictures[0], "Is there a dog?", "yes-shift", max_new_tokens=1)
        assert f"artifact='{artifact.digest}'" in answer.strategy
        with pytest.raises(OptionError, match="share must be left out"):
            mmhall.strategy(f"yes-shift(share={share / 2})").fitted(adapter)
    by_hand = mmhall.strategy("yes-shift(shift=0.9)")
    assert (by_hand.fitted(adapter).artifact, by_hand.fitted(adapter).shift) == (None, 0.9)
    assert "artifact" not in by_hand.origins(adapter)


def test_the_best_constant_is_as_accurate_as_any(llava, questions):
    numbers = fit(llava, "yes-shift", questions).facts["numbers"]
    assert numbers["with shift"]["accuracy"] >= max(numbers["without shift"]["accuracy"], 0.5)


def test_what_cannot_be_fitted_or_carried_is_refused(llava, questions):
    with pytest.raises(CompositionError, match="yes-shift: needs an artifact fitted on this model"):
        mmhall.strategy("yes-shift").fitted(llava.adapter)
    pair = mmhall.strategies.Pair("a", questions.questions[0].picture, "?", "A dog.", "A cat.")
    with pytest.raises(OptionError, match="fit: data must be questions, from which yes-shift learns, got 'pairs'"):
        fit(llava, "yes-shift", PairSet((pair,), "mine"))
    with pytest.raises(OptionError, match="yes-shift: shift must be left out: a fit finds it"):
        fit(llava, "yes-shift(shift=2)", questions)
    with pytest.raises(DataError, match="mine: the right answer to all questions is yes; give questions of both kinds"):
        QuestionSet(tuple(question for question in questions.questions if question.is_yes), "mine")
    with pytest.raises(DataError, match="mine: no questions; give"):
        QuestionSet((), "mine")
    for option, value in (("share", "most"), ("share", 1.5), ("share", True), ("shift", float("inf"))):
        with pytest.raises(OptionError, match=f"yes-shift: {option} must be"):
            mmhall.strategy("yes-shift", **{option: value})


def test_without_tokens_of_yes_it_is_refused(monkeypatch):
    model, processor = built("llava")
    adapter = adapter_for(model, processor)
    monkeypatch.setattr(_yes_no, "tokenize_answer", lambda tokenizer, text: [5])
    with pytest.raises(CompositionError, match="its tokenizer begins yes and no with the same tokens"):
        mmhall.strategy("yes-shift(shift=1)").fitted(adapter)
    with pytest.raises(ModelError, match="its tokenizer begins yes and no with the same tokens"):
        yes_no_tokens(adapter)
    with pytest.raises(ModelError, match="hand it over too"):
        yes_no_tokens(adapter_for(model))
