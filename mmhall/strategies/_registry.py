"""The registry of strategies: those of `mmhall.decoders`, and those of other packages."""

from __future__ import annotations

from mmhall.registry import Registry

STRATEGIES = Registry(
    "strategy", "mmhall.decoders:BUILT_IN", group="mmhall.strategies", base="mmhall.strategies:Strategy"
)
