"""Run a notebook's code without Jupyter."""

from __future__ import annotations

import ast
import json
from typing import Any


def run_notebook(text: str) -> list[Any]:
    """Run the code cells in one namespace; returns what Jupyter would display of each: its last expression's value."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]), cell["id"])
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, cell["id"], "exec"), names)
            value = None if last is None else eval(compile(ast.Expression(last.value), cell["id"], "eval"), names)
            shown.append(value)
    return shown
