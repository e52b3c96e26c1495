"""Agreement of a picture with texts, by any CLIP or SigLIP model of open_clip.

Agreement is the cosine between the two embeddings, also for SigLIP models: their scale and bias, which make it a logit,
are left out, since they are the same for all texts. A text longer than the model's context (77 tokens for most CLIPs,
64 for SigLIP) is truncated: `Clip.find_truncated` marks
such texts, and `sentences` splits a text into shorter ones.

Weights are read from safetensors files only. Only names of hub models and published weights reach the network.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmhall import files
from mmhall.errors import ModelError
from mmhall.files import why_not_a_file
from mmhall.models import UNLOADABLE, reason_of

CLIP_NAMES = (
    'a folder that holds an open_clip model, an architecture with its weights as in "ViT-B-32/laion2b_s34b_b79k", or '
    '"hf-hub:" with the name of one on the hub'
)
"""The allowed names of a CLIP, in words."""

_HUB, _LOCAL = "hf-hub:", "local-dir:"
_CONFIG = "open_clip_config.json"
_USUAL = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_NEEDED = (_CONFIG, *_USUAL, "*token*", "vocab*", "merges.txt", "*.model")  # files of a hub repository
_BATCH = 64  # texts or pictures a pass


def is_clip_name(name: str) -> bool:
    """Whether a text can name a CLIP: it holds a slash or backslash."""
    return "/" in name or "\\" in name


class Clip:
    """A loaded CLIP, safe for several threads. Make one with `load_clip`.

    Attributes:
        name: The name it was loaded by.
        context: Most tokens of a text.
    """

    def __init__(self, name: str, model: Any, transform: Callable[[Image.Image], Tensor], tokenizer: Any) -> None:
        """Store the parts that open_clip has built."""
        self.name, self._model, self._transform, self._tokenizer = name, model.eval(), transform, tokenizer
        self.context: int = tokenizer.context_length
        self._device = next(model.parameters()).device
        self._tokenizer_lock = threading.Lock()  # a fast tokenizer cannot be set up by two threads at once

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embed RGB pictures, (pictures, size) float32 of length 1 on the CPU."""
        return self._embed([self._transform(picture) for picture in pictures], self._model.encode_image)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, (texts, size) float32 of length 1 on the CPU; truncated to the context."""
        return self._embed(list(self._tokens(texts, self.context)), self._model.encode_text)

    def similarity(self, picture: Image.Image, texts: Sequence[str]) -> Tensor:
        """Return the cosine between an RGB picture and each text, (texts,) in [-1, 1]."""
        return self.embed_texts(texts) @ self.embed_pictures([picture])[0] if texts else torch.zeros(0)

    def find_truncated(self, texts: Sequence[str]) -> list[bool]:
        """Mark the texts that are longer than the context."""
        narrow, wide = (self._tokens([*texts, ""], length) for length in (self.context, 2 * self.context))
        padding = wide[-1].mode().values
        truncated: list[bool] = ((wide != padding).sum(dim=1) > (narrow != padding).sum(dim=1))[:-1].tolist()
        return truncated

    def fitting_end(self, text: str) -> str:
        """Return the longest end of a text, of whole sentences, that fits into the context; else of whole words."""
        for parts in (sentences(text), text.split()):
            ends = [text, *(" ".join(parts[at:]) for at in range(1, len(parts)))]
            fitting = [end for end, truncated in zip(ends, self.find_truncated(ends), strict=True) if not truncated]
            if fitting:
                return fitting[0]
        return ends[-1]

    def _tokens(self, texts: Sequence[str], length: int) -> Tensor:
        with self._tokenizer_lock:
            tokens: Tensor = self._tokenizer(list(texts), context_length=length)
        return tokens

    def _embed(self, parts: Sequence[Tensor], encode: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            embeddings = [
                encode(torch.stack(list(parts[at : at + _BATCH])).to(self._device), normalize=True).float().cpu()
                for at in range(0, len(parts), _BATCH)
            ]
        return torch.cat(embeddings)


def load_clip(name: str, device: str | torch.device = "cpu") -> Clip:
    """Load a CLIP in float32; models loaded before are cached.

    Args:
        name: A folder with `open_clip_config.json` and one safetensors file; an architecture of open_clip with a tag of
            its published weights, such as "ViT-B-32/laion2b_s34b_b79k"; or "hf-hub:timm/ViT-B-16-SigLIP". Only the last
            two reach the network, unless their files are cached.
        device: Device of the model.

    Raises:
        ModelError: There is none of that name, or it cannot be loaded.
    """
    with _LOADING:
        return _load_cached(name, str(device))


def check_clip(name: str) -> None:
    """Check the name of a CLIP, without the network.

    Raises:
        ModelError: There is no such model, or it cannot be loaded.
    """
    if name and why_not_a_file(Path(name)) in (None, "is a folder"):
        _check_folder(Path(name))
    elif not name.startswith(_HUB):
        _published_config(name)


def sentences(text: str) -> list[str]:
    """Split a text after . ! ? before white space, and at line breaks; parts without a word are left out.

    >>> sentences("A dog sits. It looks up!  Its bowl (3.5 litres?) is empty")
    ['A dog sits.', 'It looks up!', 'Its bowl (3.5 litres?) is empty']
    """
    parts = re.split(r"(?<=[.!?])\s+|\s*[\r\n]+\s*", text)
    return [part.strip() for part in parts if has_word(part)]


def has_word(text: str) -> bool:
    """Whether a text holds a letter or a digit."""
    return any(map(str.isalnum, text))


_LOADING = threading.Lock()


@lru_cache(maxsize=4)
def _load_cached(name: str, device: str) -> Clip:
    check_clip(name)
    try:
        with _without_logging_setup(), torch.inference_mode(False):  # inference tensors could not be used outside
            return _build(name, device)
    except UNLOADABLE as error:
        raise ModelError(f"cannot load CLIP {name!r}: {reason_of(error)}") from error


def _build(name: str, device: str) -> Clip:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    folder = Path(name)
    if name.startswith(_HUB):
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(name.removeprefix(_HUB), allow_patterns=list(_NEEDED)))
        _check_folder(folder, described_on_hub=True)
    if folder.exists():
        source = f"{_LOCAL}{folder}"
        model = open_clip.create_model(source, device=device, require_pretrained=True)
    else:
        source, config = _published_config(name)
        model = open_clip.create_model(
            source,
            pretrained=str(_download(name, config["hf_hub"])),
            device=device,
            force_quick_gelu=bool(config.get("quick_gelu")),
            force_preprocess_cfg=config,
            require_pretrained=True,
        )
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return Clip(name, model, transform, open_clip.get_tokenizer(source))


def _published_config(name: str) -> tuple[str, dict[str, Any]]:
    """Return an architecture and the open_clip configuration of its published weights."""
    import open_clip

    architecture, _, tag = name.rpartition("/")
    if architecture not in open_clip.list_models():
        raise ModelError(f"{name!r} is no CLIP: neither a folder nor an architecture of open_clip; give {CLIP_NAMES}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    config = dict(open_clip.get_pretrained_cfg(architecture, tag))
    if not config:
        raise ModelError(f"{name}: no weights of {architecture} have that tag; known: {', '.join(tags) or 'none'}")
    if not config.get("hf_hub"):
        raise ModelError(f"{name}: these weights are published as a pickle only; mmhall loads no pickled weights")
    return architecture, config


def _download(name: str, place: str) -> Path:
    """Download the safetensors file of published weights, `place` is "organisation/name/file of any format"."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repository, _, file = place.rpartition("/")
    names = [Path(file).with_suffix(".safetensors").name] if file else _USUAL
    for safetensors in names:
        with suppress(RemoteEntryNotFoundError):
            return Path(hf_hub_download(repository, safetensors))
    raise ModelError(f"{name}: {repository} holds no {' or '.join(names)}; mmhall loads no pickled weights")


