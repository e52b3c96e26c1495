"""Objects in pictures: names of categories, their words in texts, and questions about them.

The names below, and modules without a leading underscore, are what other packages may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.objects.leading import LEADS as LEADS, is_lead as is_lead
    from mmhall.objects.vocabulary import (
        Mention as Mention,
        Vocabulary as Vocabulary,
        mentions as mentions,
        object_vocabulary as object_vocabulary,
    )
    from mmhall.objects.wording import question_about as question_about
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "leading": "LEADS is_lead",
            "vocabulary": "Mention Vocabulary mentions object_vocabulary",
            "wording": "question_about",
        },
    )
