"""The client's API compared with the document that it follows, item by item.

Contract: every class, method, parameter, default and enum member in the document exists here, in the same order;
every call that the document allows is allowed. Additions are permitted: parameters with defaults, methods, and
enum members after the others.

The facts below were copied from the document manually. A parameter is written as its name, with `*` before the
first keyword-only one, and `?` after one that has a default.
"""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from cleanroom_pipelines import media

from ..cases import assert_each

SUBMODULES = (
    "audience_statistics_result",
    "audiences",
    "compute_job",
    "lookalike_audience_builder",
    "media",
    "participant",
    "remarketing_audience_builder",
    "rule_based_builder",
    "validation_reports",
)

# class: (parameters of the constructor, {method: parameters without self})
CLASSES: dict[str, tuple[str, dict[str, str]]] = {
    "AudienceCombinator": ("* operator source_audience filters?", {"as_dict": ""}),
    "AudienceCombinatorBuilder": (
        "* operator source_audience",
        {"build": "", "with_filters": "filters"},
    ),
    "AudienceFilters": ("* filters operator", {"as_dict": ""}),
    "Audiences": (
        "audiences",
        {
            "get_custom_audience": "name",
            "get_seed_audience": "audience_type",
            "is_lookalike_audience": "audience",
            "list": "",
        },
    ),
    "CreateLookalikeAudienceAction": ("dcr_id client definition", {"create": ""}),
    "Filter": ("* attribute values operator", {"as_dict": ""}),
    "LalAudienceStatistics": (
        "auc fpr tpr",
        {"from_dict": "d", "model_dump": "", "model_dump_json": "indent?"},
    ),
    "LookalikeAudienceBuilder": (
        "* name reach source_audience",
        {"build": "", "with_exclude_seed_audience": "", "with_share_with_participants": "participants"},
    ),
    "MediaDcr": (
        "client * name? participants? collaboration_types? matching_ids? hide_absolute_values?",
        {
            "from_existing": "dcr_id client",
            "are_seed_audiences_provisioned": "",
            "can_other_participants_export_audience": "",
            "create_lookalike_audience": "definition",
            "create_remarketing_audience": "definition",
            "create_rule_based_audience": "definition",
            "delete_audiences": "audiences * delete_dependent_audiences?",
            "deprovision_base_audience": "",
            "deprovision_seed_audiences": "",
            "get_audience_size": "audience",
            "get_audience_user_list": "audience",
            "get_audiences": "",
            "get_audit_log": "",
            "get_base_audience_validation_reports": "",
            "get_configuration": "",
            "get_data_attributes": "",
            "get_insights": "",
            "get_lookalike_audience_statistics": "audience",
            "get_overlap_statistics": "",
            "get_owner_email": "",
            "get_participants": "",
            "get_seed_audiences_validation_report": "",
            "is_base_audience_provisioned": "",
            "provision_base_audience": "data_lab_id",
            "provision_seed_audiences": "manifest_hash",
            "share_audiences": "audiences participants",
        },
    ),
    "Participant": (
        "emails permissions role id? organization_id?",
        {"as_dict": "", "can_export_audience": ""},
    ),
    "RemarketingAudienceBuilder": (
        "* name source_audience_type",
        {"build": "", "with_share_with_participants": "participants"},
    ),
    "RemarketingAudienceDefinition": ("* name source_audience_type shared_with", {}),
    "RuleBasedAudienceBuilder": (
        "* name source_audience",
        {
            "build": "",
            "with_combinator": "combinators",
            "with_filters": "filters",
            "with_share_with_participants": "participants",
        },
    ),
    "RuleBasedAudienceDefinition": ("* name source_audience filters? combinators? shared_with?", {}),
    "ValidationReports": ("matching segments demographics", {"model_dump_json": ""}),
}

STATIC = {
    ("Audiences", "is_lookalike_audience"),
    ("LalAudienceStatistics", "from_dict"),
    ("MediaDcr", "from_existing"),
}

