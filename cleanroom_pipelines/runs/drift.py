"""Drift: warnings that users, items or an audience changed much between two versions of a resource.

Lives here: comparing a model, an audience or an export with the version before.
Add here when another number must be watched.
Keep out: how it is shown (defs.checks, defs.start_page, cli.resources).

An audience or export is compared when it is built, and the sentence is stored in the summary of its version: the
start page then reads no artifact, and the sentence outlives the artifacts of the version before. Only numbers that
the pages of the two versions show are compared, so drift reveals nothing more.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from cleanroom_pipelines.catalog import Kind, Status
from cleanroom_pipelines.errors import ArtifactError
from cleanroom_pipelines.runs.artifact_documents import read_stored
from cleanroom_pipelines.runs.installation import Installation

_LIMIT = 0.2
"""Largest relative change that is not reported."""


def drift_of(installation: Installation, model_id: str) -> str:
    """Compare a model's newest two versions; return a sentence if users or items changed by more than 20 %."""
    versions = installation.catalog.resources.versions(Kind.AUDIENCE_MODEL, model_id)
    done = [version.summary for version in versions if version.status is Status.ACTIVE and version.summary]
    if len(done) < 2:
        return ""
    before, after = done[-2:]
    return _sentence(
        f"{before[key]:,} → {after[key]:,} {words}"
        for key, words in (("n_users", "users"), ("n_items", "items"))
        if key in before and key in after and abs(after[key] - before[key]) > _LIMIT * max(1, before[key])
    )


def drift_of_audience(installation: Installation, job_id: str, metrics: Mapping[str, Any]) -> dict[str, str]:
    """Compare a new audience with the current version; return facts for its summary if it changed much.

    Recall changed much if it is outside the confidence interval of the previous version and differs by more than a
    tenth. It is compared at one size, and not at all if the previous version did not measure that size.

    Args:
        installation: The installation.
        job_id: The generation job, whose current version is still the previous one.
        metrics: The metrics of the new audience.
    """
    version = installation.catalog.resources.current_version(Kind.GENERATION_JOB, job_id)
    if version is None or "audience" not in version.artifacts:
        return {}
    try:
        before = read_stored(installation.store, version.artifact("audience"))[1]["metrics"]
    except ArtifactError:  # lost or altered; the audience itself does not depend on it
        return {}
    old, new = before["match"]["n_matched"], metrics["match"]["n_matched"]
    changes = [f"{old:,} → {new:,} matched users of the seed"] if abs(new - old) > _LIMIT * max(1, old) else []
    size, new = metrics["recall_at"]["size"], metrics["recall_at"]["recall"]
    same = next((each for each in (before["recall_at"], *before["sizes"]) if each["size"] == size), None)
    if same is not None:
        old, (low, high) = same["recall"], same["recall_interval"]
        if not low <= new <= high and abs(new - old) > _LIMIT / 2:
            changes.append(f"{old:.2f} → {new:.2f} recall")
    return _facts(_sentence(changes))


def drift_of_export(export: Mapping[str, Any]) -> dict[str, str]:
    """Return facts for an export's summary if more than half of its users were not in the previous export.

    Args:
        export: The document of the export, which counts the changes if the configured model asks for them.
    """
    changes, delivered = export.get("changes"), export["delivered"]
    if not changes or changes["added"] <= delivered / 2:
        return {}
    return _facts(f"{changes['added'] / delivered:.0%} of the users were not in the previous export.")


def recorded_drift(installation: Installation, kind: Kind, resource_id: str) -> str:
    """Return the drift warning stored with the current version of a job or export; empty if there is none."""
    version = installation.catalog.resources.current_version(kind, resource_id)
    return "" if version is None else str(version.summary.get("drift", ""))


def _facts(sentence: str) -> dict[str, str]:
    return {"drift": sentence} if sentence else {}


def _sentence(changes: Iterable[str]) -> str:
    words = ", ".join(changes)
    return f"{words} since the previous version." if words else ""
