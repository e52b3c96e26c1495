"""Choosing among given answers, against log-probabilities that are computed from scratch."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch

import mmhall
from mmhall.adapters._base import Request
from mmhall.errors import GenerationError, OptionError, PromptError, UnknownNameError
from mmhall.lvlm import LVLM
from mmhall.strategies._picture_free import PICTURE_FREE, picture_free_inputs
from tests.generation.reference import QUIET, picture
from tests.zoo import ZOO, built

pytestmark = QUIET

SEVERAL = [name for name in ZOO if name not in ("blip_2", "instructblip")]
TEXTS = ("a dog", "cat", "Two cats")
LETTERS = ("y", "N", "b")
QUESTIONS = ("What?", "What is on the left, and what else is there?", "Where?")
REQUESTS = tuple(zip((picture(40, 40, 4), picture(64, 32, 8), picture(30, 70, 6)), QUESTIONS, strict=True))


@cache
def lvlm_of(name):
    return LVLM(*built(name))


def inputs_of(lvlm, request):
    image, question = request
    return lvlm.adapter.inputs([Request(question, () if image is None else (image,))])


def anew(adapter, inputs, ids):
    """Log-probabilities in one pass over prompt and ids, with no cache: (ids + 1, vocabulary), the last to go on."""
    whole = adapter.append_answer(inputs, torch.tensor([ids])) if ids else dict(inputs)
    with torch.inference_mode():
        logits = adapter.model_for(whole)(**whole, use_cache=False).logits
    return logits[0, -len(ids) - 1 :].double().log_softmax(dim=-1)


def likelihood(lvlm, inputs, text, ends=()):
    """Sum, over both cases of the first letter and with or without a space, of a text's probability."""
    total = []
    for spelled in {text, text[0].upper() + text[1:], text[0].lower() + text[1:]}:
        for before in ("", " "):
            ids = lvlm.adapter.tokenizer(before + spelled, add_special_tokens=False)["input_ids"]
            rows = anew(lvlm.adapter, inputs, ids)
            said = math.exp(sum(float(row[token]) for row, token in zip(rows, ids, strict=False)))
            total.append(said * (sum(float(rows[-1][end].exp()) for end in ends) if ends else 1))
    return math.log(sum(total))


def next_token(lvlm, inputs, letter):
    """Probability of a letter in either case: the only tokens of the zoo that say it."""
    row = anew(lvlm.adapter, inputs, [])[-1].exp()
    ids = lvlm.adapter.tokenizer.convert_tokens_to_ids([letter.lower(), letter.upper()])
    return math.log(sum(float(row[index]) for index in ids))


def prior(lvlm, inputs, kinds, score, choices):
    """Summed over the inputs, then normalised."""
    summed = [
        sum(math.exp(score(lvlm, picture_free_inputs(lvlm.adapter, inputs, kind), choice)) for kind in kinds)
        for choice in choices
    ]
    return [mass / sum(summed) for mass in summed]


@pytest.mark.parametrize("name", ZOO)
def test_texts_are_as_probable_as_read_from_scratch(name):
    lvlm, request = lvlm_of(name), REQUESTS[list(ZOO).index(name) % 2]
    inputs = inputs_of(lvlm, request)
    kinds = (("none", "zero"), ("none",), ("zero",))[list(ZOO).index(name) % 3]
    found = lvlm.choose(*request, TEXTS, calibrate="+".join(kinds))
    wanted = [likelihood(lvlm, inputs, text) for text in TEXTS]
    assert found.method == "strings"
    assert found.scores == pytest.approx(wanted, abs=1e-4)
    assert found.probabilities == pytest.approx(torch.tensor(wanted).softmax(dim=0).tolist(), abs=1e-4)
    free = prior(lvlm, inputs, kinds, likelihood, TEXTS)
    assert found.free == pytest.approx(free, abs=1e-4)
    calibrated = mmhall.calibrate(found.probabilities, found.free).tolist()
    assert found.calibrated == pytest.approx(calibrated, abs=1e-9)
    assert found.choice == TEXTS[calibrated.index(max(calibrated))]


