"""Choices among given answers: likelihood and calibration.

The names below, and modules without a leading underscore, are what other packages may rely on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmhall._lazy import exports

if TYPE_CHECKING:
    from mmhall.closed._calibration import Calibration as Calibration, calibrate as calibrate
    from mmhall.closed._choosing import choose_answers as choose_answers, make_choosing as make_choosing
    from mmhall.closed._domain import DomainContext as DomainContext
    from mmhall.closed._methods import ChoiceMethods as ChoiceMethods
    from mmhall.closed._rotations import (
        PositionBias as PositionBias,
        RotatedChoice as RotatedChoice,
        check_rotation as check_rotation,
        choose_option as choose_option,
        take_out_places as take_out_places,
        write_options as write_options,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "_calibration": "Calibration calibrate",
            "_choosing": "choose_answers make_choosing",
            "_domain": "DomainContext",
            "_methods": "ChoiceMethods",
            "_rotations": "PositionBias RotatedChoice check_rotation choose_option take_out_places write_options",
        },
    )
