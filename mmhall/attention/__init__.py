"""Read and steer decoder and vision tower: attention through registered functions, states through hooks."""

from mmhall.attention.columns import Columns, Groups
from mmhall.attention.door import NAME, close_door, open_door
from mmhall.attention.dropping import Drop
from mmhall.attention.exits import Exit, Exits
from mmhall.attention.layers import layers_named, layers_option
from mmhall.attention.linears import few_rows
from mmhall.attention.memory import Memory
from mmhall.attention.ops import ATTENTION, EVERY, FEATURES, SELF_ATTENTION, VISION, Call, Op, Place, Visit
from mmhall.attention.passes import Block, Frame
from mmhall.attention.plan import Plan, active, reading
from mmhall.attention.sinks import massive_dimensions, massiveness
from mmhall.attention.tower import OpenTower, PictureRows, Tower

__all__ = [
    "ATTENTION",
    "EVERY",
    "FEATURES",
    "NAME",
    "SELF_ATTENTION",
    "VISION",
    "Block",
    "Call",
    "Columns",
    "Drop",
    "Exit",
    "Exits",
    "Frame",
    "Groups",
    "Memory",
    "Op",
    "OpenTower",
    "PictureRows",
    "Place",
    "Plan",
    "Tower",
    "Visit",
    "active",
    "close_door",
    "few_rows",
    "layers_named",
    "layers_option",
    "massive_dimensions",
    "massiveness",
    "open_door",
    "reading",
]
