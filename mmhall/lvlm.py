"""LVLM: a loaded vision-language model that answers with a strategy."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    TextIteratorStreamer,
)

from mmhall.adapters import adapter_for
from mmhall.adapters.base import Request
from mmhall.errors import ModelError, PromptError
from mmhall.generation.run import run
from mmhall.generation.settings import make_settings
from mmhall.images import ImageLike, open_image
from mmhall.strategies import Strategy
from mmhall.strategies import strategy as make_strategy

Images = ImageLike | Sequence[ImageLike] | None

EMBEDDED = Path(__file__).resolve().parent / "embedded"


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost.

    Attributes:
        seconds: Wall time; of a batch, its share.
        prompt_tokens: Positions of the prompt, image positions included.
        new_tokens: Tokens written, the end mark included.
        peak_bytes: Most GPU memory allocated meanwhile; None on a CPU.
    """

    seconds: float
    prompt_tokens: int
    new_tokens: int
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and how it came to say it.

    Attributes:
        text: The answer.
        tokens: Its tokens as text, the end mark excluded.
        token_ids: Their ids.
        stopped_by: "eos" or "length".
        strategy: The strategy, written as `mmhall.strategy` reads it.
        settings: Generation settings in force, by name.
        usage: What it cost.
    """

    text: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    stopped_by: str
    strategy: str
    settings: dict[str, Any]
    usage: Usage


class LVLM:
    """A vision-language model. Make one with `mmhall.load`.

    Attributes:
        model: The transformers model.
        processor: Its processor.
        name: What it was loaded from.
        revision: Commit of the weights on the hub, if known.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, name: str = "model") -> None:
        """Wrap a loaded model.

        Raises:
            ModelError: mmhall cannot drive this kind of model.
        """
        self.model, self.processor, self.name = model.eval(), processor, name
        self.revision: str | None = getattr(model.config, "_commit_hash", None)
        self.adapter = adapter_for(model, processor)

    def identity(self) -> dict[str, str | None]:
        """Say which model this is: name, revision, dtype, device, and a digest of each tensor's sum and norm."""
        told = [
            (n, tuple(p.shape), f"{p.double().sum():.6e}", f"{p.double().norm():.6e}")
            for n, p in self.model.named_parameters()
        ]
        return {
            "model": self.name,
            "revision": self.revision,
            "weights": hashlib.sha256(repr(told).encode()).hexdigest()[:16],
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.adapter.device.type,
        }

    def generate(self, image: Images, prompt: str, strategy: str | Strategy = "greedy", **settings: Any) -> Answer:
        """Answer a prompt about a picture.

        Args:
            image: Path or picture; None for a question without a picture.
            prompt: The user's text.
            strategy: Name such as "vcd(alpha=0.5)", or a strategy.
            **settings: See `mmhall.generation.settings.Settings`.

        Raises:
            MmhallError: The picture, the prompt, the strategy or a setting is unusable.
        """
        return self.generate_batch([(image, prompt)], strategy, **settings)[0]

    def generate_batch(
        self, requests: Sequence[tuple[Images, str]], strategy: str | Strategy = "greedy", **settings: Any
    ) -> list[Answer]:
        """Answer several prompts in one batch; each gets what it would get alone.

        Args:
            requests: Pairs of picture and prompt.
            strategy: As in `generate`.
            **settings: As in `generate`.

        Raises:
            MmhallError: As in `generate`; also when pictures and prompts without pictures are mixed.
        """
        if not requests:
            return []
        method, chosen = make_strategy(strategy), make_settings(settings)
        opened = [Request(prompt, _opened(images)) for images, prompt in requests]
        with _measured(self.adapter.device) as measured:
            inputs = self.adapter.inputs(opened)
            config = chosen.resolved(self.model)
            rows = run(self.adapter, inputs, method, config, chosen.seed)
        return self._answers(inputs, rows, method, chosen.record(config), measured)

    def stream(self, image: Images, prompt: str, strategy: str | Strategy = "greedy", **settings: Any) -> Iterator[str]:
        """Yield the answer's text piece by piece; leaving the iterator stops the computation.

        Args:
            image: As in `generate`.
            prompt: As in `generate`.
            strategy: As in `generate`.
            **settings: As in `generate`; `num_beams` must be 1.

        Raises:
            MmhallError: As in `generate`.
        """
        method, chosen = make_strategy(strategy), make_settings(settings)
        if chosen.num_beams > 1:
            raise PromptError(
                f"an answer found by {chosen.num_beams} beams cannot be streamed; use generate or num_beams=1"
            )
        inputs = self.adapter.inputs([Request(prompt, _opened(image))])
        streamer = TextIteratorStreamer(self.adapter.tokenizer, skip_prompt=True, skip_special_tokens=True)
        left, failures = threading.Event(), list[BaseException]()

        def work() -> None:
            try:
                run(self.adapter, inputs, method, chosen.resolved(self.model), chosen.seed, streamer, left)
            except BaseException as error:
                failures.append(error)
                streamer.end()

        return _pieces(threading.Thread(target=work, daemon=True), streamer, left, failures)

    def _answers(
        self, inputs: dict[str, Tensor], rows: Tensor, method: Strategy, settings: dict[str, Any], measured: _Measured
    ) -> list[Answer]:
        tokenizer = self.adapter.tokenizer
        ends = self.model.generation_config.eos_token_id
        eos = set(ends if isinstance(ends, list) else [ends])
        answers = []
        for row, mask in zip(rows.tolist(), inputs["attention_mask"], strict=True):
            end = next((i for i, token in enumerate(row) if token in eos), None)
            ids = row if end is None else row[:end]
            usage = Usage(measured.seconds / len(rows), int(mask.sum()), len(ids) + (end is not None), measured.peak)
            answers.append(
                Answer(
                    text=tokenizer.decode(ids, skip_special_tokens=True).strip(),
                    tokens=tuple(tokenizer.decode([token]) for token in ids),
                    token_ids=tuple(ids),
                    stopped_by="length" if end is None else "eos",
                    strategy=str(method),
                    settings=settings,
                    usage=usage,
                )
            )
        return answers


