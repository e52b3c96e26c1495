"""Antialiased vector drawing on a transparent square, on top of Pillow.

Coordinates are fractions of the square's side: (0, 0) is the top left corner, (1, 1) the bottom
right one; so are radii and line widths. Shapes are drawn four times too large and reduced at the
end, which is where the antialiasing comes from. Pillow alone does the drawing, so the same calls
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int] | tuple[int, int, int, int]
Point = tuple[float, float]

INK: Colour = (38, 34, 40)
OUTLINE = 0.016
_OVERSAMPLING = 4


def smooth(points: Sequence[Point], *, closed: bool, steps: int = 10) -> list[Point]:
    """Interpolate a Catmull-Rom curve through the points.

    Args:
        points: At least two control points; the curve passes through each.
        closed: Whether the curve returns to its first point.
        steps: Straight pieces per control point.
    """
    ring = [points[-1], *points, points[0], points[1]] if closed else [points[0], *points, points[-1]]
    curve: list[Point] = []
    for (ax, ay), (bx, by), (cx, cy), (dx, dy) in zip(ring, ring[1:], ring[2:], ring[3:], strict=False):
        for i in range(steps):
            t = i / steps
            u, v = t * t, t * t * t
            x = bx + 0.5 * (t * (cx - ax) + u * (2 * ax - 5 * bx + 4 * cx - dx) + v * (3 * bx - ax - 3 * cx + dx))
            y = by + 0.5 * (t * (cy - ay) + u * (2 * ay - 5 * by + 4 * cy - dy) + v * (3 * by - ay - 3 * cy + dy))
            curve.append((x, y))
    return curve if closed else [*curve, points[-1]]


class Pen:
    """Draw filled and outlined shapes, back to front.

    Every filled shape takes `fill` (None: outline only), `ink` (the outline's colour, None: no
    outline) and `width` (the outline's width).
    """

    def __init__(self, size: int) -> None:
        """Start with a transparent square of `size` pixels a side."""
        self.size = size
        self._side = size * _OVERSAMPLING
        self._image = Image.new("RGBA", (self._side, self._side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)

    def image(self) -> Image.Image:
        """Return the drawing, (size, size) RGBA."""
        return self._image.reduce(_OVERSAMPLING)

    def polygon(
        self, points: Sequence[Point], fill: Colour | None, ink: Colour | None = INK, width: float = OUTLINE
    ) -> None:
        """Draw a closed polygon with round joints."""
        pixels = self._pixels(points)
        if fill is not None:
            self._draw.polygon(pixels, fill=fill)
        if ink is not None:
            self._stroke([*pixels, pixels[0]], ink, width)

    def blob(
        self, points: Sequence[Point], fill: Colour | None, ink: Colour | None = INK, width: float = OUTLINE
    ) -> None:
        """Draw a smooth closed shape through the points (at least three)."""
        self.polygon(smooth(points, closed=True), fill, ink, width)

    def rectangle(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        fill: Colour | None,
        ink: Colour | None = INK,
        width: float = OUTLINE,
        radius: float = 0.0,
    ) -> None:
        """Draw an upright rectangle; `radius` rounds its corners."""
        box = [left * self._side, top * self._side, right * self._side, bottom * self._side]
        line = max(1, round(width * self._side)) if ink is not None else 0
        self._draw.rounded_rectangle(box, radius * self._side, fill=fill, outline=ink, width=line)

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        fill: Colour | None,
        ink: Colour | None = INK,
        width: float = OUTLINE,
    ) -> None:
        """Draw an ellipse with centre (x, y) and radii rx, ry."""
        box = [(x - rx) * self._side, (y - ry) * self._side, (x + rx) * self._side, (y + ry) * self._side]
        line = max(1, round(width * self._side)) if ink is not None else 0
        self._draw.ellipse(box, fill=fill, outline=ink, width=line)

    def circle(
        self, x: float, y: float, r: float, fill: Colour | None, ink: Colour | None = INK, width: float = OUTLINE
    ) -> None:
        """Draw a circle with centre (x, y) and radius r."""
        self.ellipse(x, y, r, r, fill, ink, width)

    def pie(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        end: float,
        fill: Colour | None,
        ink: Colour | None = INK,
        width: float = OUTLINE,
    ) -> None:
        """Draw a slice of an ellipse; degrees run clockwise from three o'clock."""
        box = [(x - rx) * self._side, (y - ry) * self._side, (x + rx) * self._side, (y + ry) * self._side]
        line = max(1, round(width * self._side)) if ink is not None else 0
        self._draw.pieslice(box, start, end, fill=fill, outline=ink, width=line)

    def line(self, points: Sequence[Point], ink: Colour = INK, width: float = OUTLINE) -> None:
        """Draw straight pieces through the points, with round ends and joints."""
        self._stroke(self._pixels(points), ink, width)

    def curve(self, points: Sequence[Point], ink: Colour = INK, width: float = OUTLINE) -> None:
        """Draw a smooth open line through the points, with round ends."""
        self.line(smooth(points, closed=False), ink, width)

    def tube(
        self, points: Sequence[Point], fill: Colour, width: float, ink: Colour = INK, outline: float = OUTLINE
    ) -> None:
        """Draw a smooth thick line with an outline: legs, tails, handles."""
        self.curve(points, ink, width + 2 * outline)
        self.curve(points, fill, width)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._side, y * self._side) for x, y in points]

    def _stroke(self, pixels: Sequence[Point], ink: Colour, width: float) -> None:
        line = max(1, round(width * self._side))
        self._draw.line(list(pixels), fill=ink, width=line, joint="curve")
        r = line / 2
        for x, y in (pixels[0], pixels[-1]):
            self._draw.ellipse([x - r, y - r, x + r, y + r], fill=ink)


Drawing = Callable[[Pen, int], None]