# parameter: its documented default, where that is not None
DEFAULTS = {
    ("MediaDcr", "__init__", "hide_absolute_values"): False,
    ("MediaDcr", "delete_audiences", "delete_dependent_audiences"): False,
}

# enum: (members in the document's order, values on the wire)
ENUMS: dict[str, dict[str, str]] = {
    "CollaborationType": {
        "INSIGHTS": "ENABLE_INSIGHTS",
        "LOOKALIKE": "ENABLE_LOOKALIKE_AUDIENCES",
        "REMARKETING": "ENABLE_REMARKETING",
        "RULE_BASED": "ENABLE_RULED_BASED_AUDIENCES",
    },
    "CombineOperator": {"INTERSECT": "INTERSECT", "UNION": "UNION", "DIFF": "DIFF"},
    "FilterOperator": {
        "CONTAINS_ANY": "CONTAINS_ANY_OF",
        "CONTAINS_NONE": "CONTAINS_NONE_OF",
        "CONTAINS_ALL": "CONTAINS_ALL_OF",
        "EMPTY": "EMPTY",
        "NOT_EMPTY": "NOT_EMPTY",
    },
    "MatchOperator": {"MATCH_ALL": "AND", "MATCH_ANY": "OR"},
    "MatchingId": {
        "STRING": "STRING",
        "EMAIL": "EMAIL",
        "HASHED_EMAIL": "HASHED_EMAIL",
        "PHONE_NUMBER": "PHONE_NUMBER",
        "HASHED_PHONE_NUMBER": "HASHED_PHONE_NUMBER",
    },
    "Permission": {
        "VIEW_OVERLAP": "VIEW_OVERLAP",
        "VIEW_INSIGHTS": "VIEW_INSIGHTS",
        "PROVIDE_SEED_AUDIENCE": "PROVIDE_SEED_AUDIENCE",
        "PROVIDE_BASE_AUDIENCE": "PROVIDE_BASE_AUDIENCE",
        "CREATE_CUSTOM_AUDIENCE": "CREATE_CUSTOM_AUDIENCE",
        "EXPORT_AUDIENCE": "EXPORT_AUDIENCE",
        "MODEL_QUALITY": "MODEL_QUALITY",
        "MANAGE_USERS": "MANAGE_USERS",
    },
}

# names that the document speaks of by the sub-module they live in
PLACES = {
    "action": ("Action",),
    "api": ("CustomAudience", "SeedAudience", "ValidationReport"),
    "audience_statistics_result": ("LalAudienceStatistics",),
    "audiences": ("Audiences",),
    "compute_job": (
        "MediaAudienceUserListJob",
        "MediaAudiencesValidationReportJob",
        "MediaBaseAudienceValidationReportsJob",
        "MediaDataAttributesJob",
        "MediaEstimateAudienceSizeJob",
        "MediaGetAudiencesJob",
        "MediaInsightsJob",
        "MediaLookalikeAudienceStatisticsJob",
        "MediaOverlapStatisticsJob",
    ),
    "lookalike_audience_builder": ("LookalikeAudienceBuilder", "LookalikeAudienceDefinition"),
    "media": ("DcrConfiguration", "MediaDcr"),
    "participant": ("Participant",),
    "remarketing_audience_builder": ("RemarketingAudienceBuilder", "RemarketingAudienceDefinition"),
    "rule_based_builder": (
        "AudienceCombinator",
        "AudienceCombinatorBuilder",
        "AudienceFilters",
        "CombineOperator",
        "Filter",
        "FilterOperator",
        "MatchOperator",
        "RuleBasedAudienceBuilder",
        "RuleBasedAudienceDefinition",
    ),
    "validation_reports": ("ValidationReports",),
}

