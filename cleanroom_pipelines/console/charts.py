"""Charts as SVG: their geometry, computed on the server.

Lives here: bars with whiskers, and the ROC curve of a lookalike.
Add here when pages need another kind of chart.
Keep out: the numbers, and SVG text (`templates/charts.html`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_BAR, _GAP, _LABEL, _PLOT, _VALUE = 18, 10, 200, 320, 100


@dataclass(frozen=True)
class Bar:
    """A bar of a chart.

    Args:
        label: What it shows.
        value: Its length; None if there are too few users to tell.
        error: Half the length of its whisker.
        shown: The value in words, such as "1,200 ± 40".
    """

    label: str
    value: float | None
    error: float = 0.0
    shown: str = ""


@dataclass(frozen=True)
class DrawnBar:
    """A bar with its place in the picture, in pixels."""

    bar: Bar
    y: int
    text_y: int
    width: float
    low: float
    high: float


@dataclass(frozen=True)
class BarChart:
    """A chart of horizontal bars, all starting at zero."""

    bars: tuple[DrawnBar, ...]
    width: int
    height: int
    left: int
    bar_height: int
    mark: float | None


def bar_chart(bars: Sequence[Bar], mark: float | None = None) -> BarChart:
    """Lay out horizontal bars, one below the other.

    Args:
        bars: The bars.
        mark: A value that a line across all bars marks; None for no line.
    """
    longest = max((each.value + each.error for each in bars if each.value is not None), default=0.0)
    longest = max(longest, mark or 0.0) or 1.0

    def x(value: float) -> float:
        return round(_LABEL + _PLOT * min(max(value, 0.0), longest) / longest, 1)

    drawn = []
    for place, each in enumerate(bars):
        value, y = each.value or 0.0, _GAP + place * (_BAR + _GAP)
        low, high = x(value - each.error), x(value + each.error)
        drawn.append(DrawnBar(each, y, y + _BAR - 4, round(x(value) - _LABEL, 1), low, high))
    height = _GAP + len(bars) * (_BAR + _GAP)
    return BarChart(tuple(drawn), _LABEL + _PLOT + _VALUE, height, _LABEL, _BAR, None if mark is None else x(mark))


_LEFT, _TOP, _SIDE = 48, 28, 300
_EVERY = 10


@dataclass(frozen=True)
class CurvePoint:
    """A point of a ROC curve, as a row of the table that is shown with the plot."""

    fpr: float
    tpr: float
    error: float | None


@dataclass(frozen=True)
class RocCurve:
    """A ROC curve as drawn, and the points for the table that is shown with the plot.

    Args:
        line: The curve, as an SVG path.
        bounds: The curves of the error's bounds; empty without an error.
        points: Some of its points.
        left: Left edge of the plot, in pixels.
        top: Upper edge.
        side: Width and height of the plot.
    """

    line: str
    bounds: tuple[str, ...]
    points: tuple[CurvePoint, ...]
    left: int = _LEFT
    top: int = _TOP
    side: int = _SIDE


def roc_curve(statistics: Mapping[str, Any]) -> RocCurve | None:
    """Draw the ROC curve of a lookalike's statistics; None if the curve is not published."""
    fpr, tpr = statistics.get("fpr") or (), statistics.get("tpr") or ()
    if not fpr or len(fpr) != len(tpr) or None in tpr:
        return None
    errors: Sequence[float] = statistics.get("tpr_error") or ()
    has_errors = len(errors) == len(tpr)
    bounds = tuple(
        _path(fpr, [y + sign * error for y, error in zip(tpr, errors, strict=True)])
        for sign in ((-1, 1) if has_errors else ())
    )
    places = sorted({*range(0, len(fpr), _EVERY), len(fpr) - 1})
    points = tuple(CurvePoint(fpr[n], tpr[n], errors[n] if has_errors else None) for n in places)
    return RocCurve(_path(fpr, tpr), bounds, points)


def _path(fpr: Sequence[float], tpr: Sequence[float]) -> str:
    return "M" + "L".join(
        f"{_LEFT + _SIDE * x:.1f} {_TOP + _SIDE * (1 - min(max(y, 0.0), 1.0)):.1f}"
        for x, y in zip(fpr, tpr, strict=True)
    )
