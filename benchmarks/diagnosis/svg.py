"""Plots of a diagnosis as SVG text: curves with intervals, and maps over layers and heads.

Colours are variables of the page (`--accent`, `--second`, `--ink`), so that a plot follows its light or dark scheme. A
point or cell tells its value in a title, which browsers show under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from mmhall.results.statistics import Estimate

WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 34
_TICKS, _LABELS = 4, 10
_CELL = (7.0, 20.0)  # least and largest height


def curve(points: Sequence[tuple[str, Estimate]], across: str, scale: float = 1.0, line: float | None = None) -> str:
    """Plot values with their intervals, in order; "" without any value.

    Args:
        points: Names and values.
        across: What the names are, below the axis.
        scale: Factor of a shown value.
        line: A threshold, in the unit shown; None: none is drawn.
    """
    known = [
        (at, name, scale * e.value, scale * e.low, scale * e.high)
        for at, (name, e) in enumerate(points)
        if e.value is not None and e.low is not None and e.high is not None
    ]
    if not known:
        return ""
    lowest = min([low for *_, low, _ in known] + ([] if line is None else [line]))
    highest = max([high for *_, high in known] + ([] if line is None else [line]))
    ticks = nice_ticks(min(0.0, lowest) if lowest < 0.5 * highest else lowest, highest)
    inner, outer = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def x(at: int) -> float:
        return _LEFT + inner * (at + 0.5) / len(points)

    def y(value: float) -> float:
        return _TOP + outer * (ticks[-1] - value) / (ticks[-1] - ticks[0])

    parts = [_axis(ticks, y)]
    if line is not None:
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(line):.1f}" y2="{y(line):.1f}"/>')
    for at, name, value, low, high in known:
        told = escape(f"{across} {name}: {value:.3g} [{low:.3g}, {high:.3g}]")
        parts.append(f'<line class="range" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>')
        parts.append(f'<circle class="dot" cx="{x(at):.1f}" cy="{y(value):.1f}" r="3.5"><title>{told}</title></circle>')
    path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, _, value, *_ in known)
    parts.append(f'<polyline class="path" points="{path}"/>')
    every = -(-len(points) // _LABELS)
    for at in range(0, len(points), every):
        parts.append(_text(x(at), HEIGHT - _BOTTOM + 15, points[at][0], "middle"))
    parts.append(_text(_LEFT + inner / 2, HEIGHT - 4, across, "middle"))
    return _svg(HEIGHT, parts)


def heat_map(heads: Mapping[int, Sequence[float]], scale: float = 1.0) -> str:
    """Plot the values of heads: a row for each layer, a column for each head; below 0 in the second colour.

    Args:
        heads: Values by layer, (H,) each.
        scale: Factor of a shown value.
    """
    layers, count = sorted(heads), max(map(len, heads.values()))
    largest = max((abs(v) for row in heads.values() for v in row if math.isfinite(v)), default=0.0) or 1.0
    wide, high = (WIDTH - _LEFT - _RIGHT) / count, min(_CELL[1], max(_CELL[0], 200 / len(layers)))
    parts, bottom = [], _TOP + high * len(layers)
    for row, layer in enumerate(layers):
        for head, value in enumerate(heads[layer]):
            colour = "hot" if value >= 0 else "cold"
            told = escape(f"layer {layer}, head {head}: {scale * value:.3g}")
            parts.append(
                f'<rect class="{colour}" x="{_LEFT + head * wide:.1f}" y="{_TOP + row * high:.1f}" width="{wide:.1f}" '
                f'height="{high:.1f}" fill-opacity="{min(1.0, abs(value) / largest):.2f}"><title>{told}</title></rect>'
            )
    for row in range(0, len(layers), -(-len(layers) // _LABELS)):
        parts.append(_text(_LEFT - 6, _TOP + (row + 0.5) * high + 4, str(layers[row]), "end"))
    for head in range(0, count, -(-count // _LABELS)):
        parts.append(_text(_LEFT + (head + 0.5) * wide, bottom + 15, str(head), "middle"))
    parts.append(
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{wide * count:.1f}" height="{bottom - _TOP:.1f}"/>'
    )
    below = f"head; rows are layers; full colour is {scale * largest:.3g}"
    parts.append(_text(_LEFT + wide * count / 2, bottom + 30, below, "middle"))
    return _svg(bottom + 36, parts)


def nice_ticks(low: float, high: float) -> list[float]:
    """Return ticks at round distances that hold both ends.

    >>> nice_ticks(0.0, 33.0)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    width = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(width / _TICKS))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * _TICKS >= width)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * tick, 10) for tick in range(first, max(last, first + 1) + 1)]


def _axis(ticks: Sequence[float], y: Callable[[float], float]) -> str:
    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(_LEFT - 6, y(tick) + 4, f"{tick:g}", "end"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
