"""Debiased pruning against its formula written out; its trend, its padding, what it saves, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

import mmhall
from mmhall.adapters import Batch, Request
from mmhall.adapters._grid import PixelOrigins, raster
from mmhall.benchmarks.timing.model import IMAGE_TOKENS, Size, random_adapter, timed_request
from mmhall.decoders import debiased_pruning
from mmhall.decoders.debiased_pruning import debiased, fit_trend, numbered, shown_shares
from mmhall.errors import CompositionError, FitError, ModelError, OptionError
from mmhall.generation._settings import Settings
from mmhall.strategies import Session, keep_highest
from tests.decoders.fitted import fitted_artifact
from tests.decoders.rows import UNSEEN, check, check_candidates, check_half, family
from tests.generation.reference import QUIET, REQUESTS, ours
from tests.jobs import opened

pytestmark = QUIET


@pytest.fixture(autouse=True)
def unfitted(monkeypatch):
    """The shared model without the trend that other tests have fitted to it."""
    adapter = ours("llava")
    others = {name: found for name, found in adapter.artifacts.items() if name != "debiased-pruning"}
    monkeypatch.setattr(adapter, "artifacts", others)


def test_the_trend_changes_the_order():
    """Scores 0.1, 0.2, 0.3, 0.4 over exp(0.5 j): 0.1, 0.1213, 0.1104, 0.0893, so that 1, 2, 0, 3 replace 3, 2, 1, 0."""
    attended, image = torch.tensor([[9.0, 0.1, 0.2, 0.3, 0.4, 9.0]]), torch.tensor([[False, *[True] * 4, False]])
    scores = debiased(attended, torch.tensor([[0, 0, 0.5, 1, 1.5, 0]]))
    torch.testing.assert_close(scores[0, 1:5], torch.tensor([0.1, 0.1213, 0.1104, 0.0893]), rtol=0, atol=5e-5)
    assert keep_highest(scores, image, torch.tensor([2])).tolist() == [[False, False, True, True, False, False]]
    assert keep_highest(attended, image, torch.tensor([2])).tolist() == [[False, False, False, True, True, False]]
    padded = torch.tensor([[False, False, False, False, True, False]])
    assert torch.equal(keep_highest(scores, padded, torch.tensor([2])), padded)


def test_the_trend_is_fitted_by_least_squares():
    """Of 0.1 exp(0.5 j): slope 0.5, intercept log 0.1; of log means 0, 1, 0: slope 0, which explains nothing."""
    sums = 3 * 0.1 * torch.exp(0.5 * torch.arange(4, dtype=torch.float64))
    found = fit_trend(sums, torch.tensor([3, 3, 3, 3]))
    assert found == pytest.approx({"trend": 0.5, "intercept": math.log(0.1), "explained": 1.0})
    sums[1] = 77.0
    assert fit_trend(sums, torch.tensor([3, 0, 3, 3])) == pytest.approx(found)
    flat = fit_trend(torch.tensor([1.0, math.e, 1.0]).double(), torch.ones(3))
    assert flat == pytest.approx({"trend": 0.0, "intercept": 1 / 3, "explained": 0.0})
    for sums, counts in (([1.0], [1]), ([1.0, 0.0], [1, 1])):
        with pytest.raises(FitError, match="at least two image tokens, all of which"):
            fit_trend(torch.tensor(sums).double(), torch.tensor(counts))


def test_a_patch_counts_where_at_most_half_of_it_is_padding():
    """Patches have 4 pixel rows. With 3 rows of padding above and below, the outer ones show 1 of 4; with 1, 3 of 4."""
    for above, below, wanted in ((3, 3, [0.25, 1, 1, 0.25]), (1, 3, [0.75, 1, 1, 0.25]), (4, 4, [0, 1, 1, 0])):
        height = 16 - above - below
        x = ((torch.arange(16) + 0.5) / 16).expand(16, 16).clone()
        y = ((torch.arange(16) - above + 0.5) / height)[:, None].expand(16, 16).clone()
        outside = (torch.arange(16) < above) | (torch.arange(16) >= 16 - below)
        x[outside], y[outside] = torch.nan, torch.nan
        picture = torch.zeros(16, 16).masked_fill(outside[:, None], torch.nan)
        boxes = raster(PixelOrigins(x[None], y[None], picture[None]), 4)
        shares = shown_shares(boxes.edges, boxes.image.nan_to_num(0), boxes.view).view(4, 4)
        torch.testing.assert_close(shares, torch.tensor(wanted)[:, None].expand(4, 4).float(), rtol=0, atol=1e-5)


def test_the_trend_begins_anew_with_each_picture(monkeypatch):
    """Of two pictures with the same attention, as many tokens are kept of each."""
    adapter = ours("llava")
    both = Request("Are they alike?", REQUESTS[0].images * 2)
    inputs = adapter.inputs([both, REQUESTS[1]])
    image = adapter.image_mask(inputs["input_ids"])
    numbers = numbered(adapter, inputs)
    assert numbers[0, image[0]].tolist() == [*range(16), *range(16)]
    assert numbers[1, image[1]].tolist() == [*range(16)]
    assert not numbers[~image].any()
    assert numbered(adapter, dict(inputs))[0, image[0]].tolist() == [*range(32)]

    def even(op, call, rows, probs):
        see(op, call, rows, torch.full_like(probs, 0.1))

    see = debiased_pruning._Ranking.see
    monkeypatch.setattr(debiased_pruning._Ranking, "see", even)
    method = mmhall.strategy("debiased-pruning(keep=0.25, layer='0', trend=0.05)").fitted(adapter)
    session = method.prepare(adapter, inputs)
    with torch.inference_mode():
        opened(adapter, inputs, session, Settings(max_new_tokens=3).resolved(adapter.generator))
    kept = session.findings(3)["image tokens kept"]
    assert kept[:16].tolist() == kept[16:].tolist() == 4 * [1.0] + 12 * [0.0]


class Pruned:
    """Edits of an eager pass: behind a layer no row sees image columns other than those that the prompt's end ranks."""

    def __init__(self, layer, keep, trend):
        self.layer, self.keep, self.trend = layer, keep, trend

    def probs(self, reader, layer, probs):
        if layer == self.layer:
            mean = probs[0, :, reader.length - 1].mean(dim=0)
            ranked = sorted(
                range(len(reader.image)), key=lambda j: -float(mean[reader.image[j]]) * math.exp(-self.trend * j)
            )
            self.gone = [reader.image[j] for j in ranked[round(self.keep * len(reader.image)) :]]
        return probs

    def scores(self, reader, layer, scores):
        return scores if layer <= self.layer else scores.index_fill(3, torch.tensor(self.gone), UNSEEN)