# what a call gives back, where the document says so: a word that our annotation must hold
RETURNS = {
    ("Audiences", "get_custom_audience"): "CustomAudience",
    ("Audiences", "get_seed_audience"): "SeedAudience",
    ("Audiences", "is_lookalike_audience"): "bool",
    ("MediaDcr", "are_seed_audiences_provisioned"): "bool",
    ("MediaDcr", "can_other_participants_export_audience"): "bool",
    ("MediaDcr", "create_lookalike_audience"): "CustomAudience",
    ("MediaDcr", "create_remarketing_audience"): "CustomAudience",
    ("MediaDcr", "create_rule_based_audience"): "CustomAudience",
    ("MediaDcr", "get_audience_size"): "MediaEstimateAudienceSizeJob",
    ("MediaDcr", "get_audience_user_list"): "MediaAudienceUserListJob",
    ("MediaDcr", "get_audiences"): "MediaGetAudiencesJob",
    ("MediaDcr", "get_audit_log"): "DataRoomAuditLog",
    ("MediaDcr", "get_base_audience_validation_reports"): "MediaBaseAudienceValidationReportsJob",
    ("MediaDcr", "get_configuration"): "DcrConfiguration",
    ("MediaDcr", "get_data_attributes"): "MediaDataAttributesJob",
    ("MediaDcr", "get_insights"): "MediaInsightsJob",
    ("MediaDcr", "get_lookalike_audience_statistics"): "MediaLookalikeAudienceStatisticsJob",
    ("MediaDcr", "get_overlap_statistics"): "MediaOverlapStatisticsJob",
    ("MediaDcr", "get_owner_email"): "str",
    ("MediaDcr", "get_participants"): "Participant",
    ("MediaDcr", "get_seed_audiences_validation_report"): "MediaAudiencesValidationReportJob",
    ("MediaDcr", "is_base_audience_provisioned"): "bool",
    ("Participant", "as_dict"): "dict",
    ("Participant", "can_export_audience"): "bool",
    ("AudienceCombinatorBuilder", "build"): "AudienceCombinator",
    ("LookalikeAudienceBuilder", "build"): "LookalikeAudienceDefinition",
    ("RemarketingAudienceBuilder", "build"): "RemarketingAudienceDefinition",
    ("RuleBasedAudienceBuilder", "build"): "RuleBasedAudienceDefinition",
    ("ValidationReports", "model_dump_json"): "str",
    ("LalAudienceStatistics", "model_dump_json"): "str",
}

CALLS = [
    (name, method, parameters)
    for name, (constructor, methods) in CLASSES.items()
    for method, parameters in {"__init__": constructor, **methods}.items()
]


def signature_of(name: str, method: str) -> inspect.Signature:
    """Return the signature for callers, without self or cls."""
    cls = getattr(media, name)
    if method == "__init__":
        return inspect.signature(cls)
    signature = inspect.signature(getattr(cls, method))
    if (name, method) in STATIC:
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def read(parameters: str) -> tuple[list[str], list[str], set[str]]:
    """Return positional, keyword-only and optional parameters."""
    positional, _, named = parameters.partition("*")
    optional = {word.rstrip("?") for word in parameters.split() if word.endswith("?")}
    names = [[word.rstrip("?") for word in part.split()] for part in (positional, named)]
    return names[0], names[1], optional


def test_the_copied_facts_cover_the_whole_document() -> None:
    assert len(CLASSES) + len(ENUMS) == 21
    assert len(CLASSES["MediaDcr"][1]) == 25 + 1
    assert sum(len(methods) for _, methods in CLASSES.values()) == 51


def test_a_submodule_exists() -> None:
    def exists(name: str) -> None:
        assert importlib.import_module(f"cleanroom_pipelines.media.{name}").__doc__

    assert_each(exists, SUBMODULES)


def test_a_name_is_in_the_documented_module() -> None:
    def is_there(place: str, name: str) -> None:
        module = importlib.import_module(f"cleanroom_pipelines.media.{place}")
        assert getattr(module, name) is getattr(media, name)
        assert name in media.__all__

    assert_each(is_there, [(place, name) for place, names in PLACES.items() for name in names])


