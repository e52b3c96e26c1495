"""Analysis of answers and strategies: teacher forcing, scores, traces, heat maps, saliency, explanations.

The names below, and modules without a leading underscore, are what other packages may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.analysis._explain import explain_strategy as explain_strategy
    from mmhall.analysis._explanation import Explanation as Explanation
    from mmhall.analysis._first_answers import (
        OBJECTIVES as OBJECTIVES,
        FirstAnswers as FirstAnswers,
        first_answers as first_answers,
        gains_of_heads as gains_of_heads,
    )
    from mmhall.analysis._following import Candidate as Candidate, Followed as Followed, follow_answer as follow_answer
    from mmhall.analysis._head_divergence import HeadDivergence as HeadDivergence, head_divergence as head_divergence
    from mmhall.analysis._head_effects import (
        head_influence as head_influence,
        head_logit_gains as head_logit_gains,
    )
    from mmhall.analysis._heat_map import extent as extent, spread as spread
    from mmhall.analysis._lens import Lens as Lens, read_lens as read_lens
    from mmhall.analysis._methods import AnalysisMethods as AnalysisMethods
    from mmhall.analysis._modality_dominance import (
        GROUPS as GROUPS,
        ModalityDominance as ModalityDominance,
        measure_dominance as measure_dominance,
    )
    from mmhall.analysis._saliency import (
        SaliencyProbe as SaliencyProbe,
        mark_informative as mark_informative,
        mark_words as mark_words,
    )
    from mmhall.analysis._sar import (
        answer_sar as answer_sar,
        relevance_shares as relevance_shares,
        token_sar as token_sar,
    )
    from mmhall.analysis._score import (
        AnswerScores as AnswerScores,
        score as score,
        score_answers as score_answers,
        score_with as score_with,
        token_logprobs as token_logprobs,
    )
    from mmhall.analysis._teacher_forcing import (
        check_room as check_room,
        fit_answers as fit_answers,
        pad_answers as pad_answers,
        read_answer as read_answer,
        read_prompts as read_prompts,
    )
    from mmhall.analysis._trace import (
        AttentionProbe as AttentionProbe,
        Trace as Trace,
        check_indices as check_indices,
        shrink_picture as shrink_picture,
    )
    from mmhall.analysis._tracing import trace_request as trace_request
    from mmhall.analysis._word_values import (
        WordValues as WordValues,
        measure_words as measure_words,
        word_attention as word_attention,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "_explain": "explain_strategy",
            "_explanation": "Explanation",
            "_first_answers": "FirstAnswers OBJECTIVES first_answers gains_of_heads",
            "_following": "Candidate Followed follow_answer",
            "_head_divergence": "HeadDivergence head_divergence",
            "_head_effects": "head_influence head_logit_gains",
            "_heat_map": "extent spread",
            "_lens": "Lens read_lens",
            "_methods": "AnalysisMethods",
            "_modality_dominance": "ModalityDominance GROUPS measure_dominance",
            "_saliency": "SaliencyProbe mark_informative mark_words",
            "_sar": "answer_sar relevance_shares token_sar",
            "_score": "AnswerScores score score_answers score_with token_logprobs",
            "_teacher_forcing": "check_room fit_answers pad_answers read_answer read_prompts",
            "_trace": "AttentionProbe Trace check_indices shrink_picture",
            "_tracing": "trace_request",
            "_word_values": "WordValues measure_words word_attention",
        },
    )