@pytest.mark.parametrize(("name", "layer"), [("llava", 0), ("qwen2_5_vl", 0), ("gemma3", 1), ("instructblip", 0)])
def test_a_batch_is_the_formula_of_each_prompt(name, layer):
    def reference(adapter, reader, request, answer):
        edits = Pruned(layer, 0.2, 0.1)
        logits = reader.logits(adapter.inputs([request]), answer[:-1], probs=edits.probs, scores=edits.scores)
        return logits.log_softmax(-1)

    check(name, f"debiased-pruning(keep=0.2, layer='{layer}', trend=0.1)", reference)


def held_bytes(rows):
    """Bytes of keys and values."""
    layers = [layer for state, _ in rows.parts for layer in state.cache.layers]
    return sum(part.nbytes for layer in layers for part in (layer.keys, layer.values))


def test_a_quarter_of_576_image_tokens_needs_two_fifths_of_the_memory_at_most():
    """Of 8 layers, one holds all of the prompt's tokens, and seven 144 image tokens; each step adds one to all."""
    adapter = random_adapter(Size(8, 64, torch.float32), "cpu")
    inputs, sizes = timed_request(adapter), []
    length, config = inputs["input_ids"].shape[1], Settings(max_new_tokens=3).resolved(adapter.generator)
    for spec in ("greedy", "debiased-pruning(keep=0.25, padding=False)"):
        session = mmhall.strategy(spec).fitted(adapter).prepare(adapter, inputs)
        with torch.inference_mode():
            _, rows = opened(adapter, inputs, session, config)
            rows.step(torch.tensor([7]))
        sizes.append(held_bytes(rows))
    kept = length - IMAGE_TOKENS * 3 // 4 + 1
    assert sizes[0] == 8 * (length + 1) * 64 * 2 * 4
    assert sizes[1] == (length + 1 + 7 * kept) * 64 * 2 * 4
    assert sizes[1] <= 0.4 * sizes[0]
    adapter.close()


