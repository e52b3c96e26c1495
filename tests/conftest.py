"""A tiny random LLaVA with the embedded model's real processor, and a few pictures."""

from __future__ import annotations

import copy
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="mmhall-tests-")  # nobody's tuned options
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors gain nothing from threads

import pytest
from hypothesis import HealthCheck, settings

import mmhall
from mmhall import registry

if TYPE_CHECKING:  # imported where it is used: the process that hands out the tests needs no torch, and starts at once
    from PIL import Image
    from transformers import LlavaForConditionalGeneration

    from mmhall.lvlm import LVLM

PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("full", max_examples=100, **PATIENT)
settings.register_profile("quick", max_examples=25, **PATIENT)


def make_random_llava(processor, *, seed: int = 0, kv_heads: int = 2) -> LlavaForConditionalGeneration:
    """Two vision and three decoder layers, grouped-query attention, weights large enough to disagree."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=112,
            patch_size=14,
            projection_dim=32,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


QUICK = {"llava", "qwen2_5_vl", "mllama"}
ALONE = ("decoders", "generation")
"""Folders whose quick tests are content with LLaVA, but for those of what all families and strategies keep."""
TAKING_TURNS, FEW = ("decoders", "generation", "attention", "analysis", "closed"), 3
"""Folders whose tests of more families than these few meet two of them, in turn; but for what all families keep."""
EVERY_FAMILY = ("test_contract.py", "test_families.py")


def pytest_addoption(parser):
    parser.addoption("--families", choices=("representative", "all"), default="representative")


def pytest_configure(config):
    """Try fewer examples where slow tests are left out; `--hypothesis-profile` overrides the choice."""
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("quick" if "not slow" in config.getoption("markexpr") else "full")


def pytest_unconfigure():
    """Throw away what libraries kept among the settings."""
    shutil.rmtree(os.environ["XDG_CONFIG_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    """Run representatives of the ways in which families behave, but the adapter contract on every family.

    Tests of what acts in every family alike meet LLaVA and, in turn, one of the other representatives. The quick lane
    runs the three that differ most. Long tests run with every family, or if they are asked for.
    """
    from tests.zoo import REPRESENTATIVES, ZOO

    every, kept, left = config.getoption("--families") == "all", [], []
    long = every or "long" in config.getoption("markexpr")
    met = defaultdict(set)
    for item in items:
        met[item.path, item.originalname] |= families_of(item, ZOO)
    for item in items:
        families = families_of(item, ZOO)
        meant = [name for name in REPRESENTATIVES if name in met[item.path, item.originalname]]
        folder, file = item.path.parent.name, item.path.name
        if folder in TAKING_TURNS and file not in EVERY_FAMILY and len(meant) > FEW:
            meant = in_their_turn(f"{folder}/{file}", meant)
        wanted = every or families <= set(meant) or item.get_closest_marker("contract")
        wanted = wanted and (long or not item.get_closest_marker("long"))
        (kept if wanted else left).append(item)
        alone = folder in ALONE and file not in EVERY_FAMILY
        if not families <= ({"llava"} if alone else QUICK):
            item.add_marker(pytest.mark.slow)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def families_of(item, zoo):
    """Families among the values that a test was parametrised with."""
    values = getattr(getattr(item, "callspec", None), "params", {}).values()
    return set(zoo) & {value for value in values if isinstance(value, str)}


def in_their_turn(file, families):
    """The first family, and that of the others whose turn it is in a file: its name decides."""
    first, *others = families
    return [first, others[sum(file.encode()) % len(others)]]


@pytest.fixture(scope="session", autouse=True)
def plug_ins():
    """Read the installed packages' plug-ins anew only where a folder that packages lie in has changed: it is slow."""
    read = cache(lambda group, folders: entry_points(group=group))

    def known(group):
        folders = tuple((one, Path(one).stat().st_mtime_ns if Path(one).exists() else 0) for one in sys.path)
        return read(group, folders)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(registry, "entry_points", known)
        yield


@pytest.fixture(scope="session")
def processor():
    from transformers import AutoProcessor

    from mmhall.models._path import EMBEDDED

    return AutoProcessor.from_pretrained(EMBEDDED)


@pytest.fixture(scope="session")
def random_llava(processor) -> LlavaForConditionalGeneration:
    """What `llava` copies; not to be changed."""
    return make_random_llava(processor)


@pytest.fixture
def llava(random_llava, processor) -> LVLM:
    """A model of a test's own."""
    from mmhall.lvlm import LVLM

    return LVLM(copy.deepcopy(random_llava), processor, "random")


@pytest.fixture(scope="session")
def embedded() -> LVLM:
    return mmhall.load("embedded", device="cpu")


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Three pictures that differ: noise of different grain."""
    import torch
    from PIL import Image

    generator = torch.Generator().manual_seed(5)
    made = []
    for cells in (4, 16, 56):
        small = torch.randint(0, 256, (cells, cells, 3), generator=generator, dtype=torch.uint8)
        made.append(Image.fromarray(small.numpy()).resize((224, 224), Image.Resampling.NEAREST))
    return made


@pytest.fixture(scope="session")
def clip() -> Path:
    """Folder of a tiny random CLIP, `tests.clip.CLIP`."""
    from tests.clip import ensure_clip

    return ensure_clip()


@pytest.fixture
def picture_file(tmp_path: Path, pictures) -> Path:
    path = tmp_path / "picture.png"
    pictures[0].save(path)
    return path


@pytest.fixture(scope="session")
def detector() -> Path:
    """Folder of a tiny random OWLv2, `tests.detector.DETECTOR`."""
    from tests.detector import ensure_detector

    return ensure_detector()


@pytest.fixture(scope="session")
def model_folder(processor, tmp_path_factory):
    """The tiny random LLaVA, stored; nothing is to be written into it."""
    folder = tmp_path_factory.mktemp("model")
    make_random_llava(processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
