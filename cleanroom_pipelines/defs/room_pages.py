"""Metadata of data-room assets in the Dagster UI; counts from both parties' data appear only with noise.

Lives here: the metadata of each asset in group `data_room`, read from its artifact's documents.
Add here when a room's asset must show something more.
Keep out: metadata of lookalike assets (`pages.py`), drawing (`pictures.py`), and counts without noise.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from cleanroom_pipelines.catalog import Resource
from cleanroom_pipelines.defs import pictures
from cleanroom_pipelines.defs.pages import bars
from cleanroom_pipelines.runs.reasons import escaped

Metadata = dict[str, Any]
_MOST_ROWS = 100


def data_lab(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of a data lab: reports and counts of the publisher's uploads."""
    page = _reports(documents["reports"])
    if documents["statistics"]:
        page["upload statistics"] = dg.MetadataValue.json(documents["statistics"])
    return page


def base_audience(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of a base audience: reports and counts of the publisher's data."""
    page = _reports(documents.get("reports", {}))
    if base := documents.get("base"):
        page["dagster/row_count"] = base["n_users"]
        page["base audience counts"] = dg.MetadataValue.json(base)
    return page


def seed_audiences(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of the seed audiences: report and counts of the advertiser's data."""
    page = _reports({"seed audiences": documents["report"]} if "report" in documents else {})
    if seeds := documents.get("seeds"):
        page["dagster/row_count"] = seeds["n_unique_ids"]
        page["number of seed audiences"] = len(seeds["by_type"])
    return page


def data_attributes(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of the attributes: their types, operators and numbers of values."""
    rows = [
        {
            "attribute": each["name"],
            "type": each["type"],
            "values": str(len(each["values"])),
            "operators": ", ".join(each["operators"]),
        }
        for each in documents["attributes"]["attributes"]
    ]
    return {"attributes": _table(rows)} if rows else {}


def overlap_statistics(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of the overlap: released overlaps as bars and a table."""
    released = documents["overlap"]["with_own_counts"]  # this page is for the operator
    rows = [
        {
            "seed audience": row["audience_type"],
            "shared users": _released(row["overlap_size"]),
            "match rate": "too few" if row["match_rate"] is None else f"{row['match_rate']:.0%}",
            "": "indicative" if row["overlap_size"] is not None and row["overlap_size"] < 150 else "",
        }
        for row in released["rows"]
    ]
    page: Metadata = {}
    if rows:
        is_hidden = all(row["overlap_size"] is None for row in released["rows"])
        page["overlap"] = bars(
            "seed audience",
            ("match rate" if is_hidden else "shared users, with noise",),
            [
                (
                    row["audience_type"],
                    [
                        (row["match_rate"], _share(row["match_rate"]))
                        if is_hidden
                        else (row["overlap_size"], _released(row["overlap_size"]))
                    ],
                )
                for row in released["rows"]
            ],
        )
        page["picture: overlap"] = pictures.overlap(released["rows"])
        page["overlap by seed audience"] = _table(rows)
    return page | {"noise per count": released["noise"]["statement"]} | _budget(documents["overlap"])


def insights(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of the insights: a chart and a table for each of the first three seed audiences."""
    released = documents["insights"]["result"]
    page: Metadata = {}
    for number, audience in enumerate(released["audiences"][:3], start=1):
        shown = [row for row in audience["rows"] if row["affinity_ratio"] is not None]
        single = [row for row in shown if sum(row[key] is not None for key in ("interest", "age", "gender")) == 1]
        if single:
            page[f"affinity of seed audience {number}"] = bars(
                f"in {escaped(audience['audience_type'][:40])}",
                ("times as common as among the matchable users",),
                [
                    (
                        str(row["interest"] or row["age"] or row["gender"]),
                        [(row["affinity_ratio"], f"{row['affinity_ratio']:g}")],
                    )
                    for row in sorted(single, key=lambda row: -row["affinity_ratio"])
                ],
            )
            page[f"picture: affinity of seed audience {number}"] = pictures.affinity(
                audience["audience_type"], single
            )
        rows = [
            {
                "seed audience": audience["audience_type"],
                "interest": row["interest"] or "",
                "age": row["age"] or "",
                "gender": row["gender"] or "",
                "affinity": f"{row['affinity_ratio']:g}",
                "share of overlap": f"{row['share_in_overlap']:.1%}",
                "share of matchable users": f"{row['share_in_matchable']:.1%}",
            }
            for row in sorted(shown, key=lambda row: -row["affinity_ratio"])[:_MOST_ROWS]
        ]
        if rows:
            page[f"insights of seed audience {number}"] = _table(rows)
    return page | {"noise per count": released["noise"]["statement"]} | _budget(documents["insights"])


def room_model(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Return no metadata, because the model's numbers belong to the publisher."""
    return {}


def custom_audience(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of a custom audience: its released size, and what a list would reveal by design."""
    size = documents["audience"]["released"]
    reveals = ", ".join(documents["audience"]["reveals"]) or "nothing"
    page: Metadata = {
        "number of users": _released(size["size"]),
        "noise of the size": size["noise"]["statement"],
        "revealed by design": reveals,
    }
    return page | _budget(documents["audience"])


def lookalike_statistics(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of a lookalike's quality: the curve, the reach table and the AUC."""
    released = documents["statistics"]["result"]
    rows = [
        {
            "reach": f"{row['reach']}%",
            "users": _released(row["size"]),
            "held-out source users found": _share(row["tpr"]),
            "other users included (false positive rate)": _share(row["fpr"]),
        }
        for row in released["reach"]
    ]
    return {
        "held-out source users found": bars(
            "reach",
            ("this lookalike", "random ranking"),
            [
                (f"{row['reach']}%", [(row["tpr"], _share(row["tpr"])), (row["reach"] / 100, f"{row['reach']}%")])
                for row in released["reach"]
            ],
            largest=1.0,
        ),
        "picture: reach": pictures.reach(released["reach"]),
        "AUC": released["auc"],
        "users by reach": _table(rows),
        "noise per count": released["noise"]["statement"],
        **_budget(released),
    }


def _share(value: float | None) -> str:
    return "too few" if value is None else f"{value:.1%}"


def _budget(document: Mapping[str, Any]) -> Metadata:
    """Return the two data providers' remaining budget and privacy bound at the time of the build."""
    privacy = document.get("privacy")
    if privacy is None:
        return {}
    period = " this month" if privacy["period"] else ""
    return {
        "privacy budget": f"{privacy['spent']} of {privacy['total']} units spent{period}, {privacy['left']} left",
        "privacy bound": privacy["bound"]["statement"],
    }


def audience_user_list(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Metadata of a user list: the delivered files, and what the list reveals by design."""
    delivered = documents["list"]
    return {
        "number of files": len(delivered["files"]),
        "revealed by design": ", ".join(delivered["reveals"]) or "nothing",
        "delivery manifest": dg.MetadataValue.json(delivered["manifest"]),
    }


def _reports(reports: Mapping[str, Any]) -> Metadata:
    from cleanroom_pipelines.uploads.report import ValidationReport, report_markdown

    return {
        f"validation report of {name}": dg.MetadataValue.md(report_markdown(ValidationReport.from_dict(report)))
        for name, report in reports.items()
    }


def _released(number: int | None) -> str:
    return "not released" if number is None else f"{number:,}"


def _table(rows: list[dict[str, str]]) -> dg.MetadataValue:
    schema = dg.TableSchema([dg.TableColumn(name or "note", "string") for name in rows[0]])
    return dg.MetadataValue.table(
        [dg.TableRecord({name or "note": text for name, text in row.items()}) for row in rows], schema=schema
    )
