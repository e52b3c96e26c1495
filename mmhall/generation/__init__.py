"""Decode a batch with a strategy: settings, branches, sampling, beams, searches over prompts.

The names below, and modules without a leading underscore, are what other packages may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.generation._beams import Beams as Beams, beginning as beginning
    from mmhall.generation._branches import Rows as Rows
    from mmhall.generation._candidates import Draws as Draws, choosable as choosable, naming as naming
    from mmhall.generation._custom import custom_generate as custom_generate
    from mmhall.generation._hypotheses import LENGTH_RULES as LENGTH_RULES, prompt_lengths as prompt_lengths
    from mmhall.generation._job import Decoding as Decoding, Job as Job, Kept as Kept, Recipe as Recipe
    from mmhall.generation._prepare import Source as Source, prepare as prepare
    from mmhall.generation._prompt_search import PromptSearch as PromptSearch, searched as searched
    from mmhall.generation._requests import (
        Images as Images,
        Prompt as Prompt,
        filled as filled,
        make_request as make_request,
        make_requests as make_requests,
    )
    from mmhall.generation._run import decode as decode, first as first, run as run, source as source
    from mmhall.generation._sampling import chain as chain
    from mmhall.generation._settings import (
        Settings as Settings,
        checked_seeds as checked_seeds,
        make_settings as make_settings,
    )
    from mmhall.generation._state import State as State, prefill as prefill
    from mmhall.generation._streaming import Stream as Stream, Turns as Turns
    from mmhall.generation._threads import Caller as Caller

__getattr__, __dir__, __all__ = exports(
    __name__,
    {
        "_beams": "Beams beginning",
        "_branches": "Rows",
        "_candidates": "Draws choosable naming",
        "_custom": "custom_generate",
        "_hypotheses": "LENGTH_RULES prompt_lengths",
        "_job": "Decoding Job Kept Recipe",
        "_prepare": "Source prepare",
        "_prompt_search": "PromptSearch searched",
        "_requests": "Images Prompt filled make_request make_requests",
        "_run": "decode first run source",
        "_sampling": "chain",
        "_settings": "Settings checked_seeds make_settings",
        "_state": "State prefill",
        "_streaming": "Stream Turns",
        "_threads": "Caller",
    },
)
