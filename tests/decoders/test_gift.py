"""GIFT against its definition, a map from one complete pass and edited rows in another; and what always holds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

import mmhall
from mmhall.adapters import adapter_for
from mmhall.adapters._base import Request
from mmhall.analysis._saliency import mark_informative
from mmhall.attention import Op, active
from mmhall.errors import CompositionError, ModelError, OptionError
from tests.decoders.reference import REQUESTS, Slow, check, drawn, said, scored, searched, slow
from tests.generation.reference import FAMILIES, QUIET, in_turn, picture
from tests.zoo import ZOO, llavas
from tests.zoo.common import make_tokenizer

pytestmark = QUIET

SEEN = tuple(name for name in FAMILIES if name != "mllama")
INFORMATIVE = {
    REQUESTS[0].prompt: ("dog", "dog", "bed"),
    REQUESTS[1].prompt: ("describe", "image", "detail", "left"),
    "Is it a red car, or 2 blue cars?": ("red", "car", "2", "blue", "cars"),
    "Is it there?": (),
}


@dataclass(frozen=True)
class Options:
    """How the reference is asked for what `spec` asks mmhall for."""

    spec: str
    alpha: float
    saliency: Callable[[range], Sequence[int]]
    layers: Callable[[range], Sequence[int]]
    beta: float = 1.0
    words: str | dict[str, tuple[str, ...]] = "informative"


def named(value):
    """The text form of options, as a test's name."""
    return getattr(value, "spec", str(value))


ONCE = (
    Options("gift(saliency='0:2', layers='2:')", 5.0, lambda every: every[:2], lambda every: every[2:]),
    Options(
        "gift(alpha=2, beta=1.7, saliency='1', layers='2:', words='all')",
        2.0,
        lambda every: every[1:2],
        lambda every: every[2:],
        1.7,
        "all",
    ),
)
NAMED = Options(
    "gift(words=('Dog', 'left'), saliency='0:2', layers='2:')",
    5.0,
    lambda every: every[:2],
    lambda every: every[2:],
    words={REQUESTS[0].prompt: ("dog", "dog"), REQUESTS[1].prompt: ("left",)},
)
TWICE = (
    Options("gift(saliency='1', layers=':')", 5.0, lambda every: every[1:2], lambda every: every),
    Options(
        "gift(alpha=3, beta=0.5, saliency=':', layers='1:')", 3.0, lambda every: every, lambda every: every[1:], 0.5
    ),
)


def letters(text: str, start: int, stop: int) -> range:
    """Tokens of a part of a text, one a byte."""
    return range(len(text[:start].encode()), len(text[:stop].encode()))


def query_of(model: Slow, prompt: str, ids: Tensor) -> list[int]:
    """Find where a prompt stands; its tokens are there once."""
    own = model.adapter.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    row = ids.tolist()
    (start,) = [at for at in range(len(row)) if row[at : at + len(own)] == own]
    return list(range(start, start + len(own)))


def split_words(prompt: str, wanted: Sequence[str]) -> list[int]:
    """Tokens of the wanted words, in order of the prompt."""
    found, places = [], []
    for match in re.finditer(r"\w+", prompt):
        if match.group() in wanted:
            found.append(match.group())
            places += letters(prompt, *match.span())
    assert tuple(found) == tuple(wanted)
    return places


