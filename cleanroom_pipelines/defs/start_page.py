"""The start page: the asset `clean_room`, which shows the situation of the installation.

Lives here: the asset, its metadata, and the sensor that renews it after a change.
Add here when an operator must see something else at a glance.
Keep out: reading the situation (runs.situation).
"""

import hashlib
from collections.abc import Collection, Iterator

import dagster as dg

from cleanroom_pipelines.defs.checks import model_is_fresh
from cleanroom_pipelines.defs.declaring import in_words
from cleanroom_pipelines.defs.pages import Metadata
from cleanroom_pipelines.defs.resources import InstallationResource
from cleanroom_pipelines.runs.dagster_home import CODE_LOCATION
from cleanroom_pipelines.runs.reasons import escaped, link_to
from cleanroom_pipelines.runs.situation import Problem, Situation, situation_of

_TICK_SECONDS = 30


@dg.asset(group_name="start", kinds={"duckdb"}, owners=["team:publisher"])
@in_words
def clean_room(installation: InstallationResource) -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Start here: what failed and how to fix it, what runs and waits, what is due, and where exports are.

    If work waits for minutes, look at Deployment > Daemons: without a running daemon nothing starts, and this page
    is not renewed.
    """
    return dg.MaterializeResult(metadata=page_of(situation_of(installation.open())))


def page_of(situation: Situation) -> Metadata:
    """Metadata of the start page, with the most urgent entries first."""
    page: Metadata = {"summary": dg.MetadataValue.md(f"**{situation.headline}**")}
    for number, problem in enumerate(situation.problems, start=1):
        reason = escaped(problem.reason + problem.consequences)
        page[f"failure {number}"] = dg.MetadataValue.md(
            f"**{problem.first.kind.words} {link_to(problem.first, is_failed=True)}**  \n{reason}  \n"
            f"Then {_click(problem)}, or run  \n`{problem.command}`"
        )
    page["running"] = _lines([f"{link_to(each.record)}: {escaped(each.stage)}" for each in situation.running])
    page["waiting"] = _lines([f"{link_to(each.record)}: {escaped(each.stage)}" for each in situation.waiting])
    page["next refreshes"] = _lines(
        [
            f"{link_to(record)}: {due:%Y-%m-%d %H:%M} UTC{' (overdue)' if is_overdue else ''}"
            for record, due, is_overdue in situation.refreshes
        ]
    )
    page["changes since the previous version"] = _lines([escaped(sentence) for sentence in situation.drift])
    page["exports of the last 7 days"] = _table(
        [
            {
                "export": each.record.name,
                "size": each.size,
                "finished": f"{each.finished_at:%Y-%m-%d %H:%M} UTC" if each.finished_at else "",
                "stored at": each.place,
            }
            for each in situation.exports
        ]
    )
    page["inbox for seeds"] = f"{situation.inbox}/<configured audience model>/"
    page["privacy budgets"] = _lines(
        [f"{escaped(pair)}: {left:g} of {total:g} units left" for pair, (left, total) in situation.budgets.items()]
    )
    page["notices"] = _lines([escaped(each.sentence) for each in situation.notices])
    page["free disk space"] = f"{situation.free_bytes / 1e9:,.1f} of {situation.total_bytes / 1e9:,.1f} GB"
    return page


@dg.asset_check(asset=clean_room)
@in_words
def nothing_failed(installation: InstallationResource) -> dg.AssetCheckResult:
    """No resource's newest version failed."""
    situation = situation_of(installation.open())
    return dg.AssetCheckResult(passed=not situation.n_failed, description=situation.headline)


@dg.sensor(
    description="Renews the start page, the asset clean_room, when something has changed.",
    minimum_interval_seconds=_TICK_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
@in_words
def start_page(context: dg.SensorEvaluationContext, installation: InstallationResource) -> dg.SensorResult:
    """Renews the start page when something has changed."""
    situation = situation_of(installation.open())
    mark_before, *late_before = (context.cursor or "").split("\n")
    mark = hashlib.sha256(situation.mark.encode()).hexdigest()[:32]
    if mark == mark_before:
        return dg.SensorResult(skip_reason=dg.SkipReason(f"Nothing has changed. {situation.headline}"))
    event = dg.AssetMaterialization("clean_room", metadata=page_of(situation), description=situation.headline)
    check = dg.AssetCheckEvaluation(
        dg.AssetKey("clean_room"),
        nothing_failed.check_key.name,
        passed=not situation.n_failed,
        description=situation.headline,
    )
    return dg.SensorResult(
        asset_events=[event, check, *_freshness(situation, late_before)],
        cursor="\n".join([mark, *situation.late]),
        skip_reason=dg.SkipReason(situation.headline),
    )


def _freshness(situation: Situation, late_before: Collection[str]) -> Iterator[dg.AssetCheckEvaluation]:
    """Report the freshness check again for models that became late or are no longer late."""
    for model, due, _ in situation.refreshes:
        sentence = situation.late.get(model.id, "")
        if bool(sentence) != (model.id in late_before):
            yield dg.AssetCheckEvaluation(
                model_is_fresh.check_key.asset_key,
                model_is_fresh.check_key.name,
                passed=not sentence,
                description=sentence or f"Next refresh: {due:%Y-%m-%d %H:%M} UTC.",
                partition=model.id,
            )


def _click(problem: Problem) -> str:
    """Return, in Markdown, what to click in Dagster to retry the failed work."""
    if not problem.job:
        return "click *Materialize* on its page"
    return f"launch the job [{problem.job}](/locations/{CODE_LOCATION}/jobs/{problem.job}/playground)"


def _lines(lines: list[str]) -> dg.MetadataValue:
    return dg.MetadataValue.md("\n".join(f"- {line}" for line in lines) or "none")


def _table(rows: list[dict[str, str]]) -> dg.MetadataValue:
    if not rows:
        return dg.MetadataValue.md("none")
    schema = dg.TableSchema([dg.TableColumn(name, "string") for name in rows[0]])
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows], schema=schema)
