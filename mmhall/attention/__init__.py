"""Read and steer the decoder's attention through one registered function."""

from mmhall.attention.columns import Columns, Groups
from mmhall.attention.door import NAME, close_door, open_door
from mmhall.attention.layers import layers_named, layers_option
from mmhall.attention.linears import few_rows
from mmhall.attention.plan import SELF_ATTENTION, Call, Op, Plan, active
from mmhall.attention.sinks import massive_dimensions, massiveness

__all__ = [
    "NAME",
    "SELF_ATTENTION",
    "Call",
    "Columns",
    "Groups",
    "Op",
    "Plan",
    "active",
    "close_door",
    "few_rows",
    "layers_named",
    "layers_option",
    "massive_dimensions",
    "massiveness",
    "open_door",
]
