"""Generation jobs between two organisations, over the AWS API: what they reveal, cost and reject.

Contract: all results are computed from released values of the seed: with the same noise, two seeds that differ by
one person, or by hundreds, get the same results. Lists and their order reveal nothing, unless an authorised party
requested otherwise; then they state it. Both APIs charge one ledger.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError

from cleanroom_pipelines.catalog import Kind, LedgerLine, RequestedSeed
from cleanroom_pipelines.defs.pages import metadata_of
from cleanroom_pipelines.errors import SeedError, StatusCode
from cleanroom_pipelines.privacy import Price, Releaser
from cleanroom_pipelines.runs.artifact_documents import newest_artifact
from cleanroom_pipelines.runs.building import AssetResult
from cleanroom_pipelines.runs.private_jobs import PrivateJob, cannot_pay, paying_pair
from cleanroom_pipelines.runs.requested_seeds import form_of_ids
from cleanroom_pipelines.similarity.private_lookalikes import choose
from cleanroom_pipelines_tests.server.server import ADVERTISER, PUBLISHER, STRANGER

from .. import worlds
from ..conftest import StandingClock
from ..worlds import WorldCache
from .private_world import (
    BRAND,
    GROUP,
    N_SEED,
    N_USERS,
    SEED,
    SHOP,
    PrivateWorld,
    build_private_world,
    open_private_world,
    plain,
)

EXPORTED = N_USERS // 5
NEIGHBOUR = SEED[:-1]


@pytest.fixture
def world(world_cache: WorldCache, tmp_path: Path) -> Iterator[PrivateWorld]:
    with open_private_world(world_cache.copy("private world", build_private_world, tmp_path / "world")) as opened:
        yield opened


def spend(world: PrivateWorld, tenths: int, kind: str = "overlap", place: str = "room") -> None:
    """Let a room of the pair have spent so much."""
    line = LedgerLine(f"{tenths:064d}", kind, tenths, None, None, place)
    assert world.installation.catalog.pairs.charge(world.pair.id, [line]) is not None


def audited(world: PrivateWorld, arn: str) -> list[str]:
    """What the audit log says the lists of a job reveal."""
    exports = {one.id for one in world.installation.catalog.resources.iterate(Kind.EXPORT_JOB)}
    entries = [one for one in world.installation.audit.entries() if one.get("resource") in exports]
    return [one["kind"] for one in entries if one["operation"] == "export"]


def test_job_shows_price_noise_and_remaining_budget_to_both_sides(world: PrivateWorld) -> None:
    arn = world.job("loyal")
    starter, owner = world.told(arn)
    assert starter["status"] == "ACTIVE", starter
    assert plain(starter) == plain(owner)
    message = starter["statusDetails"]["message"]
    spent = world.spent / 10
    assert f"for {spent:g} units" in message
    assert f"Left: {100 - spent:g} of 100 units" in message
    assert "2 for the seed's size (± 23 users)" in message
    assert message.count("±") == 3
    assert "at most 60% of cases" in message
    assert "reveal" not in message
    assert "statusCode" not in starter["statusDetails"]
    assert 0.2 < starter["metrics"]["recallMetric"] <= 1
    kinds = [line.kind for line in world.installation.catalog.pairs.ledger_lines(world.pair.id)]
    assert sorted(kinds) == ["figures", "lookalike", "seed_size"]


def test_list_is_in_place_and_its_order_reveals_nothing(world: PrivateWorld) -> None:
    arn = world.job("loyal")
    listed = world.export(arn)
    best = world.ranking(arn)[:EXPORTED]
    assert set(listed.users) == set(best), "nobody is left out or put first"
    assert listed.users != tuple(best)
    assert len(set(SEED) & set(best)) > 50, "so seed users are in it"
    assert len(set(best) - set(SEED)) > 50
    seed_places = [place for place, user in enumerate(listed.users) if user in set(SEED)]
    middle = sum(seed_places) / len(seed_places)
    assert abs(middle - EXPORTED / 2) < EXPORTED / 8, "neither first nor last"
    places = {user: place for place, user in enumerate(listed.users)}
    half = sum(places[user] < EXPORTED / 2 for user in best[: EXPORTED // 2])
    assert abs(half - EXPORTED / 4) < EXPORTED / 8, "by rank neither"
    assert "reveals" not in listed.manifest
    assert audited(world, arn) == []


def test_exports_of_all_sizes_are_free(world: PrivateWorld) -> None:
    arn = world.job("loyal")
    spent = world.spent
    small, large = world.export(arn, 5, "small"), world.export(arn, 60, "large")
    assert (len(small.users), len(large.users)) == (N_USERS // 20, N_USERS * 6 // 10)
    assert set(small.users) < set(large.users)
    assert world.spent == spent


def test_seed_first_on_request_is_labelled_everywhere(world: PrivateWorld) -> None:
    arn = world.job("first", includeSeedInOutput=True)
    listed = world.export(arn, 60)
    assert set(listed.users[:N_SEED]) == set(SEED)
    assert not set(listed.users[N_SEED:]) & set(SEED)
    assert listed.users[:N_SEED] != SEED
    ranked = [user for user in world.ranking(arn) if user not in set(SEED)]
    rest = listed.users[N_SEED:]
    assert set(rest) == set(ranked[: len(rest)])
    assert list(rest) != ranked[: len(rest)]
    assert listed.manifest["reveals"] == ["seed"]
    assert "start with the seed's users" in world.message(arn)
    assert audited(world, arn) == ["reveals_seed"]
    assert world.told(arn)[0]["includeSeedInOutput"] is True


def test_seed_removed_by_the_collaboration_is_labelled_everywhere(world: PrivateWorld) -> None:
    arn = world.job("removed", collaborationId=world.collaboration(seed_removed=True))
    listed = world.export(arn)
    assert len(listed.users) == EXPORTED
    assert not set(listed.users) & set(SEED)
    assert listed.manifest["reveals"] == ["seed"]
    assert "exclude the seed" in world.message(arn)
    assert audited(world, arn) == ["reveals_seed"]
    large = world.export(arn, 60, "large")
    assert large.status["statusDetails"]["statusCode"] == StatusCode.SIZE_REVEALS_SEED
    assert not re.search(r"\d", large.status["statusDetails"]["message"])


@pytest.mark.parametrize("n_known", [430, 500])
def test_size_check_uses_the_released_seed_size(
    world: PrivateWorld, monkeypatch: pytest.MonkeyPatch, n_known: int
) -> None:
    """Of 1,500 users 900 are asked for; that is half of the others only if the seed were negative."""
    hold_noise(monkeypatch, size=500)
    configured = worlds.the(world.installation, Kind.CONFIGURED_AUDIENCE_MODEL)
    world.publisher.update_configured_audience_model(
        configuredAudienceModelArn=str(configured.arn),
        audienceSizeConfig={"audienceSizeType": "ABSOLUTE", "audienceSizeBins": [500, 501]},
    )
    arn = world.job("removed", GROUP[:n_known], collaborationId=world.collaboration(seed_removed=True))
    statuses = []
    for size in (500, 501):
        parameters = {"audienceSize": {"type": "ABSOLUTE", "value": size}}
        world.advertiser.start_audience_export_job(name=f"of {size}", audienceGenerationJobArn=arn, **parameters)
        world.work()
        newest = world.publisher.list_audience_export_jobs()["audienceExportJobs"][-1]
        statuses.append(newest["status"])
    assert statuses == ["ACTIVE", "CREATE_FAILED"]


def test_full_ensemble_has_the_aws_output_and_is_labelled_everywhere(world: PrivateWorld) -> None:
    arn = world.job("full", collaborationId=world.collaboration(full_ensemble=True))
    listed = world.export(arn)
    ranked = [user for user in world.ranking(arn) if user not in set(SEED)]
    assert listed.users == tuple(ranked[:EXPORTED]), "best first, without the seed"
    assert listed.manifest["reveals"] == ["ensemble", "seed"]
    assert "full ensemble" in world.message(arn)
    assert "no privacy bound applies" in world.message(arn)
    assert audited(world, arn) == ["reveals_ensemble", "reveals_seed"]
    assert world.spent == 0


def test_job_within_one_organisation_is_free_and_unlabelled(world: PrivateWorld) -> None:
    world.installation.catalog.pairs.set_organization(SHOP, account_id=ADVERTISER)
    arn = world.job("own")
    listed = world.export(arn)
    ranked = [user for user in world.ranking(arn) if user not in set(SEED)]
    assert listed.users == tuple(ranked[:EXPORTED])
    assert "reveals" not in listed.manifest
    assert "statusDetails" not in world.told(arn)[0]
    assert world.installation.catalog.pairs.ledger_lines(world.pair.id) == ()


@pytest.mark.parametrize("ids", [SEED, (*reversed(SEED), f" {SEED[0]} ")], ids=["the same file", "other rows"])
def test_same_ids_again_are_free_and_give_the_same_result(world: PrivateWorld, ids: Sequence[str]) -> None:
    first = world.job("loyal")
    spent = world.spent
    again = world.job("loyal again", ids)
    assert world.spent == spent
    assert plain(world.told(first)) == plain(world.told(again))
    assert world.ranking(first) == world.ranking(again)
    assert set(world.export(first, name="a").users) == set(world.export(again, name="b").users)


def test_what_earlier_releases_charged_for_a_file_stays_free(
    world: PrivateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(PrivateJob, "_source", property(lambda self: f"seed {self.job.seed_digest}"))
        first = world.job("loyal")
    spent = world.spent
    again = world.job("loyal again")
    assert world.spent == spent
    assert plain(world.told(first)) == plain(world.told(again))


def test_seed_differing_by_one_id_is_charged_with_new_noise(world: PrivateWorld) -> None:
    first, spent = world.job("loyal"), world.spent
    other = world.job("neighbour", NEIGHBOUR)
    assert world.spent > 1.5 * spent
    assert world.told(first)[0]["metrics"] != world.told(other)[0]["metrics"]
    assert set(world.export(first, name="a").users) != set(world.export(other, name="b").users)


def hold_noise(monkeypatch: pytest.MonkeyPatch, *, size: int) -> None:
    """Let released values follow from the question alone and nothing from the data."""

    def noised(_: Releaser, value: int, *, question: str, cell: str, price: Price) -> int:
        kind = question.partition(" ")[0]
        return size if kind == "seed" else (int(cell) * 7919 % 4001 - 2000) * 100 if kind == "lookalike" else 40

    monkeypatch.setattr(Releaser, "noised", noised)


@pytest.mark.parametrize("n_known", [N_SEED - 1, 260])
def test_only_released_values_and_derived_ones_are_published(
    world: PrivateWorld, monkeypatch: pytest.MonkeyPatch, n_known: int
) -> None:
    """With the released values held fixed, other seeds get the same answers, lists, explanations and prices."""
    hold_noise(monkeypatch, size=400)
    one, other = world.job("one"), world.job("other", GROUP[-n_known:])
    told = [plain(_of_money(world.told(arn))) for arn in (one, other)]
    assert told[0] == told[1]
    assert "400" not in told[0], "not even the released number by itself"
    assert world.ranking(one) == world.ranking(other)
    lists = [world.export(arn, size, f"{size} {arn[-3:]}") for arn in (one, other) for size in (5, 20, 60)]
    for mine, theirs in zip(lists[:3], lists[3:], strict=True):
        assert set(mine.users) == set(theirs.users)
        assert plain(_of_files(mine.manifest)) == plain(_of_files(theirs.manifest))
    summaries = [_version(world, arn).summary for arn in (one, other)]
    assert plain([{**each, "privacy": ""} for each in summaries[:1]]) == plain(
        [{**each, "privacy": ""} for each in summaries[1:]]
    )
    costs = [line.tenths for line in world.installation.catalog.pairs.ledger_lines(world.pair.id)]
    assert sorted(costs[:3]) == sorted(costs[3:])


def test_noiseless_answers_would_reveal_one_person(world: PrivateWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above can fail: exact values leave their mark in figures and order."""
    monkeypatch.setattr(Releaser, "noised", lambda _, value, **__: value)
    first, other = world.job("loyal"), world.job("neighbour", NEIGHBOUR)
    assert world.ranking(first) != world.ranking(other)
    assert world.told(first)[0]["metrics"] != world.told(other)[0]["metrics"]


