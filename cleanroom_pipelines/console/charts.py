"""Charts as SVG: their geometry, computed on the server.

Lives here: bars with whiskers.
Add here when pages need another kind of chart.
Keep out: the numbers, and SVG text (`templates/charts.html`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