@pytest.mark.parametrize("name", ZOO)
def test_labels_are_as_probable_as_their_spellings_together(name):
    lvlm = lvlm_of(name)
    inputs = inputs_of(lvlm, REQUESTS[1])
    found = lvlm.choose(*REQUESTS[1], LETTERS, calibrate="unk", mode="identity")
    assert found.method == "labels"
    assert found.scores == pytest.approx([next_token(lvlm, inputs, letter) for letter in LETTERS], abs=1e-4)
    assert found.free == pytest.approx(prior(lvlm, inputs, ("unk",), next_token, LETTERS), abs=1e-4)
    wanted = mmhall.calibrate(found.probabilities, found.free, "identity").tolist()
    assert found.calibrated == pytest.approx(wanted, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_a_batch_chooses_as_its_questions_do_alone(name):
    lvlm, choices = lvlm_of(name), (TEXTS, LETTERS)[list(ZOO).index(name) % 2]
    together = lvlm.choose_batch(REQUESTS, choices, calibrate="none+noise")
    for request, found in zip(REQUESTS, together, strict=True):
        alone = lvlm.choose(*request, choices, calibrate="none+noise")
        assert found.scores == pytest.approx(alone.scores, abs=2e-4)
        assert found.calibrated == pytest.approx(alone.calibrated, abs=1e-4)
        assert found.usage.prompt_tokens == alone.usage.prompt_tokens
        assert found.usage.new_tokens == 0
    assert len({found.scores for found in together}) == 3


@pytest.mark.parametrize("name", ZOO)
def test_every_family_can_be_calibrated_by_every_kind(name):
    for kind in PICTURE_FREE:
        found = lvlm_of(name).choose(*REQUESTS[0], LETTERS, calibrate=kind)
        assert sum(found.free) == pytest.approx(1)
        assert sum(found.calibrated) == pytest.approx(1)
        assert found.calibrated != found.probabilities
        assert found.calibration == f"diagonal {kind}"


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "instructblip", "mllama"])
def test_without_a_picture_nothing_is_calibrated(name):
    lvlm, request = lvlm_of(name), (None, "What?")
    for choices, score in ((TEXTS, likelihood), (LETTERS, next_token)):
        found = lvlm.choose(*request, choices, calibrate="none+black")
        assert found.scores == pytest.approx([score(lvlm, inputs_of(lvlm, request), c) for c in choices], abs=1e-4)
        assert found.calibrated == found.probabilities
        assert (found.free, found.calibration) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_several_pictures_are_seen_and_taken_out_together(name):
    lvlm, images = lvlm_of(name), [image for image, _ in REQUESTS[:2]]
    found = lvlm.choose(images, "What has changed?", LETTERS, calibrate="none")
    inputs = lvlm.adapter.inputs([Request("What has changed?", tuple(images))])
    assert found.scores == pytest.approx([next_token(lvlm, inputs, letter) for letter in LETTERS], abs=1e-4)
    assert found.free == pytest.approx(prior(lvlm, inputs, ("none",), next_token, LETTERS), abs=1e-4)


def test_texts_of_which_one_begins_another_are_read_to_their_end():
    lvlm, choices = lvlm_of("llava"), ("cat", "catfish", "dog")
    ends = (5, 9)
    config = lvlm.adapter.generator.generation_config
    config.eos_token_id, before = list(ends), config.eos_token_id
    try:
        found = lvlm.choose(*REQUESTS[0], choices)
    finally:
        config.eos_token_id = before
    inputs = inputs_of(lvlm, REQUESTS[0])
    assert found.method == "strings to their end"
    assert found.scores == pytest.approx([likelihood(lvlm, inputs, text, ends) for text in choices], abs=1e-4)
    assert lvlm.choose(*REQUESTS[0], ("catfish", "dog")).method == "strings"


def test_the_first_letters_case_and_white_space_do_not_matter():
    lvlm = lvlm_of("llava")
    first = lvlm.choose(*REQUESTS[0], ("A dog", "cat"))
    assert lvlm.choose(*REQUESTS[0], (" a dog", "Cat ")).scores == pytest.approx(first.scores, abs=1e-9)


def test_texts_that_share_their_first_token_or_differ_in_case_are_told_apart():
    lvlm = lvlm_of("llava")
    found = lvlm.choose(*REQUESTS[0], ("the US", "the us"))
    inputs = inputs_of(lvlm, REQUESTS[0])
    assert found.scores == pytest.approx([likelihood(lvlm, inputs, c) for c in found.choices], abs=1e-4)
    assert found.scores[0] != found.scores[1]


def test_labels_scored_as_texts_are_as_probable(llava, pictures):
    """The only spellings of yes and no in the embedded tokenizer are those of one token: both ways agree."""
    labels, texts = (llava.choose(pictures[0], "Is there a dog?", scoring=s) for s in ("labels", "strings"))
    assert texts.scores == pytest.approx(labels.scores, abs=1e-5)


