"""Read and steer decoder and vision tower: attention through registered functions, states through hooks."""

from mmhall.attention._columns import Columns, Groups
from mmhall.attention._hook import NAME, close_door, open_door
from mmhall.attention._dropping import Drop
from mmhall.attention._exits import Exit, Exits
from mmhall.strategies._layers import layers_named, layers_option
from mmhall.attention._linears import few_rows
from mmhall.attention._memory import Memory
from mmhall.attention._ops import ATTENTION, EVERY, FEATURES, SELF_ATTENTION, VISION, Call, Op, Place, Visit
from mmhall.attention._passes import Block, Frame
from mmhall.attention._plan import Plan, active, reading
from mmhall.strategies._massive import massive_dimensions, massiveness
from mmhall.attention._tower import OpenTower, PictureRows, Tower

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
