"""Benchmarks, one file each: items, answer rules, scores; and the scenes that ship with mmhall."""

from mmhall.registry import Registry

if not __name__.startswith("mmhall."):
    raise ImportError("import mmhall.benchmarks, not benchmarks: a second name would make a second copy of every class")

BENCHMARKS = Registry(
    "benchmark",
    {"pope": "mmhall.benchmarks.pope:Pope", "chair": "mmhall.benchmarks.chair:Chair"},
    group="mmhall.benchmarks",
)