def load(
    name: str | Path = "embedded",
    *,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    revision: str | None = None,
    **options: Any,
) -> LVLM:
    """Load a model.

    Args:
        name: "embedded" (the model that ships with mmhall), a local folder, or a hub id such as
            "llava-hf/llava-1.5-7b-hf"; only a hub id reaches the network.
        dtype: Of the weights; by default float32 on a CPU and bfloat16 on a GPU.
        device: "cpu", "cuda", ...; by default a GPU when there is one.
        revision: Commit, tag or branch on the hub.
        **options: Passed on to transformers' `from_pretrained` (device_map, quantization_config, ...).

    Raises:
        ModelError: Nothing loadable is there, or mmhall cannot drive it.
    """
    folder = EMBEDDED if name == "embedded" else Path(name)
    source = str(folder) if folder.is_dir() else str(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: holds no config.json; give the folder of a saved transformers model")
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: holds no *.safetensors weights; mmhall loads no pickled weights")
    if not folder.is_dir() and (folder.is_absolute() or str(name).startswith(".")):
        raise ModelError(f"{name}: no such folder; give the folder of a saved transformers model, or a hub id")
    target = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype is None:
        dtype = torch.float32 if target == "cpu" else torch.bfloat16
    shared = {
        "revision": revision,
        "trust_remote_code": options.pop("trust_remote_code", False),
        "local_files_only": folder.is_dir(),
    }
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            source, dtype=dtype, use_safetensors=True, **shared, **options
        )
        model = model if "device_map" in options else model.to(target)
        processor = AutoProcessor.from_pretrained(source, **shared)
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot load model {str(name)!r}: {first}") from error
    return LVLM(model, processor, str(name))


def _opened(images: Images) -> tuple[Image.Image, ...]:
    if images is None:
        return ()
    return tuple(map(open_image, images if isinstance(images, list | tuple) else [images]))


def _pieces(
    thread: threading.Thread, streamer: TextIteratorStreamer, left: threading.Event, failures: list[BaseException]
) -> Iterator[str]:
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        left.set()
        thread.join()
    if failures:
        raise failures[0]


@dataclass(slots=True)
class _Measured:
    seconds: float = 0.0
    peak: int | None = None


@contextmanager
def _measured(device: torch.device) -> Iterator[_Measured]:
    """Measure wall time and, on a GPU, peak memory."""
    measured, on_gpu = _Measured(), device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    yield measured
    if on_gpu:
        torch.cuda.synchronize(device)
        measured.peak = torch.cuda.max_memory_allocated(device)
    measured.seconds = time.perf_counter() - began
