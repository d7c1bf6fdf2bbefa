"""The graph as text, so that every change of it shows in review.

Lives here: what the snapshot `graph.json` says. After a change that is meant, write it again:

    python -m cleanroom_pipelines_tests.shell.graph > cleanroom_pipelines_tests/shell/graph.json
"""

import json
from typing import Any

import dagster as dg

from cleanroom_pipelines.definitions import defs


def graph() -> dict[str, Any]:
    """Every asset, check, job, sensor and schedule that Dagster loads, as JSON-ready values."""
    repository = defs().get_repository_def()
    assets = repository.asset_graph
    return {
        "assets": {key.to_user_string(): _asset(assets.get(key)) for key in sorted(assets.get_all_asset_keys())},
        "checks": {
            f"{check.key.asset_key.to_user_string()}.{check.key.name}": {
                "blocking": check.blocking,
                "description": _first_line(check.description),
                "partitions": _partitions(check.partitions_def),
            }
            for check in (assets.get_check_spec(key) for key in sorted(assets.asset_check_keys, key=str))
        },
        "jobs": {
            job.name: {
                "description": _first_line(job.description),
                "executor": job.executor_def.name,
                "partitions": _partitions(job.partitions_def),
            }
            for job in sorted(repository.get_all_jobs(), key=lambda job: job.name)
        },
        "sensors": {
            sensor.name: {
                "description": _first_line(sensor.description),
                "status": sensor.default_status.value,
                "seconds": sensor.minimum_interval_seconds,
                "jobs": sorted(target.job_name for target in sensor.targets),
            }
            for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name)
        },
        "schedules": {
            schedule.name: {
                "description": _first_line(schedule.description),
                "status": schedule.default_status.value,
                "cron": schedule.cron_schedule,
                "job": schedule.job_name,
            }
            for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name)
        },
    }


def _asset(node: Any) -> dict[str, Any]:
    (spec,) = (spec for spec in node.assets_def.specs if spec.key == node.key)
    return {
        "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
        "group": spec.group_name,
        "owners": list(spec.owners),
        "kinds": sorted(spec.kinds),
        "partitions": _partitions(node.partitions_def),
        "code_version": spec.code_version,
        "description": _first_line(spec.description),
        "automation": str(spec.automation_condition) if spec.automation_condition else None,
    }


def _partitions(definition: dg.PartitionsDefinition[str] | None) -> str | None:
    return definition.name if isinstance(definition, dg.DynamicPartitionsDefinition) else None


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def as_text() -> str:
    """The snapshot."""
    return json.dumps(graph(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(as_text(), end="")  # noqa: T201 the way to write the snapshot
