"""Scripts of the kinds that people run on a Media data room, each in two forms.

Lives here: `THEIRS`, written for the signatures of Decentriq's Media API, and `OURS`, for the shorter ones.
Add here when a member or call is added that scripts of Decentriq's Media API use.
Keep out: running them, and what they must find.

A script finds PUBLISHER and ADVERTISER (e-mail address and token), COLLEAGUE (an e-mail address), URL, FOLDER and
ROOM (an id), and sets `found`. Both forms of a kind must find the same.
"""

CREATE = """
from decentriq_platform import create_client
from decentriq_platform.media import CollaborationType, IdType, MediaDcr, Participant, Permission

client = create_client(*PUBLISHER)
dcr = MediaDcr(
    client,
    name="Spring",
    participants=[
        Participant(
            emails=[PUBLISHER[0]],
            permissions=[
                Permission.PROVIDE_BASE_AUDIENCE,
                Permission.VIEW_OVERLAP,
                Permission.EXPORT_AUDIENCE,
            ],
            role="publisher",
        ),
        Participant(
            emails=[ADVERTISER[0]],
            permissions=[
                Permission.PROVIDE_SEED_AUDIENCE,
                Permission.VIEW_OVERLAP,
                Permission.VIEW_INSIGHTS,
                Permission.CREATE_CUSTOM_AUDIENCE,
                Permission.EXPORT_AUDIENCE,
                Permission.MANAGE_USERS,
            ],
            role="advertiser",
        ),
    ],
    collaboration_types=[
        CollaborationType.INSIGHTS,
        CollaborationType.LOOKALIKE,
        CollaborationType.OVERLAP,
        CollaborationType.REMARKETING,
        CollaborationType.EXCLUSION_TARGETING,
        CollaborationType.RULE_BASED,
    ],
    matching_ids=[IdType.EMAIL],
    hide_absolute_values=False,
    show_match_rate=True,
)
ROOM = dcr.id
found = [
    sorted(each.role for each in MediaDcr.from_existing(ROOM, client).get_participants()),
    dcr.get_owner_email(),
    dcr.can_other_participants_export_audience(),
    dcr.is_base_audience_provisioned(),
    dcr.are_seed_audiences_provisioned(),
]
"""

PROVISION_BASE = """
from decentriq_platform import Key, create_client
from decentriq_platform.data_lab import DataLabBuilder, IdentifiersConfig, IdType
from decentriq_platform.media import MediaDcr

client = create_client(*PUBLISHER)
lab = (
    DataLabBuilder(client)
    .with_name("Shoppers")
    .with_identifiers_config([IdentifiersConfig("email", IdType.EMAIL, True, False)])
    .with_segments()
    .with_demographics()
    .build()
)
lab.provision_local_datasets(
    Key(),
    f"{FOLDER}/matching.csv",
    segments_data_path=f"{FOLDER}/segments.csv",
    demographics_data_path=f"{FOLDER}/demographics.csv",
)
lab.run()
report = lab.get_validation_report(timeout=600)
assert lab.is_validation_passed(report)
MediaDcr.from_existing(ROOM, client).provision_base_audience(lab.id, force=True)
found = [sorted(report), sorted(lab.get_statistics_report())]
"""

PROVISION_SEEDS = """
from decentriq_platform import Key, create_client
from decentriq_platform.media import MediaDcr

client = create_client(*ADVERTISER)
dcr = MediaDcr.from_existing(ROOM, client)
with open(f"{FOLDER}/customers.csv", "rb") as file:
    manifest_hash = client.upload_dataset(file, Key(), "customers.csv", description="our customers")
dcr.provision_seed_audiences(manifest_hash)
found = dcr.are_seed_audiences_provisioned()
"""