def _check_folder(folder: Path, *, described_on_hub: bool = False) -> None:
    """Check that open_clip can build a model from a folder without a pickle.

    Args:
        folder: The model's folder.
        described_on_hub: Whether its text tower may be described on the hub.
    """
    if not folder.is_dir():
        pickled = "; mmhall loads no pickled weights" if folder.suffix in _PICKLED else ""
        raise ModelError(f"{folder}: is a file{pickled}; give a folder that holds {_CONFIG} and a safetensors file")
    text = _read_config(folder / _CONFIG)["text_cfg"]
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{folder}: holds no *.safetensors weights; mmhall loads no pickled weights")
    others = [file for file in folder.iterdir() if file in weights[1:] or file.suffix in _PICKLED]
    if others and not any((folder / usual).is_file() for usual in _USUAL):
        raise ModelError(
            f"{folder}: holds {others[0].name} beside {weights[0].name}; name the weights to load {_USUAL[0]}"
        )
    if "hf_model_name" in text and not described_on_hub:
        raise ModelError(
            f"{folder}: its text tower, {text['hf_model_name']}, is described on the hub; "
            'give "hf-hub:" with the name of the whole model there'
        )


def _read_config(file: Path) -> dict[str, Any]:
    """Read the configuration file of a model."""
    try:
        config = json.loads(files.read_text(file))["model_cfg"]
        if all(isinstance(config[part], dict) for part in ("text_cfg", "vision_cfg")):
            return dict(config)
        raise TypeError("text_cfg and vision_cfg must be objects")
    except FileNotFoundError as error:
        raise ModelError(f"{file.parent}: holds no {_CONFIG}; give a folder that holds an open_clip model") from error
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}; check the file and its permissions") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{file}: does not describe an open_clip model ({type(error).__name__}: {error})") from error


@contextmanager
def _without_logging_setup() -> Iterator[None]:
    """Keep open_clip's messages from setting up logging for the whole process."""
    silent = logging.NullHandler()
    logging.root.addHandler(silent)
    try:
        yield
    finally:
        logging.root.removeHandler(silent)