def best_half(masses: Sequence[float]) -> list[int]:
    return sorted(range(len(masses)), key=lambda head: -masses[head])[: len(masses) // 2]


def gaze_by_hand(maps: Sequence[Tensor], layers: Sequence[int], image: Sequence[int], words: Sequence[int]) -> Tensor:
    """The map of a picture, (image columns,), from whole attention maps, (H, row, column)."""
    total, count = torch.zeros(len(image)), 0
    for layer in layers:
        shifts = []
        for head in maps[layer]:
            rows = [(head[row] - head[row - 1])[image].clamp_min(0) for row in words]
            shifts.append(torch.stack(rows))
        for head in best_half([float(shift.sum()) for shift in shifts]):
            total += shifts[head].sum(dim=0)
            count += len(words)
    mean = total / count
    low, high = mean.mean() - 3 * mean.std(), mean.mean() + 3 * mean.std()
    clipped = mean.clamp(low, high)
    width = clipped.max() - clipped.min()
    return (clipped - clipped.min()) / width if width > 0 else torch.zeros(len(image))


def fused(row: Tensor, image: Sequence[int], query: Sequence[int], multipliers: Tensor, beta: float) -> Tensor:
    """Enhance one attention row, (H, column)."""
    looking = best_half(row[:, image].sum(dim=1).tolist())
    asking = best_half(row[:, query].sum(dim=1).tolist())
    before = sum(float(row[head, image].sum()) for head in looking)
    after = sum(float((row[head, image] * multipliers).sum()) for head in looking)
    growth = after / before if before > 0 else 1.0
    edited = row.clone()
    for head in looking:
        edited[head, image] *= multipliers
    for head in asking:
        edited[head, query] *= beta * growth
    return edited / edited.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Asked:
    """What the reference knows of one request."""

    inputs: object
    image: list[int]
    query: list[int]
    words: list[int]

    @property
    def last(self) -> int:
        return self.inputs["input_ids"].shape[1] - 1


def asked(model: Slow, request: Request, words: str | dict[str, tuple[str, ...]] = "informative") -> Asked:
    inputs = model.adapter.inputs([request])
    ids = inputs["input_ids"][0]
    image = (ids == model.adapter.image_token_id).nonzero()[:, 0].tolist()
    query = query_of(model, request.prompt, ids)
    named = INFORMATIVE if words == "informative" else words
    chosen = range(len(query)) if isinstance(named, str) else split_words(request.prompt, named[request.prompt])
    return Asked(inputs, image, query, [query[at] for at in chosen])


def gift(options: Options):
    """Scores of answers, as `check` wants them: a pass of its own edits rows from the last of the prompt on."""

    def of(model: Slow, request: Request):
        one = asked(model, request, options.words)
        saliency, layers = (
            [layer for layer in choose(range(len(model.adapter.kinds))) if layer in model.attending]
            for choose in (options.saliency, options.layers)
        )
        saliency = [layer for layer in saliency if layer not in shared(model)]
        gaze = gaze_by_hand(model.maps(one.inputs), saliency, one.image, one.words) if one.words else None

        def edit(layer: int, probs: Tensor) -> Tensor:
            if gaze is None or layer not in layers:
                return probs
            edited = probs.clone()
            for row in range(one.last, probs.shape[2]):
                changed = fused(probs[0, :, row], one.image, one.query, (options.alpha * gaze).exp(), options.beta)
                edited[0, :, row] = changed
            return edited

        @cache
        def after(answer: tuple[int, ...]) -> Tensor:
            return model.read(model.longer(one.inputs, answer), probs=edit)

        return lambda answer: after(tuple(answer))

    return of


def shared(model: Slow) -> list[int]:
    """Layers that are given no more of a prompt than its last row, as they reuse earlier keys."""
    count = getattr(model.adapter.decoder.config, "num_kv_shared_layers", 0)
    return list(range(len(model.adapter.kinds) - count, len(model.adapter.kinds)))


@pytest.mark.parametrize(("name", "options"), in_turn(SEEN, ONCE), ids=named)
def test_one_reading_says_what_two_complete_passes_say(name, options):
    check(slow(name), options.spec, gift(options))


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_named_words_count_alone_and_whatever_their_case(name):
    check(slow(name), NAMED.spec, gift(NAMED))


@pytest.mark.parametrize(
    "words",
    [(), ("",), ("red dog",), (3,), "some", ["dog", " "]],
    ids=["none", "empty", "two", "number", "text", "blank"],
)
def test_what_names_no_words_is_refused(words):
    with pytest.raises(OptionError, match='gift: words must be "informative", "all", or a tuple of single words'):
        mmhall.strategy("gift", words=words)


def test_words_that_a_question_lacks_are_refused():
    adapter = slow("llava").adapter
    method = mmhall.strategy("gift(words=('dog',))").fitted(adapter)
    with pytest.raises(OptionError, match="gift: words must be words of which the question holds at least one"):
        method.prepare(adapter, adapter.inputs(REQUESTS))
    bare = adapter_for(ZOO["llava"]()[0])
    with pytest.raises(ModelError, match="gift: words are found with the model's processor"):
        method.prepare(bare, dict(adapter.inputs(REQUESTS[:1])))
    bare.close()


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_span_counts_from_the_picture_and_from_the_end(name):
    """Told the places at which the question stands, it decodes as when it finds them."""
    model = slow(name)
    request = REQUESTS[0]
    one = asked(model, request)
    first, last = one.query[0] - one.image[-1], one.query[-1] - one.last - 1
    inputs = model.adapter.inputs([request])
    specs = [f"gift(words='all', layers=':', span={span!r})" for span in ("question", f"{first}:{last}")]
    answers = said(model.adapter, inputs, specs[0])
    usual, told = (scored(model.adapter, inputs, spec, answers) for spec in specs)
    assert torch.equal(usual, told)
    other = scored(model.adapter, inputs, f"gift(words='all', layers=':', span='{first + 3}:{last}')", answers)
    assert not torch.equal(usual, other)


def test_spans_are_checked():
    for span in ("3", "3:6", "0:-6", "-3:-6", "3:-0", "all"):
        with pytest.raises(OptionError, match='gift: span must be "question", or "a:b" such as "3:-6"'):
            mmhall.strategy("gift", span=span)
    adapter = slow("llava").adapter
    method = mmhall.strategy("gift(span='90:-1')").fitted(adapter)
    with pytest.raises(OptionError, match="gift: span must be within the tokens behind the picture, of which a prompt"):
        method.prepare(adapter, adapter.inputs(REQUESTS[:1]))


@pytest.mark.parametrize(("name", "options"), in_turn(SEEN, TWICE), ids=named)
def test_two_readings_say_what_two_complete_passes_say(name, options):
    check(slow(name), options.spec, gift(options))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "gemma4", "qwen3_5"])
