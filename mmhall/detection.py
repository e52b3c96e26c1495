"""Boxes of an object in a picture, by an open-vocabulary detector of transformers, or by annotations.

Detectors of transformers are those of `AutoModelForZeroShotObjectDetection`, such as OWLv2 and Grounding DINO. Weights
are read from safetensors files only, and no code of a model's folder is run. Only hub ids reach the network.

"truth:FILE" stands in for a detector where the objects are known, as on drawn scenes: boxes are read from a COCO
detection file, whose pictures are recognised by their pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from mmhall import files
from mmhall.errors import DataError, GenerationError, MmhallError, ModelError
from mmhall.images import open_image
from mmhall.models import UNLOADABLE, find_model_path, hint_for, reason_of
from mmhall.objects.plurals import plural

DETECTOR_NAMES = (
    'the folder or hub id of an open-vocabulary detector of transformers, such as "google/owlv2-base-patch16-ensemble" '
    'or "IDEA-Research/grounding-dino-base", or "truth:" with a COCO detection file that lies beside its pictures'
)
"""The allowed names of a detector, in words."""

TRUTH = "truth:"
_THRESHOLDS = {"owlv2": 0.05, "owlvit": 0.05}  # by model_type; scores of OWL are far lower than those of other models
_THRESHOLD = 0.45
_LEAST = 1 / 20  # of a picture's width and height: families refuse very long or tiny pictures


def is_detector_name(name: str) -> bool:
    """Whether a text can name a detector: it holds a slash or backslash, or begins with "truth:"."""
    return "/" in name or "\\" in name or (name.startswith(TRUTH) and name != TRUTH)


@dataclass(frozen=True, slots=True)
class Box:
    """A box in a picture, in fractions of its width and height.

    Attributes:
        left: Left edge, in [0, 1].
        top: Upper edge, in [0, 1].
        right: Right edge, >= left.
        bottom: Lower edge, >= top.
    """

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Width, as a fraction of the picture's."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Height, as a fraction of the picture's."""
        return self.bottom - self.top

    @property
    def area(self) -> float:
        """Area, as a fraction of the picture's."""
        return self.width * self.height

    def expanded(self, ratio: float) -> Box:
        """Move each side outwards by half of `ratio` times the size, within the picture; inwards if negative.

        >>> Box(0.25, 0.25, 0.75, 1.0).expanded(0.5)
        Box(left=0.125, top=0.0625, right=0.875, bottom=1.0)
        """
        across, down = ratio * self.width / 2, ratio * self.height / 2
        return Box(
            max(self.left - across, 0.0),
            max(self.top - down, 0.0),
            min(self.right + across, 1.0),
            min(self.bottom + down, 1.0),
        )


def crop(image: Image.Image, box: Box) -> Image.Image:
    """Return the part of a picture in a box, whole pixels, at least a twentieth of its width and height."""
    edges = []
    for low, high, size in ((box.left, box.right, image.width), (box.top, box.bottom, image.height)):
        length = max(high - low, _LEAST)
        first = min(max((low + high - length) / 2, 0.0), 1 - length)
        edges.append((math.floor(first * size + 1e-6), math.ceil((first + length) * size - 1e-6)))
    (left, right), (top, bottom) = edges
    return image.crop((left, top, right, bottom))


class Detector(Protocol):
    """Finds objects in pictures."""

    def find(self, picture: Image.Image, phrase: str) -> list[Box]:
        """Return the boxes of an object in an RGB picture; none if it is not found.

        Args:
            picture: The picture.
            phrase: A noun phrase in lower case.
        """
        ...


def load_detector(name: str, device: str | torch.device = "cpu", threshold: float | None = None) -> Detector:
    """Load a detector in float32; models loaded before are cached.

    Args:
        name: One of `DETECTOR_NAMES`; only a hub id reaches the network.
        device: Device of the model.
        threshold: Boxes of a lower score are left out; None: 0.05 for OWL-ViT and OWLv2, 0.45 for other models.

    Raises:
        ModelError: There is no detector of that name, or it cannot be loaded.
        DataError: The annotations cannot be read.
    """
    if not is_detector_name(name):
        raise ModelError(f"{name!r} names no detector; give {DETECTOR_NAMES}")
    with _LOADING:
        if name.startswith(TRUTH):
            return _load_truth(name.removeprefix(TRUTH))
        model, processor, lock = _load_model(name, str(device))
    usual = _THRESHOLDS.get(model.config.model_type, _THRESHOLD)
    return OpenVocabulary(name, model, processor, lock, usual if threshold is None else threshold)


