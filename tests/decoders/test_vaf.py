"""VAF against its formula written out, in every family; scaled scores as scaled keys; what it leaves alone."""

from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall._transformers.calls import CACHE
from mmhall.adapters._base import Request
from mmhall.attention import Op, active
from mmhall.errors import OptionError
from tests.attention.reference import planned
from tests.decoders.rows import IN_SEQUENCE, check, vaf
from tests.generation.reference import QUIET, in_turn

pytestmark = QUIET

EVERY = {0, 1, 2, 3}
VARIANTS = {
    "authors": ("layers='1:', alpha=0.15, beta=0.05", {"layers": EVERY - {0}, "alpha": 0.15, "beta": 0.05}),
    "strong": ("layers=':', alpha=1.5, beta=1", {"layers": EVERY, "alpha": 1.5, "beta": 1.0}),
    "visual": ("layers=':', heads='visual', alpha=0.6", {"layers": EVERY, "alpha": 0.6, "heads": "visual"}),
}


@pytest.mark.parametrize(("name", "variant"), in_turn(IN_SEQUENCE, tuple(VARIANTS)))
def test_a_batch_is_the_formula_of_each_prompt(name, variant):
    given, options = VARIANTS[variant]

    def reference(adapter, reader, request, answer):
        def edit(reader, layer, scores):
            return vaf(reader, layer, scores, **options)

        return reader.logits(adapter.inputs([request]), answer[:-1], scores=edit).log_softmax(-1)

    check(name, f"vaf({given})", reference)


LAYER = 1


class Noted(Op):
    """Notes a layer's queries, keys, scores and weights of every row."""

    writes, layers = True, frozenset({LAYER})

    def rows(self, call):
        return torch.arange(call.query.shape[2])

    def edit_scores(self, call, rows, scores):
        self.call, self.scores = call, scores.clone()
        return scores

    def see(self, call, rows, probs):
        self.probs = probs


@pytest.fixture
def inputs(llava, pictures):
    prompts = ("Is there a dog in the image?", "Please describe this image in detail. What is on the left?")
    return llava.adapter.inputs([Request(p, (image,)) for p, image in zip(prompts, pictures, strict=False)])


def ops(llava, inputs, **options):
    made = mmhall.strategy("vaf", **{"layers": str(LAYER), "alpha": 0.6, "beta": 0.3, **options})
    return made.fitted(llava.adapter).prepare(llava.adapter, inputs).ops


def noted(llava, inputs, **options):
    before, after = Noted(), Noted()
    planned(llava, inputs, before, *ops(llava, inputs, **options), after)
    return before, after


def spans(llava, inputs):
    """Columns of the picture and before it, and rows behind it, (B, T) each."""
    image = inputs["input_ids"] == llava.adapter.image_token_id
    at = torch.arange(image.shape[1])
    ends = [(row.nonzero().min(), row.nonzero().max()) for row in image]
    before = torch.stack([at < first for first, _ in ends]) & inputs["attention_mask"].bool()
    return image, before, torch.stack([at > last for _, last in ends])


def gains(llava, inputs, alpha=0.6, beta=0.3):
    image, before, behind = spans(llava, inputs)
    gain = 1 + alpha * image.float() - beta * before.float()
    return torch.where(behind[:, None, :, None], gain[:, None, None], 1.0)


def test_scores_are_multiplied_in_rows_behind_the_picture(llava, inputs):
    """Negative ones too: such a column loses weight."""
    before, after = noted(llava, inputs)
    image, earlier, behind = spans(llava, inputs)
    assert earlier.any(1).all()
    seen = before.scores > -1e30
    torch.testing.assert_close(after.scores[seen], (before.scores * gains(llava, inputs))[seen], rtol=1e-5, atol=1e-6)
    assert torch.equal(after.scores > -1e30, seen)
    negative = (before.scores < -0.1) & image[:, None, None] & behind[:, None, :, None]
    assert negative.any()
    assert (after.scores[negative] < before.scores[negative]).all()
    for columns in (image, earlier):
        assert (after.scores != before.scores)[
            (columns[:, None, None] & behind[:, None, :, None]).expand_as(seen)
        ].any()


