"""Read and edit attention and hidden states of decoder and vision tower.

Public: the names below, and modules without a leading underscore.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.attention._columns import AnswerColumns as AnswerColumns, Columns as Columns, Groups as Groups
    from mmhall.attention._dropping import Drop as Drop, check_layers as check_layers
    from mmhall.attention._exits import Exit as Exit, Exits as Exits
    from mmhall.attention._features import (
        Features as Features,
        forget_features as forget_features,
        reuse_features as reuse_features,
    )
    from mmhall.attention._hook import (
        NAME as NAME,
        install_attention_hook as install_attention_hook,
        remove_attention_hook as remove_attention_hook,
    )
    from mmhall.attention._linears import (
        choose_orders as choose_orders,
        few_rows as few_rows,
        time_orders as time_orders,
    )
    from mmhall.attention._memory import Memory as Memory
    from mmhall.attention._ops import (
        ATTENTION as ATTENTION,
        EVERY as EVERY,
        FEATURES as FEATURES,
        SELF_ATTENTION as SELF_ATTENTION,
        VISION as VISION,
        Call as Call,
        Op as Op,
        Place as Place,
        Visit as Visit,
        overrides as overrides,
    )
    from mmhall.attention._passes import (
        Block as Block,
        Frame as Frame,
        PassCount as PassCount,
        count_passes as count_passes,
    )
    from mmhall.attention._plan import (
        POSITIONS as POSITIONS,
        ROWS as ROWS,
        Plan as Plan,
        active as active,
        acts_at_site as acts_at_site,
        acts_in_layer as acts_in_layer,
        follow_frames as follow_frames,
    )
    from mmhall.attention._read_out import ReadOut as ReadOut
    from mmhall.attention._rotary import (
        RecordVectors as RecordVectors,
        Rotary as Rotary,
        measure_rotary as measure_rotary,
    )
    from mmhall.attention._rows import (
        column_means as column_means,
        first_marked as first_marked,
        output_of as output_of,
        scores_of as scores_of,
        visible_columns as visible_columns,
    )
    from mmhall.attention._tower import PictureRows as PictureRows, Tower as Tower, TowerHooks as TowerHooks
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "_columns": "AnswerColumns Columns Groups",
            "_dropping": "Drop check_layers",
            "_exits": "Exit Exits",
            "_features": "Features forget_features reuse_features",
            "_hook": "NAME install_attention_hook remove_attention_hook",
            "_linears": "choose_orders few_rows time_orders",
            "_memory": "Memory",
            "_ops": "ATTENTION Call EVERY FEATURES Op Place SELF_ATTENTION VISION Visit overrides",
            "_passes": "Block Frame PassCount count_passes",
            "_plan": "POSITIONS Plan ROWS active acts_at_site acts_in_layer follow_frames",
            "_read_out": "ReadOut",
            "_rotary": "RecordVectors Rotary measure_rotary",
            "_rows": "column_means first_marked output_of scores_of visible_columns",
            "_tower": "PictureRows Tower TowerHooks",
        },
    )