THEIRS = {
    "reports": """
from decentriq_platform import create_client
from decentriq_platform.media import MediaDcr

job = MediaDcr.from_existing(ROOM, create_client(*PUBLISHER)).get_base_audience_validation_reports()
base = job.wait_for_completion(timeout=600, sleep_interval=1).result()
seeds = MediaDcr.from_existing(ROOM, create_client(*ADVERTISER)).get_seed_audiences_validation_report().result()
found = [
    base.matching.report.outcome.value,
    base.segments.report.numRowsTotal,
    base.demographics.report.numInvalidRowsTotal,
    seeds.report.outcome.value,
    seeds.report.numInvalidRowsByErrorCode,
    [each.numErrorsTotal for each in seeds.report.columns],
]
""",
    "overlap": """
import json
from decentriq_platform import create_client
from decentriq_platform.media import MediaDcr

dcr = MediaDcr.from_existing(ROOM, create_client(*ADVERTISER))
job = dcr.get_overlap_statistics()
job.wait_for_completion(timeout=600)
assert job.is_complete() and job.dcr_id == ROOM and job.job_id
result = job.result()
[row] = result.overlap_statistics
assert not row.advertiser_is_empty
assert row.num_activation_ids_in_overlap == {"userId": row.overlap_size}
[seed] = dcr.get_audiences().result().list()
assert seed.kind.value == "SEED" and not seed.isEmpty and seed.audienceSize == row.advertiser_size
assert seed.createdAt.year >= 2026
[written] = json.loads(result.model_dump_json())["overlap_statistics"]
with job.get_result_as_zipfile() as archive:
    assert archive.namelist()
found = [seed.audienceType, written["advertiser_size"], row.overlap_size, row.match_rate]
""",
    "insights": """
from decentriq_platform import create_client
from decentriq_platform.media import MediaDcr

result = MediaDcr.from_existing(ROOM, create_client(*ADVERTISER)).get_insights().result()
[audience] = result.audiences
tables = {table.id: table for table in audience.aggregations}
table = tables["interest"]
ratio = table.columns.index("affinity_ratio")
assert table.aggregation[0].column == "interest" and "wine" in table.aggregation[0].possible_values
found = [
    result.total_publisher,
    audience.audience_type,
    sorted([row[0], row[ratio]] for row in table.rows),
]
""",
    "attributes": """
from decentriq_platform import create_client
from decentriq_platform.media import MediaDcr

attributes = MediaDcr.from_existing(ROOM, create_client(*ADVERTISER)).get_data_attributes().result().attributes
found = {
    name: [attribute.value_type.value, sorted(attribute.values), sorted(str(each) for each in attribute.filters)]
    for name, attribute in attributes.items()
}
""",
    "rule-based": """
from decentriq_platform import create_client
from decentriq_platform.media import (
    AudienceCombinatorBuilder,
    AudienceFilters,
    CombineOperator,
    Filter,
    FilterOperator,
    MatchOperator,
    MediaDcr,
    RuleBasedAudienceBuilder,
)

dcr = MediaDcr.from_existing(ROOM, create_client(*ADVERTISER))
seed = dcr.get_audiences().result().get_seed_audience("loyal")
young = AudienceFilters(
    filters=[Filter(attribute="age", values=["20-29"], operator=FilterOperator.CONTAINS_ANY)],
    operator=MatchOperator.MATCH_ALL,
)
women = AudienceFilters(
    filters=[Filter(attribute="gender", values=["f"], operator=FilterOperator.CONTAINS_ANY)],
    operator=MatchOperator.MATCH_ANY,
)
combinator = AudienceCombinatorBuilder(operator=CombineOperator.INTERSECT, source_audience=seed)
combinator = combinator.with_filters(women)
builder = RuleBasedAudienceBuilder(name=f"Young women, {FORM}", source_audience=seed).with_filters(young)
audience = dcr.create_rule_based_audience(builder.with_combinator([combinator.build()]).build())
definition = audience.definition
assert audience.kind.value == "CUSTOM" and audience.createdBy == ADVERTISER[0] and audience.createdAt
assert not audience.doesAudienceDependOnLookalikeAudience
assert not audience.stalenessWarnings.missingSeedAudiences
found = [
    definition.kind,
    definition.sourceRef.audienceType,
    definition.filters.booleanOp,
    definition.combine[0].operator,
    dcr.get_audience_size(audience).result(),
]
""",
    "lookalike": """
from decentriq_platform import create_client
from decentriq_platform.media import Audiences, LookalikeAudienceBuilder, MediaDcr

dcr = MediaDcr.from_existing(ROOM, create_client(*ADVERTISER))
seed = dcr.get_audiences().result().get_seed_audience("loyal")
audience = dcr.create_lookalike_audience(
    LookalikeAudienceBuilder(name=f"Like them, {FORM}", reach=20, source_audience=seed).build()
)
assert Audiences.is_lookalike_audience(audience)
job = dcr.get_lookalike_audience_statistics(audience)
quality = job.wait_for_completion(timeout=600, sleep_interval=1).result()
assert len(quality.fpr) == len(quality.tpr) and "auc" in quality.model_dump()
found = [audience.definition.reach, audience.definition.excludeSeedAudience or False, quality.auc]
""",
    "remarketing and exclusion": """
from decentriq_platform import create_client
from decentriq_platform.media import ExclusionTargetingAudienceBuilder, MediaDcr, RemarketingAudienceBuilder

dcr = MediaDcr.from_existing(ROOM, create_client(*ADVERTISER))
again = dcr.create_remarketing_audience(
    RemarketingAudienceBuilder(name=f"Again, {FORM}", source_audience_type="loyal").build()
)
others = dcr.create_exclusion_targeting_audience(
    ExclusionTargetingAudienceBuilder(name=f"Others, {FORM}", source_audience_type="loyal").build()
)
found = [
    again.definition.seedAudienceRef.audienceType,
    others.definition.kind,
    len(dcr.get_audience_user_list(again).result()),
    len(dcr.get_audience_user_list(others).result()),
]
""",
    "sharing and deleting": """
from decentriq_platform import create_client
from decentriq_platform.media import MediaDcr, RemarketingAudienceBuilder, RuleBasedAudienceBuilder

client, publisher = create_client(*ADVERTISER), create_client(*PUBLISHER)
dcr = MediaDcr.from_existing(ROOM, client)
[theirs] = [each for each in dcr.get_participants() if each.role == "publisher"]
first = dcr.create_remarketing_audience(
    RemarketingAudienceBuilder(name=f"First, {FORM}", source_audience_type="loyal").build()
)
second = dcr.create_rule_based_audience(
    RuleBasedAudienceBuilder(name=f"Second, {FORM}", source_audience=first).build()
)
dcr.share_audiences([first], [theirs])
seen = MediaDcr.from_existing(ROOM, publisher).get_audiences().result().get_custom_audience(f"First, {FORM}")
assert list(seen.sharedWith) == [theirs.id] and seen.createdBy != ADVERTISER[0]
try:
    dcr.delete_audiences([first])
    refused = False
except Exception:
    refused = True
dcr.delete_audiences([first], delete_dependent_audiences=True)
left = [each.name for each in dcr.get_audiences().result().list() if each.kind.value == "CUSTOM"]
found = [refused, f"First, {FORM}" in left, f"Second, {FORM}" in left]
""",
    "size and delivery": """
from decentriq_platform import create_client
from decentriq_platform.media import MediaDcr, RemarketingAudienceBuilder

dcr = MediaDcr.from_existing(ROOM, create_client(*ADVERTISER))
dcr.set_activation_id("userId")
audience = dcr.create_remarketing_audience(
    RemarketingAudienceBuilder(name=f"List, {FORM}", source_audience_type="loyal").build()
)
size = dcr.get_audience_size(audience).result()["userId"]
job = dcr.get_audience_user_list(audience)
users = job.wait_for_completion(timeout=600).result()
with job.get_result_as_zipfile() as archive:
    lines = [line for name in archive.namelist() for line in archive.read(name).decode().split()]
assert sorted(lines) == sorted(users)
found = [size, sorted(users)[:3]]
""",
    "users": """
from decentriq_platform import create_client
from decentriq_platform.media import MediaDcr, Permission

dcr = MediaDcr.from_existing(ROOM, create_client(*ADVERTISER))
[mine] = [each for each in dcr.get_participants() if each.role == "advertiser"]
dcr.add_user_as_participant(mine, COLLEAGUE, [Permission.VIEW_OVERLAP])
[more] = [each for each in dcr.get_participants() if each.role == "advertiser"]
dcr.remove_user_from_participant(more, COLLEAGUE)
[after] = [each for each in dcr.get_participants() if each.role == "advertiser"]
found = [more.emails, [str(each) for each in more.member_permissions[COLLEAGUE]], after.emails]
""",
    "audit log": """
import json
from decentriq_platform import create_client
from decentriq_platform.media import MediaDcr

dcr = MediaDcr.from_existing(ROOM, create_client(*PUBLISHER))
configuration = json.loads(dcr.get_configuration().model_dump_json())
found = [len(dcr.get_audit_log()) > 0, configuration["name"], configuration["matching_ids"]]
""",
}

