"""Pictures for people who would rather look than read.

Lives here: drawing metrics as PNG inside markdown, below Dagster's 100 kB a value.
Add here when a number is easier seen than read.
Keep out: numbers that are not in the documents already.
"""

import base64
import io
from collections.abc import Mapping
from typing import Any

import dagster as dg

_SEED, _POPULATION, _RANDOM = "#d1495b", "#30638e", "#8d99ae"
_MAX_BYTES = 70_000  # base64 makes four bytes of three


def quality(metrics: Mapping[str, Any]) -> dg.MetadataValue:  # type: ignore[type-arg]
    """Recall beside random, ROC, relevance and lift by size, and where seed and population score."""
    figure, axes = _figure(2, 2, 10.5, 7.2)
    _draw_recall(axes[0][0], metrics)
    _draw_roc(axes[0][1], metrics)
    _draw_relevance(axes[1][0], metrics)
    _draw_scores(axes[1][1], metrics)
    return _as_markdown(figure, "how good the audience is")


def explanation(items: list[Mapping[str, Any]]) -> dg.MetadataValue:  # type: ignore[type-arg]
    """Over-indexed items with their lift."""
    top = list(reversed(items[:15]))
    figure, axes = _figure(1, 1, 8, 0.35 * len(top) + 1.2)
    axis = axes[0][0]
    axis.barh([str(item["item"])[:40] for item in top], [item["lift"] for item in top], color=_SEED)
    axis.axvline(1, color=_RANDOM, linestyle="--")
    axis.set_xlabel("times as common in the seed as in the population")
    axis.set_title("What sets the seed apart")
    return _as_markdown(figure, "items that set the seed apart")


def months(profile: Mapping[str, Any]) -> dg.MetadataValue:  # type: ignore[type-arg]
    """Interactions by month."""
    rows = profile["rows_per_month"]
    if not rows:
        return dg.MetadataValue.md("The table has no times.")
    figure, axes = _figure(1, 1, 8, 2.6)
    axis = axes[0][0]
    axis.bar(list(rows), list(rows.values()), color=_POPULATION)
    axis.tick_params(axis="x", rotation=60)
    axis.set_title("Interactions by month")
    return _as_markdown(figure, "interactions by month")


def _draw_recall(axis: Any, metrics: Mapping[str, Any]) -> None:
    rows = [row for row in rows_by_size(metrics) if row["recall"] is not None]
    names = [row["size"] for row in rows]
    positions = range(len(rows))
    axis.bar([p - 0.2 for p in positions], [row["recall"] for row in rows], 0.4, color=_SEED, label="this audience")
    axis.bar([p + 0.2 for p in positions], [row["random_recall"] for row in rows], 0.4, color=_RANDOM, label="random")
    for position, row in zip(positions, rows, strict=True):
        low, high = row["interval"] or (row["recall"], row["recall"])
        axis.plot([position - 0.2] * 2, [low, high], color="black", linewidth=1.5)
    axis.set_xticks(list(positions), names)
    axis.set_ylim(0, 1)
    axis.set_title("Share of held-out seed users found")
    axis.legend(frameon=False)


def _draw_roc(axis: Any, metrics: Mapping[str, Any]) -> None:
    axis.plot(metrics["roc"]["fpr"], metrics["roc"]["tpr"], color=_SEED)
    axis.plot([0, 1], [0, 1], color=_RANDOM, linestyle="--")
    axis.set_xlabel("share of other users passed")
    axis.set_ylabel("share of held-out seed users found")
    axis.set_title(f"ROC, area {metrics['auc']:.3f} (random 0.5)")


def _draw_relevance(axis: Any, metrics: Mapping[str, Any]) -> None:
    rows = [row for row in rows_by_size(metrics) if row["share"] is not None]
    shares = [100 * row["share"] for row in rows]
    if any(row["relevance"] is not None for row in rows):
        axis.plot(shares, [row["relevance"] for row in rows], "o-", color=_SEED, label="relevance")
    axis.plot(shares, [row["random_relevance"] for row in rows], "--", color=_RANDOM, label="relevance at random")
    axis.set_ylim(-1.05, 1.05)
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set_xlabel("audience size, % of population")
    axis.set_title("Relevance (left) and lift (right) by size")
    other = axis.twinx()
    other.plot(shares, [row["lift"] for row in rows], "s:", color=_POPULATION, label="lift")
    other.axhline(1, color=_POPULATION, linewidth=0.5, linestyle=":")
    other.set_ylim(bottom=0)
    handles, labels = (left + right for left, right in zip(axis.get_legend_handles_labels(), other.get_legend_handles_labels(), strict=True))
    axis.legend(handles, labels, frameon=False)


def _draw_scores(axis: Any, metrics: Mapping[str, Any]) -> None:
    histogram = metrics["score_distribution"]
    edges = histogram["edges"]
    widths = [right - left for left, right in zip(edges, edges[1:], strict=False)]
    for name, colour in (("population", _POPULATION), ("seed", _SEED)):
        counts = histogram[name]
        total = sum(counts) or 1
        axis.bar(edges[:-1], [count / total for count in counts], widths, align="edge", color=colour, alpha=0.55, label=name)
    axis.set_xlabel("score (seed users held out)")
    axis.set_title("Where seed and population score")
    axis.legend(frameon=False)


def rows_by_size(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per size: recall, lift, relevance, each beside what a random ranking gives."""
    return [dict(row) for row in metrics["sizes"]]


def _figure(n_rows: int, n_columns: int, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _as_markdown(figure: Any, alternative: str) -> dg.MetadataValue:  # type: ignore[type-arg]
    for dots_per_inch in (80, 60, 45):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dots_per_inch)
        if buffer.tell() <= _MAX_BYTES:
            break
    picture = base64.b64encode(buffer.getvalue()).decode()
    return dg.MetadataValue.md(f"![{alternative}](data:image/png;base64,{picture})")
