"""Asset metadata in the Dagster UI: a summary sentence, then numbers, tables and pictures.

Lives here: the metadata of each asset; numbers as text bars, which Dagster shows without a click.
Add here when an asset must show something more.
Keep out: ids, e-mails and cells; only counts, shares and names of resources.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import dagster as dg

from cleanroom_pipelines.catalog import RECORDS, AudienceModel, ConfiguredAudienceModel, ExportJob, Resource
from cleanroom_pipelines.defs import pictures
from cleanroom_pipelines.runs.building import AssetResult
from cleanroom_pipelines.runs.inbox_folders import folder_of
from cleanroom_pipelines.runs.installation import Installation
from cleanroom_pipelines.runs.kinds import ASSETS
from cleanroom_pipelines.runs.reasons import escaped, link_to
from cleanroom_pipelines.runs.situation import place_of

Metadata = dict[str, Any]
_MOST_MONTHS = 12

# A random ranking has a higher relevance than a good one, so only recall and lift are compared with it.
RELEVANCE = "relevance (0: like the seed's own users)"
_NOTHING_APART = (
    "No item or feature value that 25 or more seed users have is more common in the seed than by chance."
)

_COLUMNS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "audience": (
        ("user_id", "VARCHAR", "user of the training dataset"),
        ("rank", "BIGINT", "1 is most similar to the seed"),
        ("score", "DOUBLE", "similarity in [0, 1]"),
        ("is_seed", "BOOLEAN", "whether this user is in the seed; never exported"),
    ),
    "audience_export": (("user_id", "VARCHAR", "user, most similar first"),),
    "audience_model": (
        ("user_id", "VARCHAR", "user of the training dataset"),
        ("item", "INTEGER", "number of the item among the items of the model"),
        ("weight", "FLOAT", "1 + ln(number of interactions)"),
    ),
}


def metadata_of(installation: Installation, made: AssetResult) -> Metadata:
    """All metadata of one materialisation, starting with the summary sentence.

    Args:
        installation: Holds the record of the resource and of its parents.
        made: The result of building or verifying the asset.
    """
    assert made.manifest is not None
    row = ASSETS[made.asset]
    record = installation.catalog.get(RECORDS[row.kind], made.partition)
    page: Metadata = {
        "summary": dg.MetadataValue.md(f"**{made.sentence}**"),
        "partition": dg.MetadataValue.md(_partition_markdown(installation, record)),
    }
    page |= _places(installation, record) | _page_at(row.page)(record, made.documents)
    if columns := _COLUMNS.get(made.asset) or _declared_columns(made.asset, record):
        page["dagster/column_schema"] = dg.MetadataValue.table_schema(
            dg.TableSchema([dg.TableColumn(name, type_, description) for name, type_, description in columns])
        )
    page["input artifacts"] = _inputs_table(made)
    page["artifact"] = f"version {made.manifest.version}, {len(made.manifest.files)} files"
    page["artifact location"] = installation.store.location(made.manifest.reference)
    page["code version"] = made.manifest.code_version
    return page


def report_of(installation: Installation, made: AssetResult) -> Metadata:
    """Metadata that shows the validation report of a version whose data failed validation."""
    row = ASSETS[made.asset]
    if made.manifest is None:
        return {}
    return _page_at(row.page)(installation.catalog.get(RECORDS[row.kind], made.partition), made.documents)


def training_dataset(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of a training dataset: its validation report and profile."""
    from cleanroom_pipelines.uploads.report import ValidationReport, report_markdown

    page: Metadata = {}
    if profile := documents.get("profile"):
        page["dagster/row_count"] = profile["n_rows"]
        page["users"], page["items"] = profile["n_users"], profile["n_items"]
        if months := profile["rows_per_month"]:
            newest = dict(list(months.items())[-_MOST_MONTHS:])
            page["interactions by month"] = _count_bars("month", "interactions", newest)
        page["picture: interactions by month"] = pictures.months(profile)
    report = ValidationReport.from_dict(documents["report"])
    page["validation report"] = dg.MetadataValue.md(report_markdown(report))
    if users := documents.get("users_report"):
        page["validation report of users"] = dg.MetadataValue.md(
            report_markdown(ValidationReport.from_dict(users))
        )
    if profile:
        page["table profile"] = dg.MetadataValue.json(profile)
    return page


