"""Choices among given answers: likelihood and calibration.

The names below, and modules without a leading underscore, are what other packages may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.closed._calibration import Calibration as Calibration, calibrate as calibrate
    from mmhall.closed._choosing import choose_answers as choose_answers, make_choosing as make_choosing
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "_calibration": "Calibration calibrate",
            "_choosing": "choose_answers make_choosing",
        },
    )