_OURS_BEFORE = """
from cleanroom_pipelines.media import *

room = MediaDcr.from_existing(ROOM, Client(URL, ADVERTISER[1]))
"""
OURS = {
    kind: _OURS_BEFORE + script
    for kind, script in {
        "reports": """
base = MediaDcr.from_existing(ROOM, Client(URL, PUBLISHER[1])).get_base_audience_validation_reports().result()
seeds = room.get_seed_audiences_validation_report().result()
found = [
    base.matching.outcome,
    base.segments.n_rows,
    base.demographics.n_invalid_rows,
    seeds.report["outcome"],
    seeds.n_invalid_rows_by_code,
    [each["numErrorsTotal"] for each in seeds.report["columns"]],
]
""",
        "overlap": """
row = room.get_overlap_statistics().result().of("loyal")
seed = room.get_audiences().result().get_seed_audience("loyal")
assert seed.size == row.overlap_size
found = [seed.audience_type, row.advertiser_size, row.overlap_size, row.match_rate]
""",
        "insights": """
result = room.get_insights().result()
rows = result.of("loyal").rows
found = [
    result.total_publisher,
    "loyal",
    sorted([row.interest, row.affinity_ratio] for row in rows if row.grouping == ("interest",)),
]
""",
        "attributes": """
result = room.get_data_attributes().result()
found = {name: [each.type, sorted(each.values), sorted(each.operators)] for name in result.attributes
         if (each := result.of(name))}
""",
        "rule-based": """
seed = room.get_audiences().result().get_seed_audience("loyal")
young = Filter(attribute="age", values=["20-29"], operator="CONTAINS_ANY_OF")
women = Filter(attribute="gender", values=["f"], operator=FilterOperator.CONTAINS_ANY)
rule = RuleBasedAudienceDefinition(
    name=f"Young women, {FORM}",
    source_audience=seed,
    filters=AudienceFilters(filters=[young], operator=MatchOperator.MATCH_ALL),
    combinators=[
        AudienceCombinator(
            operator=CombineOperator.INTERSECT,
            source_audience=seed,
            filters=AudienceFilters(filters=[women], operator=MatchOperator.MATCH_ANY),
        )
    ],
)
audience = room.create_rule_based_audience(rule)
found = [
    audience.definition["kind"].upper(),
    audience.definition["source"]["audience_type"],
    audience.definition["filters"]["operator"],
    audience.definition["combinators"][0]["operator"],
    {"userId": room.get_audience_size(rule).details().size},
]
""",
        "lookalike": """
seed = room.get_audiences().result().get_seed_audience("loyal")
like = LookalikeAudienceDefinition(name=f"Like them, {FORM}", reach=20, source_audience=seed)
audience = room.create_lookalike_audience(like)
quality = room.get_lookalike_audience_statistics(audience).result()
assert quality.at_reach(20)
found = [audience.reach, audience.definition["exclude_seed_audience"], quality.auc]
""",
        "remarketing and exclusion": """
again = room.create_remarketing_audience(
    RemarketingAudienceDefinition(name=f"Again, {FORM}", source_audience_type="loyal")
)
others = room.create_exclusion_audience(
    ExclusionTargetingAudienceDefinition(name=f"Others, {FORM}", source_audience_type="loyal")
)
found = [
    again.definition["audience_type"],
    "EXCLUSION_TARGETING",
    len(room.get_audience_user_list(again).result()),
    len(room.get_audience_user_list(others).result()),
]
""",
        "sharing and deleting": """
publisher = MediaDcr.from_existing(ROOM, Client(URL, PUBLISHER[1]))
first = room.create_remarketing_audience(
    RemarketingAudienceDefinition(name=f"First, {FORM}", source_audience_type="loyal")
)
room.create_rule_based_audience(RuleBasedAudienceDefinition(name=f"Second, {FORM}", source_audience=first))
room.share_audiences([first], [each for each in room.get_participants() if each.role == "publisher"])
assert publisher.get_audiences().result().get_custom_audience(f"First, {FORM}").shared_with
try:
    room.delete_audiences([first])
    refused = False
except AudienceHasDependentsError as error:
    refused = error.names == (f"Second, {FORM}",)
room.delete_audiences([first], delete_dependent_audiences=True)
left = [each.name for each in room.get_audiences().result().list() if isinstance(each, CustomAudience)]
found = [refused, f"First, {FORM}" in left, f"Second, {FORM}" in left]
""",
        "size and delivery": """
audience = room.create_remarketing_audience(
    RemarketingAudienceDefinition(name=f"List, {FORM}", source_audience_type="loyal")
)
job = room.get_audience_user_list(audience)
[path] = job.download(f"{FOLDER}/lists")
assert sorted(path.read_text().split()) == sorted(job.result())
found = [room.get_audience_size(audience).details().size, sorted(job.result())[:3]]
""",
        "users": """
[mine] = [each for each in room.get_participants() if each.role == "advertiser"]
room.add_user_as_participant(mine, COLLEAGUE, ["VIEW_OVERLAP"])
[more] = [each for each in room.get_participants() if each.role == "advertiser"]
room.remove_user_from_participant(more, COLLEAGUE)
[after] = [each for each in room.get_participants() if each.role == "advertiser"]
found = [more.emails, ["Permission.VIEW_OVERLAP"], after.emails]
""",
        "audit log": """
publisher = MediaDcr.from_existing(ROOM, Client(URL, PUBLISHER[1]))
known = publisher.get_configuration()
found = [len(publisher.get_audit_log()) > 0, known.name, [each.value for each in known.matching_ids]]
""",
    }.items()
}
