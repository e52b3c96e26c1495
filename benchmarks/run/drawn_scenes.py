"""The scenes that `mmhall bench` draws when it is given no data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmhall.errors import OptionError

COUNT, CONFLICT, KIND = 200, 0.5, "usual"


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
        """Check the options before anything expensive is done.

        Args:
            data: Whether data is given, so that nothing is drawn.

        Raises:
            OptionError: An option is out of range, or given with data.
        """
        from mmhall.benchmarks.scenes.dataset import KINDS

        if self.conflict is not None and not 0 <= self.conflict <= 1:
            raise OptionError("bench", "conflict", self.conflict, "a number in [0, 1]")
        if self.kind is not None and self.kind not in KINDS:
            raise OptionError("bench", "kind", self.kind, " or ".join(KINDS))
        if data and self != DrawnScenes(None, None, None):
            values = (self.count, self.conflict, self.kind)
            raise OptionError("bench", "scenes, conflict and kind", values, "left out with --data")

    def draw(self, model: str, out: Path, seed: int, *, progress: bool = True) -> Path:
        """Draw the scenes into a run folder, unless they exist there; returns their annotation file.

        Args:
            model: The model.
            out: The run folder.
            seed: Seed of the scenes.
            progress: Whether to show progress on stderr.
        """
        from mmhall.benchmarks.diagnosis.targets import targets_of
        from mmhall.benchmarks.scenes.dataset import ANNOTATIONS, write_scenes
        from mmhall.progress import progress as show_progress

        own = targets_of(model).scenes
        count = COUNT if self.count is None else self.count
        conflict = own.get("conflict", CONFLICT) if self.conflict is None else self.conflict
        kind = own.get("kind", KIND) if self.kind is None else self.kind
        folder = out / f"scenes-{count}-{seed}-{conflict:g}{'' if kind == KIND else f'-{kind}'}"
        if not (folder / ANNOTATIONS).is_file():
            with show_progress("drawing scenes", count, shown=progress) as advance:
                for _ in write_scenes(folder, count, seed, conflict, kind):
                    advance(1)
        return folder / ANNOTATIONS
