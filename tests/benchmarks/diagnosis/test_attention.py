"""Mechanisms in attention: made by hand, and equal to those of plain eager attention on real models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmhall.adapters import Request
from mmhall.analysis import HeadDivergence, read_answer, read_prompts
from mmhall.benchmarks.base import Item
from mmhall.benchmarks.diagnosis.figures import UnmeasuredError
from mmhall.benchmarks.diagnosis.gaze import GazeProbe, Look, gaze_figure
from mmhall.benchmarks.diagnosis.heads import head_figure
from mmhall.benchmarks.diagnosis.places import coverage
from mmhall.benchmarks.diagnosis.sinks import PictureSinks, SinkProbe, find_sinks, second_largest, sink_figures
from mmhall.benchmarks.diagnosis.stripes import Stripe, StripeProbe, find_stripe, stripe_figure
from mmhall.lvlm import LVLM
from mmhall.results.statistics import Resampler
from tests.attention.reference import Eager
from tests.zoo import built

PROMPT = "Please describe this image in detail."
QUESTION = "Is there a cup in the image?"


def test_sinks_are_at_most_one_token_of_twenty():
    attention = torch.arange(45.0)
    assert sorted(find_sinks(attention).tolist()) == [43, 44]
    assert len(find_sinks(attention[:20])) == 1


class Call:
    """Layer 2 of a model that reads 24 positions at once, the first of them of the prompt."""

    layer, offset, start, count, device = 2, 0, 0, 24, torch.device("cpu")


class Visit:
    start = 0

    def __init__(self, states):
        self.states = states


def test_sinks_made_by_hand():
    """Image tokens at 1 to 20; two rows, two heads. Token 4 gets (0.5 + 0.1 + 0.1 + 0.1) / 4 = 0.2, the others 0.01.

    The second answer has one token: only its first row counts, where token 4 gets (0.5 + 0.1) / 2 = 0.3. In dimension 1
    the sink's state is all there is, sqrt(2) in root mean squares; the others are even, 1.
    """
    image = torch.zeros(2, 22, dtype=torch.bool)
    image[:, 1:21] = True
    probs = torch.full((2, 2, 2, 24), 0.01)
    probs[:, :, :, 5] = torch.tensor([[0.5, 0.1], [0.1, 0.1]])
    states = torch.ones(2, 24, 2)
    states[:, 5] = torch.tensor([0.0, 3.0])
    probe = SinkProbe(image, [2, 1])
    probe.see_states(Visit(states))
    assert probe.rows(Call()).tolist() == [21, 22]
    probe.see(Call(), probe.rows(Call()), probs)
    for picture, on_sink in zip(probe.pictures, (0.2, 0.3), strict=True):
        assert picture.tokens == {2: (4,)}
        assert picture.on_sinks[2] == pytest.approx(on_sink)
        assert picture.on_image[2] == pytest.approx(on_sink + 19 * 0.01)
        assert picture.at_sinks[2] == pytest.approx(2**0.5, rel=1e-4)
        assert picture.at_others[2] == pytest.approx(1, rel=1e-4)
    assert probe.sums[2].argmax() == 1


def picture_sinks(shares, token):
    layers = range(len(shares))
    return PictureSinks(
        20,
        dict(zip(layers, shares, strict=True)),
        dict.fromkeys(layers, 1.0),
        dict.fromkeys(layers, (token,)),
        dict.fromkeys(layers, 8.0),
        dict.fromkeys(layers, 1.0),
    )


def test_a_model_has_the_sinks_of_its_second_layer():
    """Layers of 10, 30 and 20 %, over both pictures: the second-largest is 20 %."""
    pictures = [picture_sinks((0.1, 0.4, 0.2), 3), picture_sinks((0.1, 0.2, 0.2), 7)]
    share, activation = sink_figures(pictures, {2: torch.tensor([1.0, 5.0, 2.0])}, Resampler(["1", "2"]))
    assert share.shown == pytest.approx((20, 20, 20))
    assert {layer: e.value for layer, e in share.layers.items()} == pytest.approx({0: 0.1, 1: 0.3, 2: 0.2})
    assert "layer 2" in share.note
    assert "token 3 (50%), token 7 (50%)" in share.note
    assert activation.estimate.value == 8
    assert "dimension 1; 1.00 at other" in activation.note
    with pytest.raises(UnmeasuredError, match="fewer than two layers"):
        list(sink_figures([picture_sinks((0.1,), 0)], {}, Resampler(["1"])))


def test_second_largest_of_ratios():
    ratios = [np.array(part, float) for part in ([1, 1], [3, 9], [2, 5], [4, 1], [4, 10], [4, 10])]
    assert second_largest(*ratios).tolist() == [0.5, 0.9]


def test_a_stripe_made_by_hand():
    """Columns of means 0.1, 0.6, 0.2: the second one stands out by three."""
    weights = torch.tensor([[0.2, 0.5, 0.2], [0.0, 0.7, 0.2]])
    stripe = find_stripe(weights)
    assert (stripe.most, stripe.median, stripe.token) == (pytest.approx(0.6), pytest.approx(0.2), 1)
    figure = stripe_figure([stripe, None, Stripe(0.2, 0.2, 0)], [".", "", "."], Resampler(["1", "2", "3"]))
    assert figure.estimate.value == pytest.approx((0.6 + 0.2) / (0.2 + 0.2))
    assert "2 captions" in figure.note
    assert "'.' (100%)" in figure.note
    with pytest.raises(UnmeasuredError, match="no caption has 16 tokens"):
        stripe_figure([None], [""], Resampler(["1"]))


def test_variation_over_heads_made_by_hand():
    """Heads with 1, 2, 3 on average: deviation 0.816 over mean 2. The other layer's heads are equal: 0."""
    values = torch.tensor([[[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]])
    captions = [HeadDivergence(values, (0, 1)), HeadDivergence(torch.cat([values, 2 * values]), (0, 1))]
    figure = head_figure(captions, Resampler(["1", "2"]))
    assert figure.layers[0].value == pytest.approx((2 / 3) ** 0.5 / 2)
    assert figure.layers[1].value == pytest.approx(0)
    assert figure.estimate.value == pytest.approx((2 / 3) ** 0.5 / 4)
    with pytest.raises(UnmeasuredError):
        head_figure([HeadDivergence(values[:, :, :1], (0, 1))], Resampler(["1"]))


def test_patches_under_boxes():
    """Two patches side by side: a box over the left quarter covers half of one; two over both cover each once."""
    edges = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [torch.nan] * 4])
    assert coverage(edges, [(0.0, 0.0, 0.25, 1.0)])[:2].tolist() == [0.5, 0]
    assert coverage(edges, [(0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.1, 0.1)])[:2].tolist() == [1, 1]
    assert coverage(edges, [(0.0, 0.0, 1.0, 1.0)])[2].isnan()


