"""What the seconds of a run's answers hold: older versions counted the opening of pictures with the first strategy.

A run remembers how many answers it had when a version that opens pictures apart first went on with it.
"""

from __future__ import annotations

import json

from mmhall.results.store import Store

_NOTE = "answers before pictures were opened apart"


def note_seconds(store: Store) -> None:
    """Note the number of answers of each benchmark, unless it is noted; before answers are added.

    Raises:
        RunError: The store cannot be written.
    """
    if _NOTE not in store.notes():
        counts = dict(store.read("select benchmark, count(*) from answers where error is null group by benchmark"))
        with store.writing() as connection:
            connection.execute("insert or ignore into notes values (?, ?)", (_NOTE, json.dumps(counts)))


def seconds_remarks(store: Store, benchmark: str) -> tuple[str, ...]:
    """Return a remark where seconds of a benchmark's answers come from versions that measured differently."""
    older = json.loads(store.notes().get(_NOTE, "{}")).get(benchmark, 0)
    ((count,),) = store.read("select count(*) from answers where benchmark = ? and error is null", (benchmark,))
    if not 0 < older < count:
        return ()
    return (
        f"the seconds of {older} of {count} answers come from an older version, which may have counted the opening of "
        "pictures; those of the others do not hold it, so that seconds of this run do not compare.",
    )