def _of_money(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what is left of the budget, of which the first of two jobs leaves more."""
    for each in told:
        each["statusDetails"]["message"] = re.sub(r"Left: [\d.]+", "Left: ", each["statusDetails"]["message"])
    return told


def _of_files(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without what follows from the id of the export and the order."""
    files = [{key: file[key] for key in file if key != "sha256"} for file in manifest["files"]]
    return {**manifest, "files": files, "export": "", "generationJob": ""}


def _version(world: PrivateWorld, arn: str) -> Any:
    return world.installation.catalog.resources.newest_version(Kind.GENERATION_JOB, arn.rpartition("/")[2])


def test_too_small_seed_reports_the_required_size(world: PrivateWorld) -> None:
    arn = world.job("small", GROUP[:120])
    starter, owner = world.told(arn)
    assert starter["status"] == "CREATE_FAILED"
    assert starter["statusDetails"]["statusCode"] == StatusCode.INSUFFICIENT_MATCHING_SEED
    with pytest.raises(SeedError) as smallest:
        choose(1)
    assert re.findall(r"\d+", starter["statusDetails"]["message"]) == [str(smallest.value.attributes["needed"])]
    assert owner["statusDetails"] == starter["statusDetails"]
    assert world.spent == 20, "its size, and nothing else"


def test_too_small_seed_reports_the_form_of_its_ids_without_counts(world: PrivateWorld) -> None:
    arn = world.job("hashed", [hashlib.sha256(user.encode()).hexdigest() for user in GROUP[:120]])
    starter, owner = world.told(arn)
    message = starter["statusDetails"]["message"]
    assert message.endswith("All of the ids look like SHA-256 hashes (64 hex digits).")
    assert "120" not in message
    assert owner["statusDetails"] == starter["statusDetails"]


@pytest.mark.parametrize("source", [{"query": "SELECT 1"}, {"template_arn": "arn"}])
def test_the_form_of_a_querys_result_is_not_reported(world: PrivateWorld, source: dict[str, str]) -> None:
    """A template reads its owner's tables, and its user chooses the parameters."""
    hashes = pa.chunked_array([[f"{number:064x}" for number in range(30)]])
    requested = RequestedSeed(role_arn="arn", **source)  # type: ignore[arg-type]
    assert form_of_ids(requested, hashes, world.installation) == ""
    assert form_of_ids(None, hashes, world.installation) != ""


def test_minimum_seed_size_check_uses_the_released_count(
    world: PrivateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_noise(monkeypatch, size=10)
    arn = world.job("large")
    assert world.told(arn)[0]["statusDetails"]["statusCode"] == StatusCode.INSUFFICIENT_MATCHING_SEED
    hold_noise(monkeypatch, size=N_USERS - 50)
    arn = world.job("larger", GROUP)
    assert world.told(arn)[0]["statusDetails"]["statusCode"] == StatusCode.SEED_COVERS_POPULATION


def test_unaffordable_job_is_rejected_at_the_start(world: PrivateWorld) -> None:
    spend(world, 985)
    with pytest.raises(ClientError) as refused:
        world.start("loyal")
    error = refused.value.response
    assert error["Error"]["Code"] == "ServiceQuotaExceededException"
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 402
    assert error["quotaName"] == "privacy budget of the two organisations, in units"
    assert error["quotaValue"] == 100.0
    assert "1.5 of 100 units are left" in error["Error"]["Message"]
    assert list(world.installation.catalog.resources.iterate(Kind.GENERATION_JOB)) == []


def test_full_ensemble_and_own_jobs_start_with_a_spent_budget(world: PrivateWorld) -> None:
    spend(world, 985)
    full = world.start("full", collaborationId=world.collaboration(full_ensemble=True))
    world.installation.catalog.pairs.set_organization(SHOP, account_id=ADVERTISER)
    assert full != world.start("own")


def test_job_over_budget_fails_without_computing(world: PrivateWorld) -> None:
    spend(world, 900)
    arn = world.job("loyal")
    starter, owner = world.told(arn)
    assert starter["status"] == "CREATE_FAILED"
    assert starter["statusDetails"]["statusCode"] == StatusCode.PRIVACY_BUDGET_SPENT
    assert owner["statusDetails"] == starter["statusDetails"]
    assert "8 of 100 are left" in starter["statusDetails"]["message"]
    assert "metrics" not in starter
    assert world.spent == 920, "the size of the seed was paid and told"
    assert "audience" not in _version(world, arn).artifacts


def test_paid_questions_are_answered_with_a_spent_budget(world: PrivateWorld) -> None:
    first = world.job("loyal")
    spend(world, 1000 - world.spent)
    again = world.job("loyal again")
    assert world.told(again)[0]["metrics"] == world.told(first)[0]["metrics"]
    other = world.job("neighbour", NEIGHBOUR)
    assert world.told(other)[0]["statusDetails"]["statusCode"] == StatusCode.PRIVACY_BUDGET_SPENT


def test_monthly_budget_renews_and_shows_the_yearly_bound(world_cache: WorldCache, tmp_path: Path) -> None:
    clock = StandingClock()
    clock.now = datetime.now(UTC) - timedelta(days=40)
    folder = world_cache.copy("private world", build_private_world, tmp_path / "world")
    with open_private_world(folder, clock=clock) as world:
        catalog, collaboration = world.installation.catalog, world.collaboration(monthly=True)
        spend(world, 985)
        assert cannot_pay(catalog, world.pair) is not None
        clock.now = datetime.now(UTC)
        assert cannot_pay(catalog, world.pair) is None
        arn = world.job("loyal", collaborationId=collaboration)
        assert "60% of cases within a month, and 81% within a year" in world.message(arn)
        assert 0 < world.spent < 985
        first = catalog.pairs.paid_among(
            world.pair.id, [line.key for line in catalog.pairs.ledger_lines(world.pair.id)]
        )
        clock.turn(days=40)
        assert world.spent == 0
        assert len(first) == 4, "what was paid stays paid"


def test_both_apis_charge_one_ledger(world: PrivateWorld) -> None:
    catalog = world.installation.catalog
    of_room = catalog.pairs.pair(
        catalog.pairs.organization_of_user(f"anna@{SHOP}"), catalog.pairs.organization_of_user(f"ben@{BRAND}")
    )
    assert of_room == world.pair
    world.job("loyal")
    assert catalog.pairs.ledger(of_room.id).spent == world.spent > 0
    before = world.spent
    spend(world, 30)
    assert world.message(world.job("loyal again")).count(f"Left: {100 - (before + 30) / 10:g} of") == 1


def test_accounts_of_one_organization_share_the_ledger(world: PrivateWorld) -> None:
    catalog = world.installation.catalog
    assert paying_pair(catalog, STRANGER, PUBLISHER, None) != world.pair
    catalog.pairs.set_organization(BRAND, account_id=STRANGER)
    assert paying_pair(catalog, STRANGER, PUBLISHER, None) == world.pair


def test_pages_show_the_price_and_what_a_list_reveals(world: PrivateWorld) -> None:
    arn = world.job("first", includeSeedInOutput=True)
    world.export(arn)
    job = arn.rpartition("/")[2]
    manifest, documents = newest_artifact(world.installation, Kind.GENERATION_JOB, job, "audience")
    with worlds.without_pictures():
        page = metadata_of(world.installation, AssetResult("audience", job, "Made.", manifest, documents))
    assert "units" in str(page["privacy statement"])
    export = worlds.the(world.installation, Kind.EXPORT_JOB).id
    manifest, documents = newest_artifact(world.installation, Kind.EXPORT_JOB, export, "audience_export")
    page = metadata_of(world.installation, AssetResult("audience_export", export, "Made.", manifest, documents))
    assert page["revealed by design"] == "seed"


def test_private_jobs_are_between_two_organisations(world: PrivateWorld) -> None:
    organizations = {
        world.installation.catalog.pairs.organization_of_account(each) for each in (PUBLISHER, ADVERTISER)
    }
    assert organizations == {SHOP, BRAND}