def test_a_call_has_the_documented_parameters() -> None:
    def takes_it(name: str, method: str, parameters: str) -> None:
        ours = signature_of(name, method).parameters
        positional, named, optional = read(parameters)
        can_be_positional = [p.name for p in ours.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        assert can_be_positional[: len(positional)] == positional, "the same order"
        assert set(named) <= set(ours)
        for added in set(ours) - {*positional, *named}:
            assert ours[added].default is not inspect.Parameter.empty, "what we add may be left out"
        for left_out in optional:
            documented = DEFAULTS.get((name, method, left_out))
            assert ours[left_out].default == documented
        for parameter in ours.values():
            assert parameter.annotation is not inspect.Parameter.empty

    assert_each(takes_it, CALLS)


def test_a_documented_call_is_valid() -> None:
    def is_valid(name: str, method: str, parameters: str) -> None:
        signature = signature_of(name, method)
        positional, named, optional = read(parameters)
        everything = dict.fromkeys([*positional, *named])
        needed = {parameter: None for parameter in everything if parameter not in optional}
        for arguments in (everything, needed):
            signature.bind(**arguments)
            in_order = [parameter for parameter in positional if parameter in arguments]
            signature.bind(*in_order, **{n: None for n in arguments if n in named})

    assert_each(is_valid, CALLS)


def test_a_call_returns_the_documented_type() -> None:
    def has_the_type(name: str, method: str) -> None:
        told = inspect.signature(getattr(getattr(media, name), method)).return_annotation
        assert RETURNS[name, method] in (told if isinstance(told, str) else inspect.formatannotation(told))

    assert_each(has_the_type, RETURNS)


def test_a_static_call_needs_no_object() -> None:
    def needs_none(name: str, method: str) -> None:
        assert isinstance(inspect.getattr_static(getattr(media, name), method), staticmethod | classmethod)

    assert_each(needs_none, sorted(STATIC))


def test_enum_members_have_the_documented_order_and_values() -> None:
    def has_the_members(name: str) -> None:
        kind = getattr(media, name)
        assert issubclass(kind, Enum)
        assert issubclass(kind, str)
        ours = {member.name: member.value for member in kind}
        assert list(ours.items())[: len(ENUMS[name])] == list(ENUMS[name].items())

    assert_each(has_the_members, ENUMS)


def test_a_member_is_found_by_its_value() -> None:
    def is_found(name: str) -> None:
        kind: Callable[[str], Any] = getattr(media, name)
        assert {kind(value).name for value in ENUMS[name].values()} == set(ENUMS[name])

    assert_each(is_found, ENUMS)


def test_every_exported_name_exists() -> None:
    assert sorted(media.__all__) == media.__all__
    assert all(hasattr(media, name) for name in media.__all__)


def test_the_documented_action_is_an_action() -> None:
    assert issubclass(media.CreateLookalikeAudienceAction, media.Action)


def test_the_migration_page_names_only_existing_things() -> None:
    page = Path(media.__file__).with_name("FROM_MEDIA.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    spoken_of = set(re.findall(r"`(?:\w+\.)?([a-z_]+)\(", page))
    for block in blocks:
        nodes = list(ast.walk(ast.parse(block)))
        imported = [alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
        assert set(imported) <= set(media.__all__)
        spoken_of |= {node.attr for node in nodes if isinstance(node, ast.Attribute)} - {"media"}
    every_class = [getattr(media, name) for name in media.__all__ if isinstance(getattr(media, name), type)]
    fields = ("__dataclass_fields__", "model_fields")
    known = {
        name for cls in every_class for name in (*dir(cls), *(f for k in fields for f in getattr(cls, k, ())))
    }
    assert spoken_of - known == set()


def test_importing_the_client_loads_no_heavy_packages() -> None:
    heavy = {"dagster", "duckdb", "pandas", "lightgbm", "sqlglot", "pyarrow", "numpy", "sqlalchemy", "sklearn"}
    script = "import sys, cleanroom_pipelines.media; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "cleanroom_pipelines" in loaded
    assert loaded & heavy == set()