def test_what_is_kept_is_found_and_a_twin_keeps_as_many_others():
    adapter = ours("llava")
    inputs, config = adapter.inputs(REQUESTS[:1]), Settings(max_new_tokens=3).resolved(adapter.generator)
    kept = []
    for twin in (0, 1, 2):
        session = mmhall.strategy("debiased-pruning", keep=0.25, layer="0", twin=twin).fitted(adapter)
        session = session.prepare(adapter, inputs)
        assert session.findings(3) == {}
        with torch.inference_mode():
            _, rows = opened(adapter, inputs, session, config)
        found = session.findings(3)
        kept.append(found["image tokens kept"].tolist())
        assert found["share of image tokens kept"].tolist() == [[1.0], [0.25], [0.25]]
        missing = inputs["input_ids"].shape[1] - rows.parts[0][0].cache.layers[1].keys.shape[2]
        assert missing == 12 == kept[-1].count(0.0)
    assert len({tuple(one) for one in kept}) == 3


def test_padding_is_not_kept(monkeypatch):
    """A picture's upper half is padding here, which random attention would not avoid."""
    adapter = ours("llava")
    inputs, image = adapter.inputs(REQUESTS[:1]), adapter.image_mask(adapter.inputs(REQUESTS[:1])["input_ids"])
    assert torch.equal(debiased_pruning.unpadded(adapter, inputs), image)
    boxes = adapter.boxes(REQUESTS[0], inputs, 16)
    boxes.edges[:8] = torch.nan
    monkeypatch.setattr(type(adapter), "boxes", lambda *_: boxes)
    for keep, count in ((0.25, 4), (0.75, 8)):
        session = mmhall.strategy("debiased-pruning", keep=keep, layer="0").fitted(adapter).prepare(adapter, inputs)
        with torch.inference_mode():
            opened(adapter, inputs, session, Settings(max_new_tokens=3).resolved(adapter.generator))
        found = session.findings(3)["image tokens kept"]
        assert found[:8].sum() == 0
        assert found.sum() == count
    boxes.edges[:] = torch.nan
    assert torch.equal(debiased_pruning.unpadded(adapter, inputs), image)
    with pytest.raises(ModelError, match="or set padding=False"):
        mmhall.strategy("debiased-pruning").fitted(adapter).prepare(adapter, dict(inputs))


def test_the_trend_is_that_of_the_fit_if_there_is_one(monkeypatch):
    adapter, _ = family("llava")
    plain = mmhall.strategy("debiased-pruning").fitted(adapter)
    assert (plain.trend, plain.artifact) == (0.0, None)
    assert mmhall.strategy("debiased-pruning").origins(adapter)["trend"].startswith("not tuned for this model")
    artifact = fitted_artifact(adapter, "debiased-pruning")
    trend = artifact.facts["numbers"]["trend"]
    assert trend != 0
    monkeypatch.setattr(adapter, "artifacts", {"debiased-pruning": artifact})
    fitted = mmhall.strategy("debiased-pruning").fitted(adapter)
    assert (fitted.trend, fitted.artifact) == (trend, artifact.digest)
    assert mmhall.strategy("debiased-pruning").origins(adapter)["trend"] == "chosen by the fit of its artifact"
    by_hand = mmhall.strategy("debiased-pruning(trend=0.0)").fitted(adapter)
    assert (by_hand.trend, by_hand.artifact) == (0.0, None)


def test_what_cannot_be_carried_is_refused():
    for name, reason in (
        ("mllama", "there are no image tokens to drop"),
        ("qwen3_5", "tokens cannot be dropped from layer"),
        ("gemma4", "reads the keys of an earlier layer"),
        ("llama4", "no layer stands behind the one"),
    ):
        with pytest.raises(CompositionError, match=reason):
            mmhall.strategy("debiased-pruning").fitted(ours(name))
    adapter = ours("llava")
    for layer in ("2", "0, 1"):
        with pytest.raises(OptionError, match="layer must be one layer of this model that has a layer behind it"):
            mmhall.strategy("debiased-pruning", layer=layer).fitted(adapter).prepare(adapter, adapter.inputs(REQUESTS))
    with pytest.raises(OptionError, match="keep must be above 0, at most 1"):
        mmhall.strategy("debiased-pruning(keep=0.0)")
    with pytest.raises(OptionError, match="trend must be left out"):
        mmhall.strategy("debiased-pruning(trend=0.1)").for_fit()
    assert isinstance(adapter.inputs(REQUESTS), Batch)
    assert mmhall.strategy("debiased-pruning(keep=1)").fitted(adapter).prepare(adapter, {}) == Session()


def test_half_precision_and_searches():
    check_half("debiased-pruning(keep=0.2, layer='0')", "debiased-pruning(keep=1)")
    check_candidates("debiased-pruning(keep=0.2, layer='0')")
