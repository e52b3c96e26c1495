"""Read and steer the decoder's attention through one registered function."""

from mmhall.attention.door import NAME, close_door, open_door
from mmhall.attention.plan import Call, Op, Plan, active

__all__ = ["NAME", "Call", "Op", "Plan", "active", "close_door", "open_door"]
