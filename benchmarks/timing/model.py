"""The random LLaVA that is timed, with a processor, a request, and artifacts of strategies that are fitted.

Weights are random, as the cost of decoding does not depend on them. The processor is that of the embedded model, with
pictures of 24 x 24 patches.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    ProcessorMixin,
)

from mmhall.adapters import Adapter, Batch, Request, adapter_for
from mmhall.models import find_model_path
from mmhall.strategies import LearnedStrategy, Pair, Strategy
from mmhall.strategies.artifacts import Artifact

IMAGE_TOKENS, TEXT_TOKENS, VOCABULARY = 576, 41, 32000
_SIDE, _PATCH, _LONGEST = 336, 14, 4096
_PAIRS, _SEED = 6, 28  # none of the shuffles of this seed leaves all labels as they are
_PROMPT, _LONGER = "Is there a dog in the image?", " Please describe this image in detail."
_REPEATS = 4  # of `_LONGER` in the longest prompt


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a model.

    Attributes:
        layers: Number of decoder layers.
        hidden: Hidden size; heads are 64 or, from 4096 on, 128 wide.
        dtype: Data type of the weights.
    """

    layers: int
    hidden: int
    dtype: torch.dtype


SMALL, LARGE = Size(8, 512, torch.float32), Size(32, 4096, torch.bfloat16)  # for a CPU; 7B


def random_adapter(size: Size, device: str) -> Adapter:
    """Build a random LLaVA with its processor, and attach mmhall to it."""
    return adapter_for(*random_llava(size, device))


def random_llava(size: Size, device: str) -> tuple[LlavaForConditionalGeneration, ProcessorMixin]:
    """Build a random LLaVA with its processor: a small vision tower of 24 x 24 patches and a Llama."""
    processor = AutoProcessor.from_pretrained(find_model_path("embedded"), local_files_only=True)
    side = {"height": _SIDE, "width": _SIDE}
    processor.image_processor.size = processor.image_processor.crop_size = side
    processor.tokenizer.model_max_length = _LONGEST
    return _random_model(size, device, processor), processor


def plain_copy(model: PreTrainedModel, attention: str) -> PreTrainedModel:
    """Return a copy of a model with the same weights and another attention implementation."""
    shared = {id(part): part for part in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    copied.set_attn_implementation(attention)
    return copied


def _random_model(size: Size, device: str, processor: ProcessorMixin) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    heads = size.hidden // (128 if size.hidden >= LARGE.hidden else 64)
    vision = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=_SIDE,
        patch_size=_PATCH,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.hidden * 11008 // 4096,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=_LONGEST,
    )
    image_token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=image_token)
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, dtype=size.dtype)
    model.generation_config.pad_token_id = 0
    return model.eval()


def describe_request(size: Size) -> str:
    """Describe model and request."""
    kind = str(size.dtype).removeprefix("torch.")
    return (
        f"random LLaVA of {size.layers} layers, hidden {size.hidden}, {kind}, "
        f"{IMAGE_TOKENS + TEXT_TOKENS} prompt tokens of which {IMAGE_TOKENS} image"
    )


def timed_request(adapter: Adapter) -> Batch:
    """Return a batch of one request: a picture of noise, and a question."""
    return adapter.inputs([Request(prompt, (picture,)) for picture, prompt in timed_prompts(1)])


def timed_prompts(count: int) -> list[tuple[Image.Image, str]]:
    """Return pictures of noise with questions of four lengths, the longest first."""
    return [(_noise(number), _PROMPT + _LONGER * (_REPEATS - number % _REPEATS)) for number in range(count)]


def fit_randomly(adapter: Adapter, methods: Sequence[Strategy]) -> None:
    """Give the model an artifact for each strategy that needs one, fitted on a few made pairs of texts.

    Both texts of all pairs differ in the same word, so that a random model, too, tells them apart.
    """
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for number in range(_PAIRS):
            picture = Path(folder, f"{number}.png")
            _noise(number).save(picture)
            pairs.append(Pair(str(number), picture, "Describe it.", "There is a dog.", "There is a cat."))
        fitted = {method.name: _fit(adapter, method, pairs) for method in methods if _needs_fit(adapter, method)}
    adapter.artifacts = {**adapter.artifacts, **fitted}


def _needs_fit(adapter: Adapter, method: Strategy) -> bool:
    return isinstance(method, LearnedStrategy) and method.needs_artifact(adapter)


def _fit(adapter: Adapter, method: Strategy, pairs: Sequence[Pair]) -> Artifact:
    fitted = Strategy.fitted(method, adapter)
    assert isinstance(fitted, LearnedStrategy)
    with torch.inference_mode():
        tensors, _, chosen = fitted.fit(adapter, pairs, _SEED)
    facts = {"options": str(fitted), "chosen": dict(chosen), "data": {"pairs": _PAIRS}, "seed": _SEED}
    return Artifact(method.name, tensors, facts)


def _noise(seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels: Tensor = torch.randint(0, 256, (_SIDE, _SIDE, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())
