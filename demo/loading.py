"""Put a set-up onto the page: its fields and forms are filled, and the answers to the last one go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmhall.demo.pickers import redrawing, redrawn
from mmhall.demo.setups import Setup
from mmhall.demo.state import AppState

if TYPE_CHECKING:
    from mmhall.demo.compare_tab import Board


def filling(board: Board) -> list[Any]:
    """Return what a set-up fills, in the order of `filled`."""
    return [*board.fields, *redrawing(board.pickers), board.answers, board.legend, board.shown, board.heat]


def filled(app: AppState, board: Board, wanted: Setup) -> list[Any]:
    """Return the values of `filling` for a set-up."""
    forms = redrawn(wanted.strategies, len(board.pickers))
    return [*board.filled(app, wanted), *forms, board.answers.value, "", None, board.heat.value]