def audience_model(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of a model: its training data and training times."""
    training = documents["training"]
    page: Metadata = {
        "dagster/row_count": training["n_pairs"],
        "users": training["n_users"],
        "items": training["n_items"],
        "interactions": training["n_interactions"],
        "items per user": round(training["n_pairs"] / training["n_users"], 1),
    }
    if training["first_time"] is not None:
        days = (
            datetime.fromtimestamp(training[end], UTC).date().isoformat() for end in ("first_time", "last_time")
        )
        page["training period"] = " to ".join(days)
    if table := training["profile"].get("users_table"):
        share = table["n_matched_users"] / training["n_users"]
        page["users with a row in the users table"] = f"{table['n_matched_users']:,} ({share:.0%})"
    if isinstance(record, AudienceModel) and record.next_refresh_at is not None:
        page["next refresh"] = f"{record.next_refresh_at:%Y-%m-%d %H:%M} UTC"
    page["warnings"] = _warnings(training["warnings"])
    page["seconds by stage"] = _stage_bars(training["timing_seconds"], training.get("peak_bytes", {}))
    return page


def configured_audience_model(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of a configured model: its permitted uses."""
    configuration = documents["configuration"]
    return {
        "dagster/row_count": len(configuration["sizes"]),
        "permitted uses": dg.MetadataValue.json(configuration),
    }


def seed_validation_report(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of a seed: its validation report, and how many of its users are in the model."""
    from cleanroom_pipelines.uploads.report import ValidationReport, report_markdown

    report = documents["report"]["report"]
    page: Metadata = {
        "dagster/row_count": report["numRowsTotal"],
        "seed is usable": documents["outcome"]["usable"],
        "validation report": dg.MetadataValue.md(report_markdown(ValidationReport.from_dict(documents["report"]))),
    }
    if message := documents["outcome"]["message"]:
        page["why the seed is not usable"] = f"{documents['outcome']['statusCode']}: {message}"
    if match := documents.get("match"):
        page["seed match"] = _match_bars(match)
    return page


def audience(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of an audience: quality of the ranking, and what distinguishes the seed."""
    metrics, explanation = documents["metrics"], documents["explanation"]
    main, apart = metrics["recall_at"], _apart(explanation)
    page: Metadata = {
        "held-out seed users found": bars(
            "size",
            ("this audience", "random ranking"),
            [
                (row["size"], [(share, f"{share:.0%}") for share in (row["recall"], row["recall_random"])])
                for row in metrics["sizes"]
            ],
            largest=1.0,
        ),
        "what distinguishes the seed": _apart_bars(apart) if apart else _NOTHING_APART,
        "dagster/row_count": metrics["n_users"],
        f"recall at {main['size']}": round(main["recall"], 3),
        f"recall at {main['size']}, random ranking": round(main["recall_random"], 3),
        "AUC": round(metrics["auc"], 3),
        "quality by size": _sizes_table(metrics),
        "warnings": dg.MetadataValue.md(_list_markdown([warning["message"] for warning in metrics["warnings"]])),
        "seed match": _match_bars(metrics["match"]),
    }
    if timing := metrics.get("timing"):
        page["seconds by stage"] = _stage_bars(timing, metrics.get("peak_bytes", {}))
    page["picture: audience quality"] = pictures.quality(metrics)
    if privacy := metrics.get("privacy"):
        page["privacy statement"] = privacy["statement"]
        page["privacy budget of the two organisations"] = dg.MetadataValue.json(privacy)
    else:
        page["signal contributions"] = _signal_bars(explanation["signals"])
    if apart:
        page["picture: distinguishing features"] = pictures.explanation(apart)
        page["distinguishing features"] = _apart_table(apart)
    return page


def audience_export(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of an export: the delivered users, the files and the destination."""
    export = documents["export"]
    counts = export | (export.get("changes") or {})
    words = ("requested", "delivered", "added", "removed")
    return {
        "dagster/row_count": export["delivered"],
        "users": _count_bars("", "users", {word: counts[word] for word in words if word in counts}),
        "users requested": export["requested"],
        "users delivered": export["delivered"],
        **_changes(export.get("changes")),
        "destination": export["url"],
        "file format": export["format"],
        "warnings": _warnings(export["warnings"]),
        "number of files": len(export["files"]),
        "revealed by design": ", ".join(export.get("reveals", [])) or "nothing",
    }


def _changes(changes: Mapping[str, Any] | None) -> Metadata:
    return (
        {f"users {word} since the previous export": changes[word] for word in ("added", "removed")}
        if changes
        else {}
    )


def _places(installation: Installation, record: Resource) -> Metadata:
    """Return metadata with an export's location, or with the inbox folder for a configured model's seeds."""
    if isinstance(record, ExportJob) and record.output_location is not None:
        return {"stored at": place_of(installation, record)}
    if isinstance(record, ConfiguredAudienceModel):
        return {"inbox folder for seeds": f"{folder_of(installation, record)}/"}
    return {}


def _page_at(place: str) -> Callable[[Resource, Mapping[str, Any]], Metadata]:
    module, name = place.rsplit(".", 1)
    page: Callable[[Resource, Mapping[str, Any]], Metadata] = getattr(
        import_module(f"cleanroom_pipelines.defs.{module}"), name
    )
    return page


def _partition_markdown(installation: Installation, record: Resource) -> str:
    """Describe a resource: its name, description, dates, status and links to its parents."""
    lines = [f"**{escaped(record.name)}** ({record.kind.words} `{record.id}`)", ""]
    if record.description:
        lines += [escaped(record.description), ""]
    lines.append(
        f"Created {record.created_at:%Y-%m-%d %H:%M} UTC, changed {record.updated_at:%Y-%m-%d %H:%M} UTC."
    )
    lines += ["", f"Status: {record.status}" + (f" ({record.status_code})" if record.status_code else "")]
    parent: Resource | None = record
    while parent and parent.parent_id and parent.parent_kind:
        parent = installation.catalog.get(RECORDS[parent.parent_kind], parent.parent_id)
        lines.append(f"- {parent.kind.words}: {link_to(parent)}")
    return "\n".join(lines)


def _inputs_table(made: AssetResult) -> dg.MetadataValue:
    assert made.manifest is not None
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "asset": entry.asset,
                    "partition": entry.partition,
                    "version": entry.version,
                    "digest": entry.digest[:16],
                }
            )
            for entry in made.manifest.inputs
        ],
        schema=_schema("asset", "partition", "version", "digest"),
    )


def _sizes_table(metrics: Mapping[str, Any]) -> dg.MetadataValue:
    rows = [
        {
            "size": row["size"],
            "users": f"{row['delivered']:,}",
            "recall of held-out seed users": f"{row['recall']:.1%}",
            "95 % interval": f"{row['recall_interval'][0]:.1%} to {row['recall_interval'][1]:.1%}",
            "recall of a random ranking": f"{row['recall_random']:.1%}",
            "lift (random: 1)": f"{row['lift']:.2f}",
            RELEVANCE: "not better than random" if row["relevance"] is None else f"{row['relevance']:.2f}",
        }
        for row in metrics["sizes"]
    ]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema=_schema(*rows[0]))


def _apart(explanation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the feature values, then the items, that distinguish the seed; the strongest first in each group."""
    from cleanroom_pipelines.similarity.specs import item_words

    items = [{**entry, "name": item_words(entry)} for entry in explanation["items"]]
    features = [{**entry, "name": f"{entry['column']} {entry['value']}"} for entry in explanation["features"]]
    return features + items


def _apart_table(apart: list[dict[str, Any]]) -> dg.MetadataValue:
    if "strength" in apart[0]:
        strengths = [
            {
                "item or feature value": entry["name"],
                "standard deviations above chance": f"{entry['strength']:.1f}",
            }
            for entry in apart
        ]
        return dg.MetadataValue.table([dg.TableRecord(row) for row in strengths], schema=_schema(*strengths[0]))
    rows = [
        {
            "item or feature value": entry["name"],
            "share of seed": f"{entry['share_of_seed']:.1%}",
            "share of all users": f"{entry['share_of_users']:.1%}",
            "lift": f"{entry['lift']:.2f}",
        }
        for entry in apart
    ]
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema=_schema(*rows[0]))


def _apart_bars(apart: list[dict[str, Any]]) -> dg.MetadataValue:
    key = "strength" if "strength" in apart[0] else "lift"
    return bars(
        "item or feature value",
        ("lift" if key == "lift" else "standard deviations above chance",),
        [
            (entry["name"], [(entry[key], f"{entry[key]:.1f}")])
            for entry in sorted(apart, key=lambda entry: -entry[key])
        ],
    )


def _signal_bars(signals: list[dict[str, Any]]) -> dg.MetadataValue:
    rows = sorted(signals, key=lambda each: -each["gain"])
    return bars(
        "signal",
        ("contribution to the ranking", "AUC of this signal alone"),
        [
            (
                each["signal"],
                [(each["gain"], f"{each['gain']:.0%}"), (each["held_out_auc"], f"{each['held_out_auc']:.2f}")],
            )
            for each in rows
        ],
        largest=1.0,
    )


def _stage_bars(timing: Mapping[str, float], peak_bytes: Mapping[str, int]) -> dg.MetadataValue:
    memory = {stage: f"{n_bytes / 1e6:,.0f} MB" for stage, n_bytes in peak_bytes.items()}
    rows = [(stage, [(spent, f"{spent:.1f}"), (None, memory.get(stage, ""))]) for stage, spent in timing.items()]
    return bars("stage", ("seconds", "peak memory"), rows)


def _match_bars(match: Mapping[str, Any]) -> dg.MetadataValue:
    words = {
        "n_rows": "rows",
        "n_invalid": "invalid",
        "n_duplicates": "duplicate",
        "n_unique": "different users",
        "n_matched": "known to the model",
    }
    return _count_bars("", "seed", {words[key]: match[key] for key in words if key in match})


def _count_bars(what: str, column: str, counts: Mapping[str, int]) -> dg.MetadataValue:
    return bars(what, (column,), [(label, [(n, f"{n:,}")]) for label, n in counts.items()])


def _declared_columns(asset: str, record: Resource) -> tuple[tuple[str, str, str], ...]:
    from cleanroom_pipelines.catalog import TrainingDataset

    if not isinstance(record, TrainingDataset) or asset != "training_dataset":
        return ()
    return tuple((name, role.value, "declared column") for name, role in record.columns)


def _schema(*names: str) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, "string") for name in names])


