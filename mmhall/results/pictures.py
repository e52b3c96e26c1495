"""Digests of the pictures that a run has asked about, stored beside its answers.

A digest is taken when a picture is asked about, not before: a hundred thousand pictures need not be read before the
first answer. Size and time of the last change are stored with it, so that a run that goes on only reads the
files in which one of them differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmhall.results.store import Store

_SCHEMA = """
create table if not exists pictures (
    benchmark text not null, picture text not null, sha256 text not null, size integer, modified integer,
    primary key (benchmark, picture)
)
"""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is known of the file of a picture.

    Attributes:
        sha256: SHA-256 digest of the content, 64 hex digits.
        size: Length in bytes; None: not known, as older versions kept the digest alone.
        modified: Time of the last change, in nanoseconds since 1970; None: likewise.
    """

    sha256: str
    size: int | None = None
    modified: int | None = None

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """Read a file.

        Raises:
            OSError: It cannot be read.
        """
        status = path.stat()  # before the content: a file that changes meanwhile is read again next time
        return cls(hashlib.sha256(path.read_bytes()).hexdigest(), status.st_size, status.st_mtime_ns)

    def seems_to_be(self, path: Path) -> bool:
        """Tell whether a file has this size and time; nothing is read.

        Raises:
            OSError: There is no such file.
        """
        status = path.stat()
        return (self.size, self.modified) == (status.st_size, status.st_mtime_ns)


def stored_fingerprints(store: Store, benchmark: str, pictures: Sequence[str] | None = None) -> dict[str, Fingerprint]:
    """Return the fingerprints of the pictures that a benchmark of a run has asked about, by picture id.

    Args:
        store: Store of the run.
        benchmark: Name of the benchmark.
        pictures: Ids of the pictures; None: all.
    """
    if not store.read("select 1 from sqlite_master where name = 'pictures'"):
        return {}
    query, values = "select picture, sha256, size, modified from pictures where benchmark = ?", [benchmark]
    if pictures is not None:
        query += f" and picture in ({', '.join('?' * len(pictures))})"
        values += pictures
    return {picture: Fingerprint(*found) for picture, *found in store.read(query, values)}


def store_fingerprints(store: Store, benchmark: str, fingerprints: Mapping[str, Fingerprint]) -> None:
    """Store the fingerprints of pictures, by picture id; later calls overwrite.

    Raises:
        RunError: The store cannot be written.
    """
    if not fingerprints:
        return
    with store.writing() as connection:
        connection.execute(_SCHEMA)
        connection.executemany(
            "insert or replace into pictures values (?, ?, ?, ?, ?)",
            [(benchmark, name, one.sha256, one.size, one.modified) for name, one in fingerprints.items()],
        )
