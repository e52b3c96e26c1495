"""An adapter for each family of the zoo, and two pictures of different size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from PIL import Image

from mmhall.adapters._base import Adapter
from mmhall.lvlm import LVLM
from tests.zoo import ZOO, built


@pytest.fixture(params=ZOO)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lvlm(name: str) -> Iterator[LVLM]:
    bound = LVLM(*built(name))
    yield bound
    bound.adapter.close()


@pytest.fixture
def adapter(lvlm: LVLM) -> Adapter:
    return lvlm.adapter


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture(scope="session")
def wide() -> Image.Image:
    return noise(96, 64)


@pytest.fixture(scope="session")
def tall() -> Image.Image:
    return noise(40, 72, seed=1)
