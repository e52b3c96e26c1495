"""The pictures that come with the page: drawn scenes, of which it is known what they show."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from mmhall.benchmarks.scenes import Scene, make_scene

SEED, COUNT = 2026, 8  # the first scenes of a seed, not picked ones


@dataclass(frozen=True, slots=True)
class BundledScene:
    """A scene that comes with the page.

    Attributes:
        index: Place in the series of `SEED`.
        scene: As drawn.
    """

    index: int
    scene: Scene

    @property
    def present(self) -> tuple[str, ...]:
        """Objects that show, each once."""
        return tuple(sorted({seen.name for seen in self.scene.objects}))

    @property
    def title(self) -> str:
        """Where it plays."""
        return self.scene.plan.place.name

    @property
    def alt(self) -> str:
        """What it shows, in words."""
        return f"drawn scene, {self.title}, with {', '.join(self.present)}"


@lru_cache(maxsize=1)
def bundled_scenes() -> tuple[BundledScene, ...]:
    """Draw them."""
    return tuple(BundledScene(index, make_scene(SEED, index)) for index in range(COUNT))
