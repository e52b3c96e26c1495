from __future__ import annotations

import pytest
import torch

from mmhall.adapters._base import Request
from mmhall.adapters._pixels import pixel_rows
from mmhall.strategies._noise import add_noise, alpha_bars, mix
from tests.generation.reference import FAMILIES, QUIET, REQUESTS, ours, picture

pytestmark = QUIET

REPEATED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")


@pytest.mark.parametrize(
    ("step", "left", "signal", "noise"),
    [(0, 0.999978, None, None), (500, 0.7448, 0.8630, 0.5052), (999, 0.0813, 0.285, 0.9585)],
)
def test_the_schedule_has_the_papers_values(step, left, signal, noise):
    bar = alpha_bars()[step].item()
    assert bar == pytest.approx(left, abs=1e-6 if step == 0 else 1e-4)
    if signal is not None:
        assert bar**0.5 == pytest.approx(signal, abs=2e-4)
        assert (1 - bar) ** 0.5 == pytest.approx(noise, abs=2e-4)


def test_the_schedule_equals_a_slow_product():
    """1 - a_2 by hand: three factors 1 - b_i with b_i = sigmoid(u_i) (0.005 - 0.00001) + 0.00001."""
    product = 1.0
    for i in range(3):
        u = -6 + 12 * i / 999
        product *= 1 - ((5e-3 - 1e-5) / (1 + 2.718281828459045**-u) + 1e-5)
    assert alpha_bars()[2].item() == pytest.approx(product, abs=1e-12)


def test_mixed_pixels_are_those_computed_by_hand():
    """At 500: 0.8630 x 2 + 0.5052 x (-1) = 1.2208; nothing is clipped: 0.8630 x 3 + 0.5052 x 3 = 4.1046."""
    mixed = mix(torch.tensor([2.0, 3.0]), torch.tensor([-1.0, 3.0]), 500)
    torch.testing.assert_close(mixed, torch.tensor([1.2208, 4.1046]), rtol=0, atol=1e-3)


def test_mixing_keeps_dtype_and_shape():
    mixed = mix(torch.ones(2, 3, 4, dtype=torch.bfloat16), torch.ones(2, 3, 4), 500)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), torch.full((2, 3, 4), 0.8630 + 0.5052), rtol=0, atol=0.01)


def noise_of(adapter, requests, seed=0, step=999, draw="picture"):
    """Take the noise out of each request's noised pixels again."""
    kept = alpha_bars()[step].item()
    taken = []
    for request in requests:
        inputs = adapter.inputs([request])
        changed = add_noise(adapter, inputs, step, seed, draw)
        taken.append((changed["pixel_values"] - kept**0.5 * inputs["pixel_values"]) / (1 - kept) ** 0.5)
    return taken


@pytest.mark.parametrize("name", FAMILIES)
def test_noise_is_standard_normal_and_follows_from_the_seed(name):
    adapter = ours(name)
    (first,), (again,), (other,) = (noise_of(adapter, REQUESTS[:1], seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.5
    assert first.mean().item() == pytest.approx(0, abs=0.1)
    assert first.std().item() == pytest.approx(1, abs=0.1)
    (weak,) = noise_of(adapter, REQUESTS[:1], 1, step=500)
    torch.testing.assert_close(weak, first, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_request_gets_its_noise_wherever_it_stands_in_a_batch(name):
    adapter = ours(name)
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        requests = [REQUESTS[index] for index in order]
        batch = add_noise(adapter, adapter.inputs(requests), 500, 3)
        alone = adapter.stack([add_noise(adapter, adapter.inputs([request]), 500, 3) for request in requests])
        assert batch.keys() == alone.keys()
        assert all(torch.equal(batch[key], alone[key]) for key in batch)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "mllama"])
def test_pictures_get_independent_noises_unless_the_seed_alone_decides(name):
    adapter, requests = ours(name), [Request("What?", (picture(40, 40, cells),)) for cells in (4, 8)]
    one, other = noise_of(adapter, requests)
    seen = torch.stack([one.flatten(), other.flatten()])
    assert abs(torch.corrcoef(seen)[0, 1]) < 0.05
    asked_otherwise = Request("What is this?", requests[0].images)
    assert torch.equal(noise_of(adapter, [asked_otherwise])[0], one)
    one, other = noise_of(adapter, requests, draw="seed")
    torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_noise_is_the_same_in_float32_and_bfloat16(monkeypatch):
    """Of one picture; a GPU gets the CPU's pixels and its draws."""
    adapter, drawn = ours("llava"), []

    def draw(pixels, generator):
        drawn.append(torch.randn(pixels.shape, generator=generator))
        return drawn[-1]

    monkeypatch.setattr(adapter, "image_noise", draw)
    inputs = adapter.inputs(REQUESTS[:1])
    add_noise(adapter, inputs, 999, 0)
    halved = {**inputs, "pixel_values": inputs["pixel_values"].bfloat16()}
    add_noise(adapter, halved, 999, 0)
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "mllama"])
def test_inputs_made_elsewhere_get_the_noise_of_each_prompt(name):
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:3])
    made, elsewhere = (add_noise(adapter, batch, 500, 3) for batch in (inputs, dict(inputs)))
    assert torch.equal(made["pixel_values"], elsewhere["pixel_values"])


def test_rows_of_pixels_belong_to_prompts_by_their_image_tokens():
    """2 and 6 tokens of 4 patches each; 2 pictures and 1 of 3 tokens each; 5 rows of 3 tokens: unknown."""
    marks = torch.arange(8) < torch.tensor([[2], [6]])
    assert pixel_rows(32, marks) == [8, 24]
    assert pixel_rows(3, torch.arange(8) < torch.tensor([[6], [3]])) == [2, 1]
    assert pixel_rows(2, marks) == [1, 1]
    assert pixel_rows(5, torch.arange(8) < torch.tensor([[1], [2]])) == [5]


@pytest.mark.parametrize("name", REPEATED)
def test_copies_of_a_still_picture_in_one_patch_get_the_same_noise(name):
    """Patches are (channel, time, row, column); both points in time show the same picture, noised or not."""
    adapter = ours(name)
    inputs = adapter.inputs(REQUESTS[:1])
    for batch in (inputs, add_noise(adapter, inputs, 500, 0)):
        early, late = batch["pixel_values"].view(-1, 3, 2, 8, 8).unbind(dim=2)
        assert torch.equal(early, late)
    (noise,) = noise_of(adapter, REQUESTS[:1])
    red, green, blue = noise.view(-1, 3, 2, 8, 8)[:, :, 0].unbind(dim=1)
    for one, other in ((red, green), (green, blue), (red[:-1], red[1:])):
        assert (one - other).abs().mean() > 0.5


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    add_noise(ours("llava"), ours("llava").inputs(REQUESTS[:1]), 10, 0)
    torch.testing.assert_close(torch.rand(1), wanted)


def test_prompts_share_pixels_only_if_every_share_is_whole():
    """6 rows for 1, 1 and 2 of 4 image tokens would be 1.5, 1.5 and 3."""
    assert pixel_rows(6, torch.arange(8) < torch.tensor([[1], [1], [2]])) == [6]
