"""The scenes that `mmhall bench` draws when it is given no data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mmhall.errors import OptionError

COUNT, CONFLICT, KIND = 200, 0.5, "usual"
KINDS = ("usual", "hard")


@dataclass(frozen=True, slots=True)
class DrawnScenes:
    """What the user wants of the scenes; None: the scenes that the model is made for, else the usual ones.

    Attributes:
        count: Number of scenes.
        conflict: Share of scenes that break co-occurrence.
        kind: Kind of the scenes, "usual" or "hard".
    """

    count: int | None
    conflict: float | None
    kind: str | None

    def check(self, data: bool) -> None:
        """Check that scenes are not asked for beside data.

        Args:
            data: Whether data is given, so that nothing is drawn.

        Raises:
            OptionError: They are.
        """
        if data and self != DrawnScenes(None, None, None):
            values = (self.count, self.conflict, self.kind)
            raise OptionError("bench", "scenes, conflict and kind", values, "left out with --data")

    def for_model(self, model: str) -> DrawnScenes:
        """Return the scenes with nothing left open: those that the model is made for, else the usual ones."""
        from mmhall.benchmarks.diagnosis.targets import targets_of

        own = targets_of(model).scenes
        return replace(
            self,
            count=COUNT if self.count is None else self.count,
            conflict=own.get("conflict", CONFLICT) if self.conflict is None else self.conflict,
            kind=own.get("kind", KIND) if self.kind is None else self.kind,
        )

    def draw(self, model: str, out: Path, seed: int, *, progress: bool = True) -> Path:
        """Draw the scenes into a run folder, unless they exist there; returns their annotation file.

        Args:
            model: The model.
            out: The run folder.
            seed: Seed of the scenes.
            progress: Whether to show progress on stderr.
        """
        from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
        from mmhall.progress import progress as show_progress

        drawn = self.for_model(model)
        count, conflict, kind = drawn.count or COUNT, drawn.conflict or 0.0, drawn.kind or KIND
        folder = out / f"scenes-{count}-{seed}-{conflict:g}{'' if kind == KIND else f'-{kind}'}"
        if not (folder / ANNOTATIONS).is_file():
            with show_progress("drawing scenes", count, shown=progress) as advance:
                for _ in write_scenes(folder, count, seed, conflict, kind):
                    advance(1)
        return folder / ANNOTATIONS
