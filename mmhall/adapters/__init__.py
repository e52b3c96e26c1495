"""Adapters: differences between model families, one file for each way of reading pictures.

Public: the names below, and modules without a leading underscore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.adapters._base import (
        PER_POSITION as PER_POSITION,
        Adapter as Adapter,
        Batch as Batch,
        Inputs as Inputs,
        first_tokens as first_tokens,
        has_picture as has_picture,
    )
    from mmhall.adapters._families import FAMILIES as FAMILIES, adapter_for as adapter_for
    from mmhall.adapters._grid import Grid as Grid
    from mmhall.adapters._layer_parts import LayerParts as LayerParts
    from mmhall.adapters._messages import (
        Conversation as Conversation,
        Messages as Messages,
        Request as Request,
        Turn as Turn,
        check_text as check_text,
        edit_question as edit_question,
        read_messages as read_messages,
    )
    from mmhall.adapters._processed import ProcessedPictures as ProcessedPictures, process_once as process_once
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "_base": "Adapter Batch Inputs PER_POSITION first_tokens has_picture",
            "_families": "FAMILIES adapter_for",
            "_grid": "Grid",
            "_layer_parts": "LayerParts",
            "_messages": "Conversation Messages Request Turn check_text edit_question read_messages",
            "_processed": "ProcessedPictures process_once",
        },
    )
