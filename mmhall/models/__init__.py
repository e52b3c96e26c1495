"""Where a model lies, how it is loaded, and what tells it from others.

The names below, and modules without a leading underscore, are what other packages may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.models._facts import (
        chat_template as chat_template,
        contrasted as contrasted,
        described as described,
        differing as differing,
        facts as facts,
        warn_if_unknown as warn_if_unknown,
    )
    from mmhall.models._failures import UNLOADABLE as UNLOADABLE, hint_for as hint_for, reason_of as reason_of
    from mmhall.models._options import (
        OWNER as OWNER,
        LoadOptions as LoadOptions,
        as_flags as as_flags,
        keyed as keyed,
        literal as literal,
    )
    from mmhall.models._path import (
        MERGE as MERGE,
        base_of as base_of,
        learned_at as learned_at,
        located as located,
        processor_of as processor_of,
    )
    from mmhall.models._placement import origin_of as origin_of, placement as placement
    from mmhall.models._weights import digest as digest

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "_facts": "chat_template contrasted described differing facts warn_if_unknown",
        "_failures": "UNLOADABLE hint_for reason_of",
        "_options": "LoadOptions OWNER as_flags keyed literal",
        "_path": "MERGE base_of learned_at located processor_of",
        "_placement": "origin_of placement",
        "_weights": "digest",
    },
)
