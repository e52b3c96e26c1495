from __future__ import annotations

import pytest
import torch

import mmhall
from mmhall.decoders.vcd import add_noise, alpha_bars
from mmhall.errors import OptionError


@pytest.mark.parametrize(
    ("step", "left", "signal", "noise"),
    [(0, 0.999978, None, None), (500, 0.7448, 0.8630, 0.5052), (999, 0.0813, 0.285, 0.9585)],
)
def test_noise_schedule_has_the_papers_values(step, left, signal, noise):
    bar = alpha_bars()[step].item()
    assert bar == pytest.approx(left, abs=1e-6 if step == 0 else 1e-4)
    if signal is not None:
        assert bar**0.5 == pytest.approx(signal, abs=2e-4)
        assert (1 - bar) ** 0.5 == pytest.approx(noise, abs=2e-4)


def test_schedule_equals_a_slow_product():
    """1 - a_2 by hand: three factors 1 - b_i with b_i = sigmoid(u_i) (0.005 - 0.00001) + 0.00001."""
    product = 1.0
    for i in range(3):
        u = -6 + 12 * i / 999
        product *= 1 - ((5e-3 - 1e-5) / (1 + 2.718281828459045**-u) + 1e-5)
    assert alpha_bars()[2].item() == pytest.approx(product, abs=1e-12)


def test_noise_has_the_schedules_mean_and_spread():
    plain = torch.full((3, 200, 200), 2.0)
    noised = add_noise(plain, 500, seed=0)
    assert noised.mean().item() == pytest.approx(0.8630 * 2, abs=0.01)
    assert noised.std().item() == pytest.approx(0.5052, abs=0.01)


def test_noise_follows_from_the_seed_alone():
    def noise(pixels, seed):
        return (add_noise(pixels, 500, seed).float() - 0.7447985**0.5 * pixels.float()) / (1 - 0.7447985) ** 0.5

    a, b = torch.zeros(3, 8, 8), torch.ones(3, 8, 8)
    torch.testing.assert_close(noise(a, 1), noise(b, 1), rtol=0, atol=1e-5)
    assert (noise(a, 1) - noise(a, 2)).abs().mean() > 0.5
    torch.testing.assert_close(noise(a.bfloat16(), 1), noise(a, 1), rtol=0, atol=0.02)


def test_noise_does_not_touch_the_global_generator():
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    add_noise(torch.zeros(3, 4, 4), 10, 0)
    torch.testing.assert_close(torch.rand(1), wanted)


@pytest.mark.parametrize("step", [-1, 1000])
def test_noise_step_is_checked(step):
    with pytest.raises(OptionError, match=f"vcd: noise_step must be an integer from 0 to 999, got {step}"):
        mmhall.strategy("vcd", noise_step=step)