@dataclass(frozen=True, slots=True)
class OpenVocabulary:
    """A detector of transformers, safe for several threads. Make one with `load_detector`.

    Attributes:
        name: The name it was loaded by.
        model: The model.
        processor: Its processor.
        lock: Held while the processor is used: a fast tokenizer cannot be set up by two threads at once.
        threshold: Boxes of a lower score are left out, in [0, 1].
    """

    name: str
    model: Any
    processor: Any
    lock: threading.Lock
    threshold: float

    def find(self, picture: Image.Image, phrase: str) -> list[Box]:
        """Return the boxes of an object, as the detector's own post-processing gives them.

        Raises:
            GenerationError: The detector fails, or its boxes are no numbers.
        """
        try:
            with self.lock:
                inputs = self.processor(images=picture, text=[[phrase]], return_tensors="pt")
            with torch.no_grad():
                outputs = self.model(**inputs.to(self.model.device))
            (found,) = self.processor.post_process_grounded_object_detection(
                outputs=outputs, threshold=self.threshold, target_sizes=[(picture.height, picture.width)]
            )
            corners = found["boxes"].float().cpu() / torch.tensor([picture.width, picture.height] * 2)
        except UNLOADABLE as error:
            raise GenerationError(
                f"the detector {self.name} fails on {phrase!r}: {reason_of(error)}; use another detector"
            ) from error
        if not corners.isfinite().all():
            raise GenerationError(f"the detector {self.name} gives boxes of NaN for {phrase!r}; use another detector")
        return [Box(*corner) for corner in corners.clamp(0, 1).tolist()]


class Truth:
    """Boxes of a COCO detection file, for pictures that are recognised by their pixels.

    An object is found by the name of its category, or the plural of it.
    """

    def __init__(self, file: Path, content: Any) -> None:
        """Read the content of the file; pictures are opened when they are looked for.

        Raises:
            DataError: It is no COCO detection file.
        """
        self._file, self._lock = file, threading.Lock()
        self._boxes: dict[str, list[tuple[str, Box]]] = {}  # by digest of the picture
        try:
            names = {entry["id"]: str(entry["name"]).lower() for entry in content["categories"]}
            listed = {entry["id"]: _Listed.read(entry, file.parent) for entry in content["images"]}
            for entry in content["annotations"]:
                x, y, width, height = map(float, entry["bbox"])
                listed[entry["image_id"]].objects.append((names[entry["category_id"]], (x, y, x + width, y + height)))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{file}: is no COCO detection file ({type(error).__name__}: {error}); give one with images, "
                "annotations and categories"
            ) from error
        self._unread = list(listed.values())

    def find(self, picture: Image.Image, phrase: str) -> list[Box]:
        """Return the boxes of a category.

        Raises:
            DataError: The file does not list the picture.
            ImageError: A picture of the file cannot be opened.
        """
        digest = picture_digest(picture)
        with self._lock:
            for listed in [one for one in self._unread if one.size in (None, picture.size)]:
                if digest in self._boxes:
                    break
                self._read(listed)
        if digest not in self._boxes:
            raise DataError(
                f"{self._file}: lists no picture with these pixels; give one of the pictures that lie beside it"
            )
        return [box for name, box in self._boxes[digest] if phrase in (name, plural(name))]

    def _read(self, listed: _Listed) -> None:
        """Open a picture, and store its boxes."""
        picture = open_image(listed.path)
        width, height = picture.size
        self._boxes[picture_digest(picture)] = [
            (name, Box(left / width, top / height, right / width, bottom / height))
            for name, (left, top, right, bottom) in listed.objects
        ]
        self._unread.remove(listed)


@dataclass(frozen=True, slots=True, eq=False)
class _Listed:
    """A picture of a COCO detection file: where it lies, width and height, names and corners of its objects."""

    path: Path
    size: tuple[int, int] | None
    objects: list[tuple[str, tuple[float, float, float, float]]]

    @classmethod
    def read(cls, entry: Any, folder: Path) -> _Listed:
        size = (int(entry["width"]), int(entry["height"])) if "width" in entry and "height" in entry else None
        return cls(folder / str(entry["file_name"]), size, [])


def picture_digest(picture: Image.Image) -> str:
    """Return the SHA-256 digest of an RGB picture's size and pixels, 64 hex digits."""
    return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()


_LOADING = threading.Lock()


@lru_cache(maxsize=4)
def _load_truth(name: str) -> Truth:
    file = Path(name)
    try:
        return Truth(file, json.loads(files.read_text(file)))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}; give a COCO detection file") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: is not JSON ({error}); give a COCO detection file") from error


@lru_cache(maxsize=4)
def _load_model(name: str, device: str) -> tuple[Any, Any, threading.Lock]:
    """Load a model and its processor."""
    import transformers

    source = str(find_model_path(name))
    try:
        with torch.inference_mode(False):  # inference tensors could not be used outside
            config = transformers.AutoConfig.from_pretrained(source)
            if type(config) not in transformers.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING:
                raise ModelError(f"{name}: is a {config.model_type} model, no detector; give {DETECTOR_NAMES}")
            processor = transformers.AutoProcessor.from_pretrained(source)
            model, report = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(
                source, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except MmhallError:
        raise
    except UNLOADABLE as error:
        raise ModelError(f"cannot load detector {name!r}: {reason_of(error)}{hint_for(source)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"cannot load detector {name!r}: {len(missing)} weights are missing, such as {missing[0]}; get an intact "
            "copy of the model"
        )
    return model.eval().to(device), processor, threading.Lock()