def test_beams_and_draws_say_what_complete_passes_say(name):
    model, options = slow(name), ONCE[0]
    inputs = model.adapter.inputs(REQUESTS)
    each = [gift(options)(model, request) for request in REQUESTS]
    beams = said(model.adapter, inputs, options.spec, num_beams=3, num_return_sequences=2)
    assert beams == [answer for one in each for answer in searched(one, 3)[:2]]
    draws = said(model.adapter, inputs, options.spec, seed=7, do_sample=True)
    assert draws == [drawn(one, 7) for one in each]


def with_heads(heads: int, kv_heads: int) -> Slow:
    """LLaVA with another number of heads."""
    tokenizer = make_tokenizer(image_token="<image>")
    sizes = {"hidden_size": 16 * heads, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    text = llavas.LlamaConfig(**llavas.text_config(tokenizer, initializer_range=llavas.SPREAD, **sizes))
    config = llavas.LlavaConfig(
        vision_config=llavas.clip(),
        text_config=text,
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
    )
    processor = llavas.llava()[1]
    assert processor.tokenizer.get_vocab() == tokenizer.get_vocab()
    return Slow(llavas.build(llavas.LlavaForConditionalGeneration, config, tokenizer), processor)


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "kv_heads", "options"), [(3, 3, ONCE[0]), (5, 1, ONCE[1]), (6, 2, ONCE[0])])
def test_odd_numbers_of_heads_and_shared_keys(heads, kv_heads, options):
    check(with_heads(heads, kv_heads), options.spec, gift(options))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl", "gemma3"])
def test_several_pictures_share_one_map(name):
    images = (picture(40, 40, 4), picture(64, 32, 8))
    requests = [Request(REQUESTS[0].prompt, images), REQUESTS[1]]
    check(slow(name), ONCE[0].spec, gift(ONCE[0]), requests)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [1.0, 1.5])
def test_a_prompt_without_informative_words_is_left_alone_beside_one_with(beta):
    model, spec = slow("llava"), f"gift(beta={beta}, saliency='0:2', layers='2:')"
    plain = Request("Is it there?", REQUESTS[1].images)
    adapter = model.adapter
    options = Options(spec, 5.0, ONCE[0].saliency, ONCE[0].layers, beta)
    check(model, spec, gift(options), [REQUESTS[0], plain])
    single = adapter.inputs([plain])
    assert said(adapter, single, spec) == said(adapter, single, "greedy")
    assert said(adapter, single, f"gift(words='all', alpha=9, beta={beta})") != said(adapter, single, "greedy")


class Spy(Op):
    """Sees edited rows."""

    def __init__(self, layers):
        self.layers, self.seen = layers, []

    def rows(self, call):
        return call.newest

    def see(self, call, rows, probs):
        self.seen.append(probs)


@pytest.mark.parametrize("name", ["llava", "gemma3", "gemma4", "llama4", "paligemma"])
def test_rows_are_distributions_and_only_the_last_of_a_prompt_is_touched(name):
    model = slow(name)
    adapter = model.adapter
    inputs = adapter.inputs(REQUESTS)
    ops = mmhall.strategy(ONCE[1].spec).fitted(adapter).prepare(adapter, inputs).ops
    spy = Spy(frozenset(model.attending))
    logits = []
    for steer in ([], ops):
        with torch.inference_mode(), active(adapter.plan([*steer, spy])):
            logits.append(model.adapter.model(**inputs).logits)
    count = len(model.attending)
    plain, edited = spy.seen[:count], spy.seen[count:]
    assert any(not torch.equal(one, other) for one, other in zip(plain, edited, strict=True))
    for probs in edited:
        torch.testing.assert_close(probs.sum(dim=-1), torch.ones(probs.shape[:3]), rtol=0, atol=1e-5)
        assert (probs >= 0).all()
    if name != "paligemma":  # whose earlier positions read the last one in the layers after
        real = inputs["attention_mask"].bool()[:, :-1]
        assert torch.equal(logits[0][:, :-1][real], logits[1][:, :-1][real])
    assert not torch.allclose(logits[0][:, -1], logits[1][:, -1], atol=1e-3)


