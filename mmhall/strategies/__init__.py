"""Parts of decoding strategies: base classes, registry, options of layers, contrast, noise and fitted artifacts.

The names below, and modules without a leading underscore, are what other packages may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.strategies._asking import AskingStrategy as AskingStrategy, ask_first as ask_first
    from mmhall.strategies._base import (
        GENERAL as GENERAL,
        SEARCH as SEARCH,
        Branch as Branch,
        Combine as Combine,
        Composed as Composed,
        Session as Session,
        Strategy as Strategy,
    )
    from mmhall.strategies._build import strategy as strategy
    from mmhall.strategies._choices import StepRecord as StepRecord, layers_by_token as layers_by_token
    from mmhall.strategies._contrast import (
        CONTRAST as CONTRAST,
        Contrast as Contrast,
        ContrastStrategy as ContrastStrategy,
        contrast as contrast,
    )
    from mmhall.strategies._directions import (
        mean_difference as mean_difference,
        principal_component as principal_component,
        project_out as project_out,
        shuffled_range as shuffled_range,
        sign_aligned_component as sign_aligned_component,
    )
    from mmhall.strategies._docs import Card as Card, OptionHelp as OptionHelp, card as card, heading as heading
    from mmhall.strategies._heads import (
        HEAD_GAINS as HEAD_GAINS,
        HeadStrategy as HeadStrategy,
        format_heads as format_heads,
        heads_option as heads_option,
        random_heads as random_heads,
        select_heads as select_heads,
        top_heads as top_heads,
        usable_heads as usable_heads,
    )
    from mmhall.strategies._image_lift import (
        RaiseColumns as RaiseColumns,
        RowStrategy as RowStrategy,
        Steer as Steer,
        top_half as top_half,
        why_no_image_columns as why_no_image_columns,
    )
    from mmhall.strategies._layers import (
        format_layers as format_layers,
        layers_option as layers_option,
        select_layers as select_layers,
        select_tower_layers as select_tower_layers,
    )
    from mmhall.strategies._learned import Fit as Fit, LearnedStrategy as LearnedStrategy
    from mmhall.strategies._massive import (
        massive_dimensions as massive_dimensions,
        massive_threshold as massive_threshold,
        massiveness as massiveness,
    )
    from mmhall.strategies._noise import DRAWS as DRAWS, NOISE_STEPS as NOISE_STEPS, add_noise as add_noise
    from mmhall.strategies._pairs import (
        RECOMMENDED_PAIRS as RECOMMENDED_PAIRS,
        DifferingWords as DifferingWords,
        Pair as Pair,
        PairSet as PairSet,
        differing_words as differing_words,
        find_imbalance as find_imbalance,
    )
    from mmhall.strategies._picture_free import (
        PICTURE_FREE_EXPECTED as PICTURE_FREE_EXPECTED,
        picture_free_inputs as picture_free_inputs,
        picture_free_kinds as picture_free_kinds,
    )
    from mmhall.strategies._pruning import (
        ClassRanking as ClassRanking,
        KeepImageTokens as KeepImageTokens,
        keep_highest as keep_highest,
        kept_count as kept_count,
        why_no_class_scores as why_no_class_scores,
        why_no_drop as why_no_drop,
    )
    from mmhall.strategies._questions import (
        RECOMMENDED_QUESTIONS as RECOMMENDED_QUESTIONS,
        Question as Question,
        QuestionSet as QuestionSet,
    )
    from mmhall.strategies._registry import STRATEGIES as STRATEGIES
    from mmhall.strategies._segments import (
        Segments as Segments,
        picture_segments as picture_segments,
        text_segments as text_segments,
    )
    from mmhall.strategies._steering import (
        FIRST_ROW as FIRST_ROW,
        MLP_UPDATE as MLP_UPDATE,
        ReadOutputs as ReadOutputs,
        TurnUpdates as TurnUpdates,
        edit_rows as edit_rows,
        rows_option as rows_option,
        turn as turn,
    )
    from mmhall.strategies._step import Step as Step
    from mmhall.strategies._twins import (
        neutral_text as neutral_text,
        other_pictures as other_pictures,
        random_choice as random_choice,
        random_columns as random_columns,
        random_like as random_like,
        random_subspace as random_subspace,
        rank_columns as rank_columns,
        shuffled_columns as shuffled_columns,
        twin_generator as twin_generator,
        twin_option as twin_option,
    )
    from mmhall.strategies._yes_no import (
        YesNoTokens as YesNoTokens,
        why_no_yes_no as why_no_yes_no,
        yes_no_tokens as yes_no_tokens,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "_asking": "AskingStrategy ask_first",
            "_base": "Branch Combine Composed GENERAL SEARCH Session Strategy",
            "_build": "strategy",
            "_choices": "StepRecord layers_by_token",
            "_contrast": "CONTRAST Contrast ContrastStrategy contrast",
            "_directions": "mean_difference principal_component project_out shuffled_range sign_aligned_component",
            "_docs": "Card OptionHelp card heading",
            "_heads": "HEAD_GAINS HeadStrategy format_heads heads_option random_heads select_heads top_heads "
            "usable_heads",
            "_image_lift": "RaiseColumns RowStrategy Steer top_half why_no_image_columns",
            "_layers": "select_layers select_tower_layers layers_option format_layers",
            "_learned": "Fit LearnedStrategy",
            "_massive": "massive_dimensions massive_threshold massiveness",
            "_noise": "DRAWS NOISE_STEPS add_noise",
            "_pairs": "DifferingWords Pair PairSet RECOMMENDED_PAIRS differing_words find_imbalance",
            "_picture_free": "PICTURE_FREE_EXPECTED picture_free_inputs picture_free_kinds",
            "_pruning": "ClassRanking KeepImageTokens keep_highest kept_count why_no_class_scores why_no_drop",
            "_questions": "Question QuestionSet RECOMMENDED_QUESTIONS",
            "_registry": "STRATEGIES",
            "_segments": "Segments picture_segments text_segments",
            "_steering": "FIRST_ROW MLP_UPDATE ReadOutputs TurnUpdates edit_rows rows_option turn",
            "_step": "Step",
            "_twins": "neutral_text other_pictures random_choice random_columns random_like random_subspace "
            "rank_columns shuffled_columns twin_generator twin_option",
            "_yes_no": "YesNoTokens why_no_yes_no yes_no_tokens",
        },
    )
