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
    from mmhall.closed import Calibration as Calibration, calibrate as calibrate
    from mmhall.generation import custom_generate as custom_generate
    from mmhall.loading import load as load
    from mmhall.lvlm import LVLM as LVLM
    from mmhall.options import by_model as by_model, option as option
    from mmhall.strategies import Branch as Branch, Session as Session, Strategy as Strategy, strategy as strategy

_here = Path(__file__).resolve().parent
if not (_here / "decoders").is_dir() and (_here.parent / "decoders" / "__init__.py").is_file():
    __path__.append(str(_here.parent))  # source checkout: the sibling folders are our subpackages

_PUBLIC = {
    "Answer": "mmhall.answers",
    "Branch": "mmhall.strategies",
    "Calibration": "mmhall.closed",
    "Choice": "mmhall.answers",
    "LVLM": "mmhall.lvlm",
    "Trace": "mmhall.analysis",
    "Uncertainty": "mmhall.answers",
    "by_model": "mmhall.options",
    "calibrate": "mmhall.closed",
    "custom_generate": "mmhall.generation",
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
