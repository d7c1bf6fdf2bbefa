"""Charts of metrics for the Dagster UI.

Lives here: drawing metrics as PNG inside markdown, below Dagster's limit of 100 kB per value.
Add here when a chart shows a metric better than text does.
Keep out: numbers that are not already in the documents.
"""

import base64
import io
import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

_SEED, _POPULATION, _RANDOM = "#d1495b", "#30638e", "#8d99ae"
_MAX_BYTES = 70_000  # base64 turns three bytes into four


def quality(metrics: Mapping[str, Any]) -> dg.MetadataValue:
    """Chart recall and lift by size (next to a random ranking), the ROC curve, and the scores."""
    figure, axes = _figure(2, 2, 10.5, 7.2)
    _draw_recall(axes[0][0], metrics)
    _draw_roc(axes[0][1], metrics)
    _draw_lift(axes[1][0], metrics)
    if metrics["histogram"]:
        _draw_scores(axes[1][1], metrics)
    else:  # a private ranking releases no scores
        axes[1][1].set_axis_off()
    return _as_markdown(figure, "audience quality")


def explanation(apart: list[dict[str, Any]]) -> dg.MetadataValue:
    """Chart the lift of over-indexed items and feature values."""
    top = list(reversed(apart[:15]))
    figure, axes = _figure(1, 1, 8, 0.35 * len(top) + 1.2)
    axis = axes[0][0]
    if "lift" in top[0]:
        axis.barh([entry["name"][:60] for entry in top], [entry["lift"] for entry in top], color=_SEED)
        axis.axvline(1, color=_RANDOM, linestyle="--")
        axis.set_xlabel("times as common in the seed as among all users")
    else:
        axis.barh([entry["name"][:60] for entry in top], [entry["strength"] for entry in top], color=_SEED)
        axis.set_xlabel("difference from all users, in standard errors")
    axis.set_title("Items and features that distinguish the seed")
    return _as_markdown(figure, "items and features that distinguish the seed")


def months(profile: Mapping[str, Any]) -> dg.MetadataValue:
    """Chart the number of interactions by month."""
    rows = profile["rows_per_month"]
    if not rows:
        return dg.MetadataValue.md("The table has no timestamps.")
    figure, axes = _figure(1, 1, 8, 2.6)
    axis = axes[0][0]
    axis.bar(list(rows), list(rows.values()), color=_POPULATION)
    axis.tick_params(axis="x", rotation=60)
    axis.set_title("Interactions by month")
    return _as_markdown(figure, "interactions by month")


def overlap(rows: list[Mapping[str, Any]]) -> dg.MetadataValue:
    """Chart each seed audience's released overlap with the base, or its match rate where sizes are hidden."""
    is_hidden = all(row["overlap_size"] is None for row in rows)
    key, label = ("match_rate", "match rate") if is_hidden else ("overlap_size", "users in both, with noise")
    shown = list(reversed(rows[:20]))
    figure, axes = _figure(1, 1, 8, 0.4 * len(shown) + 1.2)
    axis = axes[0][0]
    axis.barh([row["audience_type"][:40] for row in shown], [row[key] or 0 for row in shown], color=_SEED)
    axis.set_xlabel(label)
    axis.set_title("Overlap by seed audience")
    return _as_markdown(figure, "overlap by seed audience")


def affinity(audience_type: str, rows: list[Mapping[str, Any]]) -> dg.MetadataValue:
    """Chart the released affinity by segment, age and gender, highest first."""
    ranked = sorted(rows, key=lambda row: -row["affinity_ratio"])
    shown = list(reversed(ranked[:20]))
    names = [str(row["interest"] or row["age"] or row["gender"])[:40] for row in shown]
    colours = [_SEED if row["interest"] else _POPULATION for row in shown]
    figure, axes = _figure(1, 1, 8, 0.35 * len(shown) + 1.2)
    axis = axes[0][0]
    axis.barh(names, [row["affinity_ratio"] for row in shown], color=colours)
    axis.axvline(1, color=_RANDOM, linestyle="--")
    axis.set_xlabel("times as common in the overlap as among the matchable users")
    axis.set_title(f"Affinity of {audience_type[:40]} (red: segments, blue: demographics)")
    return _as_markdown(figure, "affinity by segment and demographics")


