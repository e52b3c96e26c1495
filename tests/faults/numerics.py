"""Faults 18 to 25: numerics and model."""

from __future__ import annotations

from mmhall.errors import MmhallError, OptionError
from mmhall.strategies import strategy
from tests.faults.support import refuses


def bad_options(folder):
    for spec in ("vcd(beta=2)", "vcd(alpha=1e999)", "vhr(alpha=1e300)", "vcd(alpha='a')"):
        refuses(OptionError, "must be", strategy, spec)
    refuses(MmhallError, "did you mean", strategy, "vdc")


ROWS = [
    (20, "options out of range", bad_options),
]