def _warnings(codes: list[str]) -> dg.MetadataValue:
    from cleanroom_pipelines.similarity.specs import WARNINGS

    return dg.MetadataValue.md(_list_markdown([WARNINGS.get(code, code) for code in codes]))


def _list_markdown(lines: list[str]) -> str:
    return "\n".join(f"- {escaped(str(line))}" for line in lines) or "none"


_SHOWN_CHARACTERS = 1_000  # Dagster hides longer Markdown behind a click
_WIDTH = 20
_LABEL_CHARACTERS = 60

Cell = tuple[float | None, str]
"""A number and its text; None has no bar."""


def bars(
    what: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]], *, largest: float | None = None
) -> dg.MetadataValue:
    """Draw numbers as text bars, in as many rows as Dagster shows without a click.

    Args:
        what: Heading of the labels.
        columns: Headings of the numbers.
        rows: Labels, each with one number per column.
        largest: The number with the longest bar; the largest of all if not given.
    """
    longest = largest or max((value or 0 for _, cells in rows for value, _ in cells), default=0) or 1
    lines = [f"| {what} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    n_characters = sum(map(len, lines)) + len(lines)
    for number, (label, cells) in enumerate(rows):
        words = escaped(" ".join(label.split())[:_LABEL_CHARACTERS])
        line = f"| {words} | {' | '.join(_bar(cell, longest) for cell in cells)} |"
        more = f"| {len(rows) - number} more |" + " |" * len(columns)
        n_characters += len(line) + 1
        if n_characters + len(more) > _SHOWN_CHARACTERS:
            lines.append(more)
            break
        lines.append(line)
    return dg.MetadataValue.md("\n".join(lines))


def _bar(cell: Cell, longest: float) -> str:
    value, text = cell
    length = 0 if not value else max(1, min(_WIDTH, round(_WIDTH * value / longest)))
    return f"{'█' * length} {text}".strip()
