"""Calibration by random words of the domain: by hand, with and without the picture, and from text."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.adapters import Request
from mmhall.closed import DomainContext
from mmhall.closed._domain import read_domain_context
from mmhall.closed._likelihood import make_scorer
from mmhall.errors import OptionError, UnknownNameError
from mmhall.objects.coco_words import SYNONYMS

QUESTION = "Is there a dog in the image?"


class Fixed:
    """Stands for the scorer: the log-probabilities of the first prompts, in turn."""

    def __init__(self, *probabilities):
        self.left, self.seen = list(probabilities), []

    def __call__(self, adapter, inputs):
        self.seen.append(inputs)
        return torch.tensor([self.left.pop(0)], dtype=torch.float64).log()


def test_the_mean_of_two_prompts_turns_the_answer_of_a_toy(llava, pictures):
    """Priors (0.8, 0.2) and (0.7, 0.3): mean (0.75, 0.25); (0.6, 0.4) over it is 0.8 to 1.6: 1/3 and 2/3.

    The first prompt's probabilities are all ten times smaller: each prompt counts the same.
    """
    inputs = llava.adapter.inputs([Request(QUESTION, (pictures[0],))])
    scorer = Fixed((0.08, 0.02), (0.7, 0.3))
    prior = DomainContext(count=2).prior(llava.adapter, inputs, scorer)
    torch.testing.assert_close(prior, torch.tensor([[0.75, 0.25]], dtype=torch.float64))
    got = mmhall.calibrate([0.6, 0.4], prior[0], smoothing=0)
    torch.testing.assert_close(got, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))


@pytest.mark.parametrize("picture", [True, False])
def test_choosing_takes_out_the_mean_of_its_prompts(llava, pictures, picture):
    """Each prompt asked by itself; without the picture, as a prompt that never had one."""
    context = DomainContext(part="dog", words=("cup", "cat", "car"), count=3, picture=picture, seed=5)
    found = llava.choose(pictures[0], QUESTION, calibrate=context)
    texts = context.texts(QUESTION)
    assert set(texts) <= {"cup", "cat", "car"}
    alone = [
        llava.choose(pictures[0] if picture else None, QUESTION.replace("dog", text)).probabilities for text in texts
    ]
    assert found.free == pytest.approx([sum(column) / 3 for column in zip(*alone, strict=True)], abs=1e-5)
    assert found.calibrated == pytest.approx(mmhall.calibrate(found.probabilities, found.free).tolist())
    assert found.calibration == f"diagonal {context}"
    assert ("picture=False" in found.calibration) is not picture
    again = llava.choose_batch([(pictures[1], f"{QUESTION} Tell me."), (pictures[0], QUESTION)], calibrate=str(context))
    assert again[1].free == pytest.approx(found.free, abs=1e-5)


def test_words_are_as_many_as_those_that_they_replace_and_follow_the_seed():
    whole = DomainContext(seed=1)
    assert {len(text.split()) >= 7 for text in whole.texts(QUESTION)} == {True}  # names may be two words
    assert len(whole.texts(QUESTION)) == 20
    one = DomainContext(part="a dog", words=("cup", "cat"), seed=1)
    assert {len(text.split()) for text in one.texts(QUESTION)} == {2}
    assert one.texts(QUESTION) == one.texts("Where is a dog?")
    assert one.texts(QUESTION) != DomainContext(part="a dog", words=("cup", "cat"), seed=2).texts(QUESTION)
    assert set(DomainContext(part="dog", count=900).texts(QUESTION)) == set(SYNONYMS)


def test_it_is_written_as_text_and_fitted_over_many_questions(llava, pictures):
    spec = "words(part='dog', count=2)"
    assert str(read_domain_context(spec)) == spec
    assert read_domain_context("words") == DomainContext()
    assert read_domain_context("wordsmith") is read_domain_context("none") is None
    requests = [(picture, QUESTION) for picture in pictures]
    fitted = mmhall.Calibration.fit(llava, requests, kinds=spec)
    told = [llava.choose(*request, calibrate=spec).free for request in requests]
    assert fitted.free == pytest.approx([sum(column) / 3 for column in zip(*told, strict=True)], abs=1e-6)
    assert str(fitted) == f"{spec}, fitted on 3"


def test_without_a_picture_nothing_is_taken_out(llava):
    assert llava.choose(None, QUESTION, calibrate="words").calibration is None


def test_texts_are_scored_as_labels_are(llava, pictures):
    """Also choices that are no single tokens."""
    found = llava.choose(pictures[0], QUESTION, ("a dog", "no dog"), calibrate="words(count=2)")
    assert found.method.startswith("strings")
    assert sum(found.free) == pytest.approx(1)
    assert make_scorer(llava.adapter, ("yes", "no"), "auto").method == "labels"


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("words(part='cat')", OptionError, "words: part must be a text in every question, such as 'Is there a dog"),
        ("words(count=0)", OptionError, "words: count must be an integer from 1 to 10000, got 0"),
        ("words(words=('cup', ' '))", OptionError, "words: words must be a tuple of words"),
        ("words(parts='cat')", UnknownNameError, "unknown option of words 'parts'; did you mean 'part'"),
        ("words+none", OptionError, 'joined by "\\+"; "words"; a Calibration; or None'),
    ],
)
def test_unusable_contexts_are_refused(llava, pictures, spec, error, message):
    with pytest.raises(error, match=message):
        llava.choose(pictures[0], QUESTION, calibrate=spec)