def test_scaled_keys_for_these_rows_are_the_same(llava, inputs):
    _, after = noted(llava, inputs)
    call, groups = after.call, llava.adapter.heads // after.call.key.shape[1]
    keys = call.key.repeat_interleave(groups, 1)
    own = call.query @ keys.transpose(-1, -2) * call.scaling
    for prompt, gain in enumerate(gains(llava, inputs)[:, 0, -1]):  # the last row stands behind every picture
        scaled = call.query[prompt] @ (keys[prompt] * gain[:, None]).transpose(-1, -2) * call.scaling
        behind = spans(llava, inputs)[2][prompt]
        scores = torch.where(behind[None, :, None], scaled, own[prompt])
        wanted = torch.where(call.mask[prompt], scores, -torch.inf).softmax(-1)
        real = inputs["attention_mask"][prompt].bool()
        torch.testing.assert_close(after.probs[prompt][:, real], wanted[:, real], rtol=0, atol=1e-5)


def test_cached_keys_are_not_scaled(llava, inputs):
    """Neither by the prompt nor by a step: up to the layer they are the plain model's, bit for bit."""
    held = []
    for asked in ((), ops(llava, inputs, alpha=3.0)):
        with torch.no_grad(), active(llava.adapter.plan(asked)):
            cache = llava.model(**inputs, use_cache=True)[CACHE]
            mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
            step = {"input_ids": torch.tensor([[9], [11]]), "position_ids": mask.sum(1, keepdim=True) - 1}
            llava.model(**step, attention_mask=mask, **{CACHE: cache})
        held.append(cache.layers)
    _, _, behind = spans(llava, inputs)
    for index, (plain, steered) in enumerate(zip(*held, strict=True)):
        assert plain.keys.shape[2] == inputs["input_ids"].shape[1] + 1
        if index <= LAYER:
            assert torch.equal(plain.keys, steered.keys)
            assert torch.equal(plain.values, steered.values)
        else:
            earlier = (~behind & inputs["attention_mask"].bool())[:, None, :, None]
            old, new = (part.keys[:, :, :-1] for part in (plain, steered))
            torch.testing.assert_close(new[earlier.expand_as(new)], old[earlier.expand_as(old)], rtol=0, atol=1e-5)
            assert (old - new).abs().max() > 1e-2


def test_rows_before_and_in_the_picture_are_left_alone(llava, inputs):
    _, _, behind = spans(llava, inputs)
    plain = planned(llava, inputs)
    steered = planned(llava, inputs, *ops(llava, inputs, layers=":"))
    rest = ~behind & inputs["attention_mask"].bool()
    assert rest.any(1).all()
    torch.testing.assert_close(steered[rest], plain[rest], rtol=0, atol=1e-5)
    assert (steered[behind] - plain[behind]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("kind", ["all", "visual"])
def test_half_of_the_heads_may_be_left_alone_in_each_row(llava, inputs, kind):
    before, after = noted(llava, inputs, heads=kind, beta=0.0)
    image, _, behind = spans(llava, inputs)
    moved = (before.scores != after.scores).any(-1).transpose(1, 2)[behind]  # (rows, H)
    plain = Noted()
    planned(llava, inputs, plain)
    share = (plain.probs * image[:, None, None]).sum(-1).transpose(1, 2)[behind]
    if kind == "all":
        assert moved.all()
        return
    assert (moved.sum(1) == 2).all()
    assert torch.equal(moved, share >= share.sort(dim=1).values[:, -2:-1])
    assert len({tuple(row) for row in moved.tolist()}) > 1


def test_nothing_to_do_is_nothing_asked(llava, inputs):
    assert list(ops(llava, inputs, alpha=0, beta=0)) == []
    assert ops(llava, inputs, alpha=0)
    assert ops(llava, inputs, beta=0)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("alpha", -0.1, "a number >= 0"),
        ("beta", 1.5, r"a number in \[0, 1\]"),
        ("heads", "half", '"all" or "visual"'),
        ("heads", None, '"all" or "visual"'),
        ("layers", "", 'layers such as "1, 18:32"'),
    ],
)
def test_what_it_cannot_do_is_refused(option, value, expected):
    with pytest.raises(OptionError, match=f"^vaf: {option} must be {expected}"):
        mmhall.strategy("vaf", **{option: value})
