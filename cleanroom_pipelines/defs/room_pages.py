"""What a person sees of a data room's assets in the Dagster UI; numbers of both sides only as they were released.

Lives here: the metadata of each asset of group `data_room`, by the documents of its artifact.
Add here when an asset of a room has something more to show.
Keep out: the other road's pages (`pages.py`), drawing (`pictures.py`), and every exact count of both sides.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from cleanroom_pipelines.catalog import Resource
from cleanroom_pipelines.defs import pictures

Metadata = dict[str, Any]
_MOST_ROWS = 100


def data_lab(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Reports and counts of what a publisher brought."""
    page = _reports(documents["reports"])
    if documents["statistics"]:
        page["statistics"] = dg.MetadataValue.json(documents["statistics"])
    return page


def base_audience(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Reports and counts of the publisher's side."""
    page = _reports(documents.get("reports", {}))
    if base := documents.get("base"):
        page["dagster/row_count"] = base["n_users"]
        page["base"] = dg.MetadataValue.json(base)
    return page


def seed_audiences(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Report and counts of the advertiser's side."""
    page = _reports({"seed audiences": documents["report"]} if "report" in documents else {})
    if seeds := documents.get("seeds"):
        page["dagster/row_count"] = seeds["n_unique_ids"]
        page["audience types"] = len(seeds["by_type"])
    return page


def data_attributes(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """How many values each attribute has."""
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
    """Released overlaps as bars and a table."""
    told = documents["overlap"]["with_own_counts"]  # the operator's page
    rows = [
        {
            "seed audience": row["audience_type"],
            "shared users": _told(row["overlap_size"]),
            "match rate": "too few" if row["match_rate"] is None else f"{row['match_rate']:.0%}",
            "": "indicative" if row["overlap_size"] is not None and row["overlap_size"] < 150 else "",
        }
        for row in told["rows"]
    ]
    page: Metadata = {}
    if rows:
        page["picture: overlap"] = pictures.overlap(told["rows"])
        page["overlap"] = _table(rows)
    return page | {"noise": told["noise"]["statement"]} | _budget(documents["overlap"])


def insights(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Released affinities as a picture for the first seed audiences, and a table."""
    told = documents["insights"]["result"]
    page: Metadata = {}
    for number, audience in enumerate(told["audiences"][:3], start=1):
        shown = [row for row in audience["rows"] if row["affinity_ratio"] is not None]
        single = [row for row in shown if sum(row[key] is not None for key in ("interest", "age", "gender")) == 1]
        if single:
            page[f"picture: affinity {number}"] = pictures.affinity(audience["audience_type"], single)
        rows = [
            {
                "seed audience": audience["audience_type"],
                "interest": row["interest"] or "",
                "age": row["age"] or "",
                "gender": row["gender"] or "",
                "affinity": f"{row['affinity_ratio']:g}",
                "share in overlap": f"{row['share_in_overlap']:.1%}",
                "share in matchable": f"{row['share_in_matchable']:.1%}",
            }
            for row in sorted(shown, key=lambda row: -row["affinity_ratio"])[:_MOST_ROWS]
        ]
        if rows:
            page[f"insights {number}"] = _table(rows)
    return page | {"noise of each count": told["noise"]["statement"]} | _budget(documents["insights"])


def room_model(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """Nothing but that it is there: its numbers are the publisher's."""
    return {}


def custom_audience(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """The released size."""
    size = documents["audience"]["released"]
    reveals = ", ".join(documents["audience"]["reveals"]) or "nothing"
    page: Metadata = {
        "size": _told(size["size"]),
        "noise": size["noise"]["statement"],
        "reveals by design": reveals,
    }
    return page | _budget(documents["audience"])


def lookalike_statistics(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """The curve, the reach table and the AUC."""
    told = documents["statistics"]["result"]
    rows = [
        {
            "reach": f"{row['reach']}%",
            "users": _told(row["size"]),
            "finds of the held-out source": _share(row["tpr"]),
            "of the others": _share(row["fpr"]),
        }
        for row in told["reach"]
    ]
    return {
        "picture: reach": pictures.reach(told["reach"]),
        "AUC": told["auc"],
        "reach": _table(rows),
        "noise of each count": told["noise"]["statement"],
        **_budget(told),
    }


def _share(value: float | None) -> str:
    return "too few" if value is None else f"{value:.1%}"


def _budget(document: Mapping[str, Any]) -> Metadata:
    """What the two organisations have left, and what the bound promises, when the asset was made."""
    privacy = document.get("privacy")
    if privacy is None:
        return {}
    period = " this month" if privacy["period"] else ""
    return {
        "privacy budget": f"{privacy['spent']} of {privacy['total']} units spent{period}, {privacy['left']} left",
        "privacy bound": privacy["bound"]["statement"],
    }


def audience_user_list(record: Resource, documents: Mapping[str, Any]) -> Metadata:
    """What was delivered: files, and what the list tells by design."""
    told = documents["list"]
    return {
        "files": len(told["files"]),
        "reveals by design": ", ".join(told["reveals"]) or "nothing",
        "manifest": dg.MetadataValue.json(told["manifest"]),
    }


def _reports(reports: Mapping[str, Any]) -> Metadata:
    from cleanroom_pipelines.uploads.report import ValidationReport, report_markdown

    return {
        f"report of {name}": dg.MetadataValue.md(report_markdown(ValidationReport.from_dict(report)))
        for name, report in reports.items()
    }


def _told(number: int | None) -> str:
    return "not told" if number is None else f"{number:,}"


def _table(rows: list[dict[str, str]]) -> dg.MetadataValue:
    schema = dg.TableSchema([dg.TableColumn(name or "note", "string") for name in rows[0]])
    return dg.MetadataValue.table(
        [dg.TableRecord({name or "note": text for name, text in row.items()}) for row in rows], schema=schema
    )