def test_gaze_is_the_best_of_the_middle_layers():
    """Of eight layers 2 to 5 are in the middle. Layer 3: 0.4 + 0.2 of attention on 0.1 + 0.2 of the picture: 2."""
    shares = {0: (0.9, 0.9), 2: (0.1, 0.2), 3: (0.4, 0.2), 7: (0.9, 0.9)}
    looks = [
        Look(Item(name, name, "", ()), expected, {layer: share[n] for layer, share in shares.items()})
        for n, (name, expected) in enumerate((("1", 0.1), ("2", 0.2)))
    ]
    figure = gaze_figure(looks, 8)
    assert figure.estimate.value == pytest.approx(2)
    assert figure.layers[7].value == pytest.approx(6)
    assert figure.note.startswith("layer 3, the best of layers 2 to 3")
    with pytest.raises(UnmeasuredError, match="no layer in the middle"):
        gaze_figure([Look(looks[0].item, 0.1, {0: 0.1, 7: 0.2})], 8)


@pytest.mark.parametrize("name", ["embedded", "qwen2_5_vl"])
def test_probes_read_what_eager_attention_computes(name, pictures, request):
    """Two prompts about pictures, with answers of 20 and 17 tokens, in one padded batch."""
    lvlm = request.getfixturevalue("embedded") if name == "embedded" else LVLM(*built(name))
    adapter, eager = lvlm.adapter, Eager(lvlm.adapter)
    inputs = adapter.inputs([Request(PROMPT, (pictures[0],)), Request(QUESTION, (pictures[1],))])
    image, lengths = adapter.image_mask(inputs["input_ids"]), [20, 17]
    answers = torch.arange(5, 25).repeat(2, 1)
    prompt = image.shape[1]
    whole = adapter.append_answer(inputs, answers)
    stripes = StripeProbe(adapter, prompt, lengths)
    sinks = SinkProbe(image, lengths)
    with torch.inference_mode():
        read_answer(adapter, whole, 20, [stripes, sinks])
    eager.logits(whole)
    for layer, (weights,) in enumerate(eager.maps):
        for row, length in enumerate(lengths):
            own = weights[row, :, prompt - 1 : prompt - 1 + length].mean(dim=(0, 1))[:prompt][image[row]]
            top = own.topk(len(own) // 20)
            assert sinks.pictures[row].tokens[layer] == tuple(sorted(top.indices.tolist()))
            assert sinks.pictures[row].on_sinks[layer] == pytest.approx(float(top.values.sum()), rel=1e-3)
            assert sinks.pictures[row].on_image[layer] == pytest.approx(float(own.sum()), rel=1e-3)
    for row, length in enumerate(lengths):
        most = eager.maps[-1][0][row].amax(dim=0)
        most = most / most.sum(dim=1, keepdim=True)
        half = length // 2
        block = most[prompt - 1 + half : prompt - 1 + length, prompt : prompt + half].mean(dim=0)
        assert stripes.stripes[row].token == int(block.argmax())
        assert stripes.stripes[row].most == pytest.approx(float(block.max()), rel=1e-3)
        assert stripes.stripes[row].median == pytest.approx(float(np.median(block.numpy())), rel=1e-3)


def test_gaze_reads_the_row_of_each_prompt(embedded, pictures):
    adapter, eager = embedded.adapter, Eager(embedded.adapter)
    inputs = adapter.inputs([Request(PROMPT, (pictures[0],)), Request(QUESTION, (pictures[1],))])
    image, rows = adapter.image_mask(inputs["input_ids"]), torch.tensor([70, 75])
    probe = GazeProbe(image, rows)
    with torch.inference_mode():
        read_prompts(adapter, inputs, [probe])
    eager.logits(inputs)
    for layer, (weights,) in enumerate(eager.maps):
        for number, row in enumerate(rows.tolist()):
            wanted = weights[number, :, row][:, image[number]].mean(dim=0)
            torch.testing.assert_close(probe.attention[layer][number], wanted, rtol=1e-3, atol=1e-6)
