"""Mitigate and measure hallucination of large vision-language models at decoding time.

Public names are imported on first use, so that `import mmhall` does not import torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmhall.analysis import Trace as Trace
    from mmhall.answers import Answer as Answer, Choice as Choice, Uncertainty as Uncertainty
    from mmhall.benchmarks.base import Benchmark as Benchmark
    from mmhall.benchmarks.report.results import Results as Results
    from mmhall.benchmarks.run.calls import bench as bench, open_run as open_run, register as register
    from mmhall.closed import Calibration as Calibration, calibrate as calibrate
    from mmhall.comparison import Comparison as Comparison, compare as compare
    from mmhall.generation import custom_generate as custom_generate
    from mmhall.loading import load as load, wrap as wrap
    from mmhall.lvlm import LVLM as LVLM
    from mmhall.options import by_model as by_model, option as option
    from mmhall.strategies import Branch as Branch, Session as Session, Strategy as Strategy, strategy as strategy

_here = Path(__file__).resolve().parent
if not (_here / "decoders").is_dir() and (_here.parent / "decoders" / "__init__.py").is_file():
    __path__.append(str(_here.parent))  # source checkout: the sibling folders are our subpackages

_PUBLIC = {
    "Answer": "mmhall.answers",
    "Benchmark": "mmhall.benchmarks.base",
    "Branch": "mmhall.strategies",
    "Calibration": "mmhall.closed",
    "Choice": "mmhall.answers",
    "Comparison": "mmhall.comparison",
    "LVLM": "mmhall.lvlm",
    "Results": "mmhall.benchmarks.report.results",
    "Trace": "mmhall.analysis",
    "Uncertainty": "mmhall.answers",
    "bench": "mmhall.benchmarks.run.calls",
    "by_model": "mmhall.options",
    "calibrate": "mmhall.closed",
    "compare": "mmhall.comparison",
    "custom_generate": "mmhall.generation",
    "load": "mmhall.loading",
    "open_run": "mmhall.benchmarks.run.calls",
    "option": "mmhall.options",
    "register": "mmhall.benchmarks.run.calls",
    "Session": "mmhall.strategies",
    "Strategy": "mmhall.strategies",
    "strategy": "mmhall.strategies",
    "wrap": "mmhall.loading",
}

__all__ = [
    "LVLM",
    "Answer",
    "Benchmark",
    "Branch",
    "Calibration",
    "Choice",
    "Comparison",
    "Results",
    "Session",
    "Strategy",
    "Trace",
    "Uncertainty",
    "bench",
    "by_model",
    "calibrate",
    "compare",
    "custom_generate",
    "load",
    "open_run",
    "option",
    "register",
    "strategy",
    "wrap",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used.

    Raises:
        VersionError: There is no transformers, or one that mmhall was not tested with.
    """
    if name in _PUBLIC:
        importlib.import_module("mmhall._transformers")  # it checks the version, before anything else can fail
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'mmhall' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Offer the public names for completion."""
    return sorted({*globals(), *__all__})
