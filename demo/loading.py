"""Loading a set-up into the Compare tab: its fields and forms are filled, and the old answers are cleared."""

from __future__ import annotations

from typing import Any

from mmhall.demo.board import Board
from mmhall.demo.pickers import redraw_outputs, redraw_values
from mmhall.demo.setups import Setup
from mmhall.demo.state import AppState


def loading_outputs(board: Board) -> list[Any]:
    """Return the components that a set-up fills, in the order of `loading_values`."""
    return [
        *board.setup_outputs,
        *redraw_outputs(board.pickers),
        board.answers,
        board.legend,
        board.shown,
        board.saliency,
    ]


def loading_values(app: AppState, board: Board, setup: Setup) -> list[Any]:
    """Return the values of `loading_outputs` for a set-up."""
    forms = redraw_values(setup.strategies, len(board.pickers))
    return [*board.setup_values(app, setup), *forms, board.answers.value, "", None, board.saliency.value]
