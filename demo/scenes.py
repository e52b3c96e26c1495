"""Bundled pictures: drawn scenes whose objects are known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mmhall.benchmarks.scenes import Scene, make_scene

SEED, COUNT = 2026, 8  # the first scenes of a seed, not selected ones


@dataclass(frozen=True, slots=True)
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

    @property
    def title(self) -> str:
        """Name of the place."""
        return self.scene.plan.place.name

    @property
    def alt(self) -> str:
        """Description for people who cannot see the picture."""
        return f"drawn scene, {self.title}, with {', '.join(self.present)}"


@lru_cache(maxsize=1)
def bundled_scenes() -> tuple[BundledScene, ...]:
    """Draw the scenes."""
    return tuple(BundledScene(index, make_scene(SEED, index)) for index in range(COUNT))
