"""Analyse a model's answers: teacher forcing, scores, traces, heat maps, saliency, explanations.

The names below, and modules without a leading underscore, are what other packages may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.analysis._explanation import Explanation as Explanation, explained as explained
    from mmhall.analysis._head_divergence import HeadDivergence as HeadDivergence, head_divergence as head_divergence
    from mmhall.analysis._modality_dominance import GROUPS as GROUPS, Balance as Balance, balance as balance
    from mmhall.analysis._saliency import Gaze as Gaze, informative as informative, named as named
    from mmhall.analysis._score import Scored as Scored, score as score, scored_answers as scored_answers
    from mmhall.analysis._teacher_forcing import check_room as check_room, read_answer as read_answer
    from mmhall.analysis._trace import Probe as Probe, Trace as Trace, checked as checked, shown as shown
    from mmhall.analysis._tracing import watched as watched

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "_explanation": "Explanation explained",
        "_head_divergence": "HeadDivergence head_divergence",
        "_modality_dominance": "Balance GROUPS balance",
        "_saliency": "Gaze informative named",
        "_score": "Scored score scored_answers",
        "_teacher_forcing": "check_room read_answer",
        "_trace": "Probe Trace checked shown",
        "_tracing": "watched",
    },
)
