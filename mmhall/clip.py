"""Agreement of a picture with texts, by any CLIP or SigLIP that open_clip builds.

Agreement is the cosine between the two embeddings, of SigLIP models too: their scale and bias, which turn it into the
logit of a pair, are left out, since they are the same for all texts. A text longer than the model's context (77 tokens
of most CLIPs, 64 of SigLIP) is cut there: `Clip.find_truncated` marks
such texts, and `sentences` splits a text into shorter ones.

Weights are read from safetensors files only. Nothing reaches the network unless the name asks for it.
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
from mmhall.files import no_file
from mmhall.models import UNLOADABLE, reason_of

NAMED = (
    'a folder that holds an open_clip model, an architecture with its weights as in "ViT-B-32/laion2b_s34b_b79k", or '
    '"hf-hub:" with the name of one on the hub'
)
"""What a CLIP is named by, in words."""

_HUB, _LOCAL = "hf-hub:", "local-dir:"
_CONFIG = "open_clip_config.json"
_USUAL = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_NEEDED = (_CONFIG, *_USUAL, "*token*", "vocab*", "merges.txt", "*.model")  # of a repository on the hub
_TOGETHER = 64  # texts or pictures in one pass


def is_clip_name(name: str) -> bool:
    """Whether a text could name a CLIP: it is a path, or has a slash between its parts."""
    return "/" in name or "\\" in name


class Clip:
    """A loaded model; several threads may use it. Make one with `load_clip`.

    Attributes:
        name: What it was loaded from.
        context: Most tokens of a text that it reads.
    """

    def __init__(self, name: str, model: Any, transform: Callable[[Image.Image], Tensor], tokenizer: Any) -> None:
        """Hold what open_clip has made."""
        self.name, self._model, self._transform, self._tokenizer = name, model.eval(), transform, tokenizer
        self.context: int = tokenizer.context_length
        self._device = next(model.parameters()).device
        self._reading = threading.Lock()  # of a fast tokenizer: it cannot be set up by two threads at once

    def embed_pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embed RGB pictures, (pictures, size) float32 of length 1 on the CPU."""
        return self._embedded([self._transform(picture) for picture in pictures], self._model.encode_image)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, (texts, size) float32 of length 1 on the CPU; what exceeds the context is cut off."""
        return self._embedded(list(self._tokens(texts, self.context)), self._model.encode_text)

    def similarity(self, picture: Image.Image, texts: Sequence[str]) -> Tensor:
        """Return the cosine between an RGB picture and each text, (texts,) in [-1, 1]."""
        return self.embed_texts(texts) @ self.embed_pictures([picture])[0] if texts else torch.zeros(0)

    def find_truncated(self, texts: Sequence[str]) -> list[bool]:
        """Tell which texts are longer than the context."""
        narrow, wide = (self._tokens([*texts, ""], length) for length in (self.context, 2 * self.context))
        padding = wide[-1].mode().values
        long: list[bool] = ((wide != padding).sum(dim=1) > (narrow != padding).sum(dim=1))[:-1].tolist()
        return long

    def _tokens(self, texts: Sequence[str], length: int) -> Tensor:
        with self._reading:
            tokens: Tensor = self._tokenizer(list(texts), context_length=length)
        return tokens

    def _embedded(self, parts: Sequence[Tensor], encode: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            found = [
                encode(torch.stack(list(parts[at : at + _TOGETHER])).to(self._device), normalize=True).float().cpu()
                for at in range(0, len(parts), _TOGETHER)
            ]
        return torch.cat(found)


def load_clip(name: str, device: str | torch.device = "cpu") -> Clip:
    """Load a CLIP in float32, or return the one that this process has loaded already.

    Args:
        name: A folder with `open_clip_config.json` and one safetensors file; an architecture of open_clip with a tag of
            its published weights, such as "ViT-B-32/laion2b_s34b_b79k"; or "hf-hub:timm/ViT-B-16-SigLIP". Only the last
            two reach the network, where their files are not there yet.
        device: Where it computes.

    Raises:
        ModelError: There is none of that name, or it cannot be loaded.
    """
    with _LOADING:
        return _loaded(name, str(device))


def check_clip(name: str) -> None:
    """Refuse a name that cannot be loaded, as far as that can be told without the network.

    Raises:
        ModelError: Nothing loadable has that name.
    """
    if name and no_file(Path(name)) in (None, "is a folder"):
        _check_folder(Path(name))
    elif not name.startswith(_HUB):
        _published(name)


def sentences(text: str) -> list[str]:
    """Split a text behind . ! and ? where white space follows, and at line breaks; what holds no word is left out.

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
def _loaded(name: str, device: str) -> Clip:
    check_clip(name)
    try:
        with _undisturbed(), torch.inference_mode(False):  # weights made in inference mode could not be used outside
            return _built(name, device)
    except UNLOADABLE as error:
        raise ModelError(f"cannot load CLIP {name!r}: {reason_of(error)}") from error