@pytest.mark.parametrize("alpha", [0.5, 5.0, 40.0])
def test_the_question_grows_as_the_picture_does(alpha):
    """What looking heads see grows by a factor from 1 to e^alpha; of the asking heads, the question grows alike."""
    model = slow("qwen2_vl")
    adapter = model.adapter
    for request in REQUESTS:
        one = asked(model, request)
        steering = mmhall.strategy(f"gift(alpha={alpha}, saliency='0:2', layers='2')").fitted(adapter)
        ops = steering.prepare(adapter, one.inputs).ops
        spy = Spy(frozenset({2}))
        for steer in ([], ops):
            with torch.inference_mode(), active(adapter.plan([*steer, spy])):
                adapter.model(**one.inputs)
        plain, edited = (probs[0, :, 0] for probs in spy.seen)
        rest = [at for at in range(plain.shape[1]) if at not in (*one.image, *one.query)]
        scale = plain[:, rest].sum(dim=1) / edited[:, rest].sum(dim=1)  # undoes the normalisation
        growth = (edited[:, one.query].sum(dim=1) * scale) / plain[:, one.query].sum(dim=1)
        grown = growth[growth > 1.0001]
        assert len(grown) == adapter.heads // 2
        torch.testing.assert_close(grown, grown[:1].expand_as(grown), rtol=1e-3, atol=0)
        assert 1 <= grown[0] <= math.exp(alpha)


@pytest.mark.parametrize("spec", ["gift(alpha=0, beta=1)", "gift(alpha=0, beta=1.0, words='all')", "gift"])
def test_neutral_strength_and_no_picture_are_plain_decoding(spec):
    adapter = slow("llava").adapter
    requests = [Request(request.prompt) for request in REQUESTS] if spec == "gift" else REQUESTS
    assert mmhall.strategy(spec).fitted(adapter).prepare(adapter, adapter.inputs(requests)).ops == ()


def test_vanishing_strength_vanishes():
    adapter = slow("llava").adapter
    inputs = adapter.inputs(REQUESTS)
    answers = said(adapter, inputs, "greedy")
    got, plain = (scored(adapter, inputs, spec, answers) for spec in ("gift(alpha=1e-7, layers='2:')", "greedy"))
    torch.testing.assert_close(got, plain, rtol=0, atol=1e-4)


def test_pictures_that_are_keys_of_their_own_layers_are_refused():
    with pytest.raises(CompositionError, match="gift: mllama cannot carry it"):
        mmhall.strategy("gift").fitted(slow("mllama").adapter)


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen3_5", "gemma4", "paligemma"])
def test_maps_lie_between_0_and_1(name):
    model = slow(name)
    adapter = model.adapter
    inputs = adapter.inputs(REQUESTS)
    gaze = mmhall.strategy(ONCE[0].spec).fitted(adapter).prepare(adapter, inputs).ops[0]
    assert (gaze.map() == 0).all()
    with torch.inference_mode(), active(adapter.plan([gaze])):
        adapter.model(**inputs)
    for row, request in zip(gaze.map(), REQUESTS, strict=True):
        one = asked(model, request)
        own = row[-one.last - 1 :][one.image]
        assert (own.min(), own.max()) == (0, 1)
        assert row.count_nonzero() == own.count_nonzero()
        saliency = [layer for layer in (0, 1) if layer in model.attending]
        wanted = gaze_by_hand(model.maps(one.inputs), saliency, one.image, one.words)
        torch.testing.assert_close(own, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_occurrence_of_an_informative_word_counts(name):
    model = slow(name)
    for prompt in INFORMATIVE:
        one = asked(model, Request(prompt, REQUESTS[0].images))
        query = model.adapter.query_mask(one.inputs)
        assert query[0].nonzero()[:, 0].tolist() == one.query, prompt
        assert mark_informative(model.adapter, one.inputs, query)[0].nonzero()[:, 0].tolist() == one.words, prompt


def test_layers_that_are_not_given_the_question_cannot_be_looked_at():
    """The last two of Gemma 4's four layers reuse earlier keys; a share of its depth means the nearest before them."""
    adapter = slow("gemma4").adapter
    inputs = adapter.inputs(REQUESTS[:1])
    with pytest.raises(OptionError, match="gift: saliency must be among layers of this model that attend so: 0:2"):
        said(adapter, inputs, "gift(saliency='3')")
    session = mmhall.strategy("gift(saliency='75%', layers='75%:')").fitted(adapter).prepare(adapter, inputs)
    assert session.ops[0].layers == {1}