def reach(rows: list[Mapping[str, Any]]) -> dg.MetadataValue:
    """Chart the share of held-out source users found at each reach, next to a random ranking."""
    figure, axes = _figure(1, 1, 7, 3.6)
    axis = axes[0][0]
    reaches = [row["reach"] for row in rows]
    axis.plot(reaches, [row["tpr"] for row in rows], color=_SEED, label="this lookalike")
    axis.plot(reaches, [each / 100 for each in reaches], color=_RANDOM, linestyle="--", label="random")
    axis.set_xlabel("reach, % of all relevant users")
    axis.set_ylabel("held-out source users found")
    axis.set_title("Held-out source users found, by reach")
    axis.legend(frameon=False)
    return _as_markdown(figure, "held-out source users found, by reach")


def _draw_recall(axis: Any, metrics: Mapping[str, Any]) -> None:
    rows = metrics["sizes"]
    positions = range(len(rows))
    axis.bar(
        [p - 0.2 for p in positions], [row["recall"] for row in rows], 0.4, color=_SEED, label="this audience"
    )
    axis.bar(
        [p + 0.2 for p in positions], [row["recall_random"] for row in rows], 0.4, color=_RANDOM, label="random"
    )
    for position, row in zip(positions, rows, strict=True):
        axis.plot([position - 0.2] * 2, row["recall_interval"], color="black", linewidth=1.5)
    axis.set_xticks(list(positions), [row["size"] for row in rows])
    axis.set_ylim(0, 1)
    axis.set_title("Share of held-out seed users found")
    axis.legend(frameon=False)


def _draw_roc(axis: Any, metrics: Mapping[str, Any]) -> None:
    axis.plot([point["fpr"] for point in metrics["roc"]], [point["tpr"] for point in metrics["roc"]], color=_SEED)
    axis.plot([0, 1], [0, 1], color=_RANDOM, linestyle="--")
    axis.set_xlabel("share of other users included")
    axis.set_ylabel("share of held-out seed users found")
    axis.set_title(f"ROC, area {metrics['auc']:.3f} (random 0.5)")


def _draw_lift(axis: Any, metrics: Mapping[str, Any]) -> None:
    """Draw lift by size. Relevance is only in the table, because it is highest for a random ranking."""
    rows = metrics["sizes"]
    positions = range(len(rows))
    axis.bar(list(positions), [row["lift"] for row in rows], 0.5, color=_SEED, label="this audience")
    for position, row in zip(positions, rows, strict=True):
        axis.plot([position] * 2, row["lift_interval"], color="black", linewidth=1.5)
    axis.axhline(1, color=_RANDOM, linestyle="--", label="random")
    axis.set_xticks(list(positions), [row["size"] for row in rows])
    axis.set_ylim(bottom=0)
    axis.set_title("Lift: times as many seed users found as at random")
    axis.legend(frameon=False)


def _draw_scores(axis: Any, metrics: Mapping[str, Any]) -> None:
    edges = metrics["histogram"]["bins"]
    for name, colour in (("population", _POPULATION), ("seed", _SEED)):
        counts = metrics["histogram"][name]
        shares = [count / max(1, sum(counts)) for count in counts]
        axis.bar(edges[:-1], shares, edges[1] - edges[0], align="edge", color=colour, alpha=0.55, label=name)
    axis.set_xlabel("score (seed users held out)")
    axis.set_ylabel("share of users")
    axis.set_title("Scores of seed and population")
    axis.legend(frameon=False)


def _figure(n_rows: int, n_columns: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rcParams["text.parse_math"] = False  # a name such as "5 $ to 10 $" is not a formula
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _as_markdown(figure: Any, alternative: str) -> dg.MetadataValue:
    from PIL import Image  # a dependency of matplotlib

    for dots_per_inch in (80, 60, 45):
        figure.set_dpi(dots_per_inch)
        with warnings.catch_warnings(action="ignore"):  # a missing glyph would be quoted in a log
            figure.canvas.draw()
        drawn = Image.frombuffer("RGBA", figure.canvas.get_width_height(), figure.canvas.buffer_rgba())
        buffer = io.BytesIO()
        # few colours: a third of the bytes, so a chart rarely needs a second, smaller rendering
        drawn.convert("RGB").quantize(64, method=Image.Quantize.FASTOCTREE).save(buffer, format="PNG")
        if buffer.tell() <= _MAX_BYTES:
            break
    picture = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![{alternative}](data:image/png;base64,{picture})")
