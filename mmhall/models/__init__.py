"""Models: their paths, options for loading them, and facts that identify them.

Public: the names below, and modules without a leading underscore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.models._facts import (
        chat_template as chat_template,
        describe_model as describe_model,
        differing_facts as differing_facts,
        facts as facts,
        format_differences as format_differences,
        warn_if_unknown as warn_if_unknown,
    )
    from mmhall.models._failures import UNLOADABLE as UNLOADABLE, hint_for as hint_for, reason_of as reason_of
    from mmhall.models._options import (
        OWNER as OWNER,
        SECRET as SECRET,
        LoadOptions as LoadOptions,
        literal as literal,
        parse_assignments as parse_assignments,
        to_flags as to_flags,
    )
    from mmhall.models._path import (
        MERGE as MERGE,
        SHIPPED as SHIPPED,
        base_of as base_of,
        find_learned_path as find_learned_path,
        find_model_path as find_model_path,
        processor_of as processor_of,
    )
    from mmhall.models._placement import (
        placement_arguments as placement_arguments,
        source_arguments as source_arguments,
    )
    from mmhall.models._weights import digest as digest
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "_facts": "chat_template describe_model differing_facts facts format_differences warn_if_unknown",
            "_failures": "UNLOADABLE hint_for reason_of",
            "_options": "LoadOptions OWNER SECRET literal parse_assignments to_flags",
            "_path": "MERGE SHIPPED base_of find_learned_path find_model_path processor_of",
            "_placement": "placement_arguments source_arguments",
            "_weights": "digest",
        },
    )
