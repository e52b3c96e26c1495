"""What a reproduction downloads, and whether the disk has room for it; the hub is not asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmhall.benchmarks import benchmark as make_benchmark
from mmhall.benchmarks.data.hub import is_cached
from mmhall.benchmarks.reproduce.data import Given, dataset_of, locate
from mmhall.benchmarks.reproduce.pins import DATASETS, GB, MODELS
from mmhall.benchmarks.reproduce.protocol import Step
from mmhall.benchmarks.reproduce.record import LOCAL, Record
from mmhall.errors import RunError

COPIES = 2  # a dataset lies in the cache as downloaded and as converted files
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True, slots=True)
class Download:
    """Weights or a dataset of the hub.

    Attributes:
        id: Id on the hub.
        revision: Commit; None: the current one of the first run.
        room: Bytes it takes on the disk; None: not known.
        gated: Whether the hub asks to accept a licence first.
        cached: Whether it is in the cache.
    """

    id: str
    revision: str | None
    room: int | None
    gated: bool
    cached: bool

    def __str__(self) -> str:
        """Format as one line of a plan."""
        revision = f"@{self.revision}" if self.revision else ", revision not pinned: the hub's commit at the first run"
        size = "size not known" if self.room is None else f"{self.room / GB:.1f} GB"
        gated = "; gated: accept its licence on the hub and run `hf auth login` first" if self.gated else ""
        return f"{self.id}{revision}: {'in the cache' if self.cached else f'to download, {size}'}{gated}"


def downloads(record: Record, steps: Iterable[Step], given: Given) -> list[Download]:
    """Return what the steps need of the hub, the weights first."""
    needed = []
    if record.revision_from != LOCAL:
        pin = MODELS.get(record.model)
        needed.append(
            Download(
                record.model,
                record.revision,
                pin.size if pin else None,
                pin.gated if pin else False,
                _holds_weights(record.model, record.revision),
            )
        )
    for step in steps:
        id_ = dataset_of(step, given)
        if id_ is not None and all(id_ != one.id for one in needed):
            size = DATASETS[id_].size if id_ in DATASETS else None
            benchmark = make_benchmark(step.benchmarks[0]).name
            cached = is_cached(locate(step, given, record.datasets).data, benchmark)
            needed.append(
                Download(id_, record.datasets.get(id_), None if size is None else COPIES * size, False, cached)
            )
    return needed


def check_disk(needed: Iterable[Download]) -> None:
    """Check that the disk of the cache has room for what must be downloaded; unknown sizes do not count.

    Raises:
        RunError: It has not.
    """
    from huggingface_hub import constants

    missing = [one for one in needed if not one.cached and one.room is not None]
    folder = next(
        path for path in (Path(constants.HF_HUB_CACHE), *Path(constants.HF_HUB_CACHE).parents) if path.exists()
    )
    room, free = sum(one.room or 0 for one in missing), shutil.disk_usage(folder).free
    if room > free:
        names = ", ".join(one.id for one in missing)
        raise RunError(
            f"{constants.HF_HUB_CACHE}: has {free / GB:.1f} GB free, {names} need {room / GB:.1f} GB; free some room, "
            "or set HF_HOME to another disk"
        )


def _holds_weights(model: str, revision: str | None) -> bool:
    """Tell whether the hub's cache has every weight file of a model."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(model, _INDEX, revision=revision)
    files = {_SINGLE}
    if isinstance(index, str):
        files = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    return all(isinstance(try_to_load_from_cache(model, name, revision=revision), str) for name in files)