def _built(name: str, device: str) -> Clip:
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
        source, told = _published(name)
        model = open_clip.create_model(
            source,
            pretrained=str(_fetched(name, told["hf_hub"])),
            device=device,
            force_quick_gelu=bool(told.get("quick_gelu")),
            force_preprocess_cfg=told,
            require_pretrained=True,
        )
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return Clip(name, model, transform, open_clip.get_tokenizer(source))


def _published(name: str) -> tuple[str, dict[str, Any]]:
    """Return an architecture, and where its weights are published under a tag and how pictures are shown to it."""
    import open_clip

    architecture, _, tag = name.rpartition("/")
    if architecture not in open_clip.list_models():
        raise ModelError(f"{name!r} is no CLIP: neither a folder nor an architecture of open_clip; give {NAMED}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    told = dict(open_clip.get_pretrained_cfg(architecture, tag))
    if not told:
        raise ModelError(f"{name}: no weights of {architecture} have that tag; known: {', '.join(tags) or 'none'}")
    if not told.get("hf_hub"):
        raise ModelError(f"{name}: these weights are published as a pickle only; mmhall loads no pickled weights")
    return architecture, told


def _fetched(name: str, place: str) -> Path:
    """Return a safetensors file of the hub, given as "organisation/name/file of any format"."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repository, _, file = place.rpartition("/")
    wanted = [Path(file).with_suffix(".safetensors").name] if file else _USUAL
    for one in wanted:
        with suppress(RemoteEntryNotFoundError):
            return Path(hf_hub_download(repository, one))
    raise ModelError(f"{name}: {repository} holds no {' or '.join(wanted)}; mmhall loads no pickled weights")


def _check_folder(folder: Path, *, described_on_hub: bool = False) -> None:
    """Refuse a folder that open_clip could not build a model from, or only with a pickle.

    Args:
        folder: Of the model.
        described_on_hub: Its text tower may be one that the hub describes.
    """
    if not folder.is_dir():
        pickled = "; mmhall loads no pickled weights" if folder.suffix in _PICKLED else ""
        raise ModelError(f"{folder}: is a file{pickled}; give a folder that holds {_CONFIG} and a safetensors file")
    text = _told(folder / _CONFIG)["text_cfg"]
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


def _told(file: Path) -> dict[str, Any]:
    """Read the configuration of a model."""
    try:
        config = json.loads(files.read_text(file))["model_cfg"]
        if all(isinstance(config[part], dict) for part in ("text_cfg", "vision_cfg")):
            return dict(config)
        raise TypeError("text_cfg and vision_cfg must be objects")
    except FileNotFoundError as error:
        raise ModelError(f"{file.parent}: holds no {_CONFIG}; give a folder that holds an open_clip model") from error
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{file}: does not describe an open_clip model ({type(error).__name__}: {error})") from error


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep open_clip's messages from setting up logging for the whole process."""
    silent = logging.NullHandler()
    logging.root.addHandler(silent)
    try:
        yield
    finally:
        logging.root.removeHandler(silent)
