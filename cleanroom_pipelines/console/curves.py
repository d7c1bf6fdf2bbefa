"""Curves as SVG: their geometry, computed on the server.

Lives here: the ROC curve with the bounds of its error.
Add here when pages need another curve.
Keep out: bars (`charts.py`), the numbers, and SVG text (templates).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
