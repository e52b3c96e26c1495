"""Answers of a run to a question are about one picture: its file is the same whenever it is asked about.

Asking      A picture is read before it is asked about, and its digest stored. If it has another digest than before, the
            run stops.
Going on    Before a run goes on, the files of all pictures that it has asked about are compared: by size and time of
            the last change, and where these differ, by digest. A picture without an answer may have been
            mended meanwhile.
Not asked   Pictures that were not asked about yet are not read: many would take hours to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmhall.benchmarks.base import Item, digest_of
from mmhall.errors import DataError, RunError
from mmhall.progress import MANY, progress
from mmhall.results.pictures import Fingerprint, store_fingerprints, stored_fingerprints
from mmhall.results.store import Store

if TYPE_CHECKING:
    from mmhall.benchmarks.run.runs import Part


def note_pictures(store: Store, part: Part, items: Sequence[Item]) -> None:
    """Read the pictures of items that are about to be asked, and store their digests.

    A file that cannot be read is left to what opens the picture.

    Raises:
        RunError: A picture has changed since the run has got an answer about it, or the store cannot be written.
    """
    name = part.benchmark.name
    known, found = stored_fingerprints(store, name, [i.picture for i in items if i.picture]), dict[str, Fingerprint]()
    for picture in dict.fromkeys(item.picture for item in items if item.picture is not None):
        try:
            found[picture] = Fingerprint.of(part.pictures[picture])
        except OSError:
            continue
    refuse_changed(store, name, part.items, known, found)
    store_fingerprints(store, name, {picture: one for picture, one in found.items() if known.get(picture) != one})


def compare_pictures(
    benchmark: str, known: Mapping[str, Fingerprint], files: Mapping[str, Path], *, shown: bool = True
) -> dict[str, Fingerprint]:
    """Return the fingerprints of pictures as their files are now; files of the same size and time are not read.

    Args:
        benchmark: Name of the benchmark.
        known: Fingerprints of pictures that a run has asked about.
        files: Picture id to file.
        shown: Whether to show progress on stderr.

    Raises:
        DataError: A file cannot be read.
    """
    found = dict[str, Fingerprint]()
    shown = shown and len(known) >= MANY
    with progress(f"{benchmark}: pictures compared", len(known), shown=shown) as advance:
        for picture, one in known.items():
            path = files.get(picture)
            try:
                found[picture] = one if path is None or one.seems_to_be(path) else Fingerprint.of(path)
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}; check --images") from error
            advance(1)
    return found


def refuse_changed(
    store: Store,
    benchmark: str,
    items: Sequence[Item],
    known: Mapping[str, Fingerprint],
    found: Mapping[str, Fingerprint],
) -> None:
    """Check that no picture has changed since the run has got an answer about it.

    Args:
        store: Store of the run.
        benchmark: Name of the benchmark.
        items: Its items.
        known: Fingerprints of pictures that the run has asked about.
        found: Fingerprints as the files are now.

    Raises:
        RunError: One has.
    """
    changed = {picture for picture in known.keys() & found.keys() if known[picture].sha256 != found[picture].sha256}
    if not changed:
        return
    query = "select distinct item from answers where benchmark = ? and error is null"
    answered = {item for (item,) in store.read(query, (benchmark,))}
    bound = sorted({str(item.picture) for item in items if item.picture in changed and item.id in answered})
    if bound:
        old, new = (digest_of({name: each[name].sha256 for name in bound}) for each in (known, found))
        raise RunError(
            f'{store.path.parent}: belongs to another set-up (benchmarks.{benchmark}.pictures was "{old}", now '
            f'"{new}": {len(bound)} have changed since the run has answers about them, such as {bound[0]!r}); restore '
            "them, or choose another --out"
        )
