"""Bundled pictures: drawn scenes whose objects are known."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from PIL import Image

from mmhall.benchmarks.scenes import Scene, make_scene

SEED, COUNT = 2026, 8  # the first scenes of a seed, not selected ones
_THUMBNAIL = 160  # pixels of the longer side


@dataclass(frozen=True)
class BundledScene:
    """A scene that comes with the page.

    Attributes:
        index: Index in the series of `SEED`.
        scene: The scene.
    """

    index: int
    scene: Scene

    @property
    def present(self) -> tuple[str, ...]:
        """Visible objects, each once."""
        return tuple(sorted({placed.name for placed in self.scene.objects}))

    @cached_property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        return _write(self.scene.image, "PNG")

    @cached_property
    def data(self) -> dict[str, Any]:
        """Title, text alternative, thumbnail as a data URL, and objects."""
        small = self.scene.image.copy()
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        title = self.scene.plan.place.name
        return {
            "title": title,
            "alt": f"drawn scene, {title}, with {', '.join(self.present)}",
            "image": f"data:image/webp;base64,{base64.b64encode(_write(small, 'WEBP')).decode()}",
            "objects": list(self.present),
        }


@lru_cache(maxsize=1)
def bundled_scenes() -> tuple[BundledScene, ...]:
    """Draw the scenes."""
    return tuple(BundledScene(index, make_scene(SEED, index)) for index in range(COUNT))


def _write(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    return file.getvalue()
