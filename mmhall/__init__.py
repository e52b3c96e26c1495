"""Mitigate and measure hallucination of large vision-language models at decoding time.

Public names are imported on first use, so that `import mmhall` does not import torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmhall.answers import Answer as Answer
    from mmhall.answers import Choice as Choice
    from mmhall.answers import Uncertainty as Uncertainty
    from mmhall.closed._calibration import Calibration as Calibration
    from mmhall.closed._calibration import calibrate as calibrate
    from mmhall.generation._custom import custom_generate as custom_generate
    from mmhall.loading import load as load
    from mmhall.lvlm import LVLM as LVLM
    from mmhall.options import by_model as by_model
    from mmhall.options import option as option
    from mmhall.strategies import Branch as Branch
    from mmhall.strategies import Session as Session
    from mmhall.strategies import Strategy as Strategy
    from mmhall.strategies import strategy as strategy
    from mmhall.analysis._trace import Trace as Trace

_here = Path(__file__).resolve().parent
if not (_here / "decoders").is_dir() and (_here.parent / "decoders" / "__init__.py").is_file():
    __path__.append(str(_here.parent))  # source checkout: the sibling folders are our subpackages

_PUBLIC = {
    "Answer": "mmhall.answers",
    "Branch": "mmhall.strategies",
    "Calibration": "mmhall.closed._calibration",
    "Choice": "mmhall.answers",
    "LVLM": "mmhall.lvlm",
    "Trace": "mmhall.analysis._trace",
    "Uncertainty": "mmhall.answers",
    "by_model": "mmhall.options",
    "calibrate": "mmhall.closed._calibration",
    "custom_generate": "mmhall.generation._custom",
    "load": "mmhall.loading",
    "option": "mmhall.options",
    "Session": "mmhall.strategies",
    "Strategy": "mmhall.strategies",
    "strategy": "mmhall.strategies",
}

__all__ = [
    "LVLM",
    "Answer",
    "Branch",
    "Calibration",
    "Choice",
    "Session",
    "Strategy",
    "Trace",
    "Uncertainty",
    "by_model",
    "calibrate",
    "custom_generate",
    "load",
    "option",
    "strategy",
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