def by_matching_strings(lvlm, inputs, choices, k, temperature=0.2):
    """The authors' form: decode the k likeliest tokens, strip, lower-case, keep the first of each."""
    best = (anew(lvlm.adapter, inputs, [])[-1] / temperature).softmax(dim=-1).topk(k)
    held = {}
    for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        held.setdefault(lvlm.adapter.tokenizer.decode([index]).strip().lower(), probability)
    return [held.get(choice.lower(), 0.0) for choice in choices]


def ranked_letters(lvlm, inputs):
    """Letters in the order of their probability, those whose other case ranks higher left out."""
    row = anew(lvlm.adapter, inputs, [])[-1]
    ranked = [lvlm.adapter.tokenizer.decode([index]).lower() for index in row.argsort(descending=True).tolist()]
    return list(dict.fromkeys(text for text in ranked if len(text) == 1 and text.isalpha() and text.isascii()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3", "mllama"])
def test_compat_matches_strings_among_the_likeliest_tokens(name):
    """Unless the prior lacks a choice, it is taken out; the last of all letters is one that it lacks."""
    lvlm, inputs = lvlm_of(name), inputs_of(lvlm_of(name), REQUESTS[0])
    bare, lacking = picture_free_inputs(lvlm.adapter, inputs, "none"), []
    first = ranked_letters(lvlm, inputs)[0]
    others = [letter for letter in ranked_letters(lvlm, bare) if letter != first]
    for choices in ((first, *others[:2]), (first, others[0], others[-1])):
        masses, prior = (by_matching_strings(lvlm, batch, choices, 100) for batch in (inputs, bare))
        found = lvlm.choose(*REQUESTS[0], choices, scoring="compat", calibrate="none")
        assert found.method == "compat"
        assert [math.exp(score) for score in found.scores] == pytest.approx(masses, abs=1e-6)
        assert found.probabilities == pytest.approx([mass / sum(masses) for mass in masses], abs=1e-4)
        lacking.append(min(prior) == 0)
        wanted = list(found.probabilities) if lacking[-1] else mmhall.calibrate(masses, prior).tolist()
        assert found.calibrated == pytest.approx(wanted, abs=1e-4)
        assert found.calibration == (None if lacking[-1] else "diagonal none")
        sharp = lvlm.choose(*REQUESTS[0], choices, scoring="compat", calibrate="none", smoothing=0)
        assert (sharp.calibration is None) == lacking[-1]
    assert lacking == [False, True]


@pytest.mark.parametrize("choices", [TEXTS, LETTERS], ids=["texts", "labels"])
def test_a_temperature_divides_scores_and_those_of_the_prior(choices):
    lvlm = lvlm_of("llava")
    usual = lvlm.choose(*REQUESTS[0], choices, calibrate="none")
    found = lvlm.choose(*REQUESTS[0], choices, calibrate="none", temperature=0.5)
    assert (usual.temperature, found.temperature) == (1.0, 0.5)
    assert found.scores == pytest.approx([2 * score for score in usual.scores], abs=1e-6)
    assert found.probabilities == pytest.approx(torch.tensor(found.scores).softmax(dim=0).tolist(), abs=1e-5)
    assert found.free == pytest.approx([one**2 / sum(x**2 for x in usual.free) for one in usual.free], abs=1e-6)
    wanted = mmhall.calibrate(usual.probabilities, usual.free, temperature=0.5).tolist()
    assert found.calibrated == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("temperature", [None, 0.7])
def test_compat_adds_picture_free_inputs_at_its_temperature(temperature):
    """Each a softmax over the whole vocabulary, at 0.2 unless told otherwise."""
    lvlm, at = lvlm_of("llava"), temperature or 0.2
    inputs = inputs_of(lvlm, REQUESTS[0])
    bare = [picture_free_inputs(lvlm.adapter, inputs, kind) for kind in ("none", "zero")]
    choices = tuple(ranked_letters(lvlm, bare[0])[:2])
    found = lvlm.choose(*REQUESTS[0], choices, scoring="compat", calibrate="none+zero", temperature=temperature)
    masses, *priors = (by_matching_strings(lvlm, batch, choices, 100, at) for batch in (inputs, *bare))
    assert found.temperature == at
    assert [math.exp(score) for score in found.scores] == pytest.approx(masses, rel=1e-4)
    summed = [sum(pair) for pair in zip(*priors, strict=True)]
    assert found.free == pytest.approx([mass / sum(summed) for mass in summed], abs=1e-5)


def pushed(llava, **tokens):
    """Push tokens of a model up or down, whatever it reads; returns the hook."""
    ids = llava.adapter.tokenizer.convert_tokens_to_ids(list(tokens))
    shift = torch.zeros(llava.model.lm_head.out_features)
    shift[ids] = torch.tensor(list(tokens.values()))
    return llava.model.lm_head.register_forward_hook(lambda *call: call[2] + shift)


def test_compat_without_a_choice_among_the_likeliest_falls_back_on_their_tokens(llava, pictures):
    hook = pushed(llava, **dict.fromkeys(("▁Yes", "▁yes", "▁No", "▁no"), -1000.0))
    asked = (pictures[0], "Is there a dog?")
    found, labels = (llava.choose(*asked, scoring=s, calibrate="none", temperature=0.2) for s in ("compat", "labels"))
    hook.remove()
    assert found.method == "labels: none among the 10 likeliest tokens"
    assert found.scores == labels.scores
    assert found.calibrated == found.probabilities
    assert found.calibration is None


def test_compat_with_one_of_yes_and_no_counts_the_other_as_nothing(llava, pictures):
    hook = pushed(llava, **{"▁Yes": 1e3, "▁No": -1e3, "▁no": -1e3})
    found = llava.choose(pictures[0], "Is there a dog?", scoring="compat", calibrate="none")
    hook.remove()
    assert found.scores[1] == -math.inf
    assert found.probabilities == pytest.approx((1, 0))
    assert found.free == pytest.approx((1, 0))
    assert found.calibrated == pytest.approx((1, 0))  # 1 / 1.0001 to 0 / 0.0001
    assert found.calibration == "diagonal none"


def test_the_prior_of_a_biased_model_is_taken_out(llava, pictures):
    """A push of both the plain and the picture-free yes cancels, up to the smoothing."""
    asked = (pictures[0], "Is there a dog?")
    usual = llava.choose(*asked, calibrate="none", smoothing=0)
    hook = pushed(llava, **{"▁Yes": 3.0, "▁yes": 3.0})
    biased = llava.choose(*asked, calibrate="none", smoothing=0)
    hook.remove()
    assert biased.probabilities[0] > usual.probabilities[0]
    assert biased.calibrated == pytest.approx(usual.calibrated, abs=1e-5)


@pytest.mark.parametrize(
    ("choices", "options", "message"),
    [
        (("yes",), {}, "choose: choices must be at least two texts, none empty, none twice"),
        ((), {}, "choose: choices must be at least two texts"),
        (("yes", "no", "yes"), {}, "choose: choices must be at least two texts, none empty, none twice"),
        (("yes", " Yes "), {}, "choose: choices must be at least two texts, none empty, none twice"),
        (("yes", ""), {}, "choose: choices must be at least two texts, none empty"),
        (("yes", "\n"), {}, "choose: choices must be at least two texts, none empty"),
        ("yes", {}, 'choose: choices must be a sequence of texts, such as \\("yes", "no"\\), got \'yes\''),
        (("yes", 3), {}, "choose: choices must be a sequence of texts"),
        (("yes", "no"), {"mode": "affine"}, "choose: mode must be 'diagonal' or 'identity', got 'affine'"),
        (("yes", "no"), {"calibrate": "white"}, "choose: calibrate must be one or several of none, unk, noise"),
        (("yes", "no"), {"calibrate": ""}, "choose: calibrate must be one or several of none, unk, noise"),
        (("yes", "no"), {"calibrate": 1}, "choose: calibrate must be one or several of none, unk, noise"),
        (("yes", "no"), {"scoring": "best"}, "choose: scoring must be 'auto' or 'labels' or 'strings' or 'compat'"),
        (("yes", "no"), {"smoothing": -1e-4}, "choose: smoothing must be a number >= 0"),
        (("yes", "no"), {"smoothing": float("nan")}, "choose: smoothing must be a number >= 0"),
        (("yes", "no"), {"temperature": 0}, "choose: temperature must be a number > 0, got 0"),
        (("yes", "no"), {"temperature": True}, "choose: temperature must be a number > 0"),
        (("yes", "no"), {"temperature": float("nan")}, "choose: temperature must be a number > 0"),
        (("yes", "no"), {"draw": "batch"}, "choose: draw must be 'picture' or 'seed'"),
        (("yes", "no"), {"seed": -1}, "choose: seed must be an integer from 0 to"),
        (("a dog", "no"), {"scoring": "labels"}, "scoring must be .*no token of this model spells 'a dog'"),
        (("a dog", "no"), {"scoring": "compat"}, "scoring must be .*no token of this model spells 'a dog'"),
        (("yes", "yeS"), {"scoring": "labels"}, "scoring must be .*some differ in nothing but case"),
    ],
)
def test_unusable_choices_and_options_are_refused(llava, pictures, choices, options, message):
    with pytest.raises(OptionError, match=message):
        llava.choose(pictures[0], "Is there a dog?", choices, **options)


def test_unknown_options_are_refused(llava, pictures):
    with pytest.raises(UnknownNameError, match="unknown option of choose 'smothing'; did you mean 'smoothing'"):
        llava.choose(pictures[0], "Is there a dog?", smothing=0)


def test_choices_that_cannot_be_written_or_read_are_refused(llava, pictures):
    asked = (pictures[0], "Is there a dog?")
    with pytest.raises(PromptError, match="tokenizer has no tokens for all of the choice 'красный'"):
        llava.choose(*asked, ("a dog", "красный"))
    with pytest.raises(PromptError, match="a choice holds characters that are no valid Unicode"):
        llava.choose(*asked, ("a dog", "\ud800"))
    with pytest.raises(PromptError, match="of the choices exceed the model's context of 512"):
        llava.choose(*asked, ("a dog", "a cup " * 400))
    with pytest.raises(PromptError, match="a batch mixes prompts with and without a picture"):
        llava.choose_batch([asked, (None, "What?")])
    with pytest.raises(PromptError, match="a batch is made of pairs"):
        llava.choose_batch(["What?"])


def test_nothing_asked_is_nothing_chosen(llava):
    assert llava.choose_batch([]) == []


def test_scores_that_are_no_numbers_are_an_error(llava, pictures):
    hook = llava.model.lm_head.register_forward_hook(lambda *call: call[2] * torch.nan)
    with pytest.raises(GenerationError, match="scores hold NaN"):
        llava.choose(pictures[0], "Is there a dog?")
    hook.remove()


def test_choosing_leaves_the_model_as_it_was(llava, pictures):
    asked = (pictures[0], "Please describe this image in detail.")
    before = llava.generate(*asked, max_new_tokens=8).token_ids
    llava.choose(*asked, ("a dog", "cat"), calibrate="none+unk")
    assert llava.generate(*asked, max_new_tokens=8).token_ids == before


def test_a_strategys_own_scores_choose(embedded, pictures):
    """By hand: softmax of (1 + a) log p(x) - a log p(x without the picture) over the spellings of each choice."""
    request, alpha = Request("Is there a dog in the image?", (pictures[0],)), 1.5
    inputs = embedded.adapter.inputs([request])
    with torch.inference_mode():
        seen, blind = (
            embedded.model(**given, use_cache=False).logits[0, -1].log_softmax(dim=-1)
            for given in (inputs, embedded.adapter.without_image(inputs))
        )
    scores = (1 + alpha) * seen - alpha * blind
    spelled = [scores[list(embedded.adapter.spellings[word])].logsumexp(dim=0) for word in ("yes", "no")]
    wanted = torch.stack(spelled).softmax(dim=0).tolist()
    spec = f"vdd(alpha={alpha}, beta=0.0)"
    choice = embedded.choose(request.images[0], request.prompt, strategy=spec)
    assert choice.probabilities == pytest.approx(wanted, abs=1e-4)
    assert choice.probabilities != pytest.approx(
        embedded.choose(request.images[0], request.prompt).probabilities, abs=1e-3
    )


@pytest.mark.parametrize("spec", ["greedy", "opera", "beam", "vcd(alpha=0.0, beta=0.0)", "vhr(alpha=1.0)"])
def test_neutral_strategies_choose_as_the_plain_model(llava, pictures, spec):
    plain = llava.choose(pictures[0], "Is it?")
    assert llava.choose(pictures[0], "Is it?", strategy=spec).probabilities == pytest.approx(
        plain.probabilities, abs=1e-5
    )


def test_a_strategy_chooses_among_single_tokens_without_calibration(llava, pictures):
    with pytest.raises(OptionError, match="calibrate must be None with a strategy"):
        llava.choose(pictures[0], "Is it?", strategy="vcd", calibrate="none")
    with pytest.raises(OptionError, match="strategy must be None for choices that are no single tokens"):
        llava.choose(pictures[0], "Is it?", ("a dog", "a cat"), strategy="vcd")


def test_where_a_strategy_leaves_none_of_the_choices_the_plain_model_chooses(llava, pictures):
    """With beta 1, all but the likeliest token are out."""
    choice = llava.choose(pictures[0], "Is it?", strategy="vcd(beta=1.0)")
    assert choice.method == "labels: none left by the strategy"
    assert choice.probabilities == llava.choose(pictures[0], "Is it?").probabilities
