"""Decode a batch with a strategy: settings, branches, sampling, beams, searches over prompts.

The names below, and modules without a leading underscore, are what other packages may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.generation._answering import (
        Measurement as Measurement,
        build_answers as build_answers,
        build_early_answer as build_early_answer,
        measure as measure,
    )
    from mmhall.generation._beams import Beams as Beams, common_prefix as common_prefix
    from mmhall.generation._branches import DecodeBatch as DecodeBatch
    from mmhall.generation._budget import Budget as Budget
    from mmhall.generation._candidates import (
        TokenSampler as TokenSampler,
        check_scores as check_scores,
        keep_nucleus as keep_nucleus,
        name_in_errors as name_in_errors,
    )
    from mmhall.generation._custom import custom_generate as custom_generate
    from mmhall.generation._forecast import Forecast as Forecast, Samples as Samples
    from mmhall.generation._hypotheses import LENGTH_RULES as LENGTH_RULES, prompt_lengths as prompt_lengths
    from mmhall.generation._job import (
        Decoding as Decoding,
        Job as Job,
        Recipe as Recipe,
        StepScores as StepScores,
        make_recipe as make_recipe,
    )
    from mmhall.generation._open_batch import Answered as Answered
    from mmhall.generation._prepare import PlannedBatch as PlannedBatch, prepare as prepare
    from mmhall.generation._prompt_search import (
        PromptSearch as PromptSearch,
        greedy_search as greedy_search,
        run_searches as run_searches,
    )
    from mmhall.generation._refilling import refill as refill
    from mmhall.generation._requests import (
        Images as Images,
        Prompt as Prompt,
        fill_pictures as fill_pictures,
        make_request as make_request,
        make_requests as make_requests,
    )
    from mmhall.generation._run import (
        answer_first as answer_first,
        decode as decode,
        end_ids as end_ids,
        first_token_scores as first_token_scores,
        forced_logprobs as forced_logprobs,
        plan_batch as plan_batch,
        run as run,
    )
    from mmhall.generation._sampling import Answers as Answers
    from mmhall.generation._search_rows import (
        Ask as Ask,
        Feed as Feed,
        Keep as Keep,
        SearchRows as SearchRows,
        Split as Split,
        Steps as Steps,
    )
    from mmhall.generation._settings import (
        Settings as Settings,
        check_seeds as check_seeds,
        make_settings as make_settings,
    )
    from mmhall.generation._shared_prefix import why_not_shared as why_not_shared
    from mmhall.generation._state import DecodeState as DecodeState, prefill as prefill
    from mmhall.generation._streaming import Stream as Stream, Turns as Turns
    from mmhall.generation._threads import CallerContext as CallerContext
    from mmhall.generation._waiting import Asked as Asked, Waiting as Waiting, queue as queue
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "_answering": "Measurement build_answers build_early_answer measure",
            "_beams": "Beams common_prefix",
            "_branches": "DecodeBatch",
            "_budget": "Budget",
            "_candidates": "TokenSampler check_scores keep_nucleus name_in_errors",
            "_custom": "custom_generate",
            "_forecast": "Forecast Samples",
            "_hypotheses": "LENGTH_RULES prompt_lengths",
            "_job": "Decoding Job Recipe StepScores make_recipe",
            "_open_batch": "Answered",
            "_prepare": "PlannedBatch prepare",
            "_prompt_search": "PromptSearch greedy_search run_searches",
            "_refilling": "refill",
            "_requests": "Images Prompt fill_pictures make_request make_requests",
            "_run": "answer_first decode end_ids first_token_scores forced_logprobs plan_batch run",
            "_sampling": "Answers",
            "_search_rows": "Ask Feed Keep SearchRows Split Steps",
            "_settings": "Settings check_seeds make_settings",
            "_shared_prefix": "why_not_shared",
            "_state": "DecodeState prefill",
            "_streaming": "Stream Turns",
            "_threads": "CallerContext",
            "_waiting": "Asked Waiting queue",
        },
    )
