"""Resource policies of configured audience models: parsing and evaluation.

Lives here: the subset of the IAM JSON policy language that is evaluated exactly as AWS does, with accounts as
principals. A role stands for its whole account, because every key of an account has all of its permissions.
Add here when another element, operator or condition key can be evaluated exactly.
Keep out: storing policies (catalogue); membership in collaborations (operations).

A document with anything else is rejected when it is parsed, with a message that names the element: a partly
understood statement could allow what its author forbade. Source: "IAM JSON policy elements" and
"Policy evaluation logic" of the AWS IAM user guide.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cleanroom_pipelines.aws.answers import ApiError

MAX_CHARACTERS: Final = 20_480
START_ACTION: Final = "cleanrooms-ml:StartAudienceGenerationJob"
_MAX_PATTERN: Final = 2_048  # the longest ARN; no compared text is longer
_SERVICE: Final = "cleanrooms-ml"
_JOBS: Final = "audience-generation-job/"
# The actions of the lookalike API. A pattern that matches none of them is a mistake, and dangerous in a Deny.
_ACTIONS: Final = frozenset(
    f"{_SERVICE}:{name}".lower()
    for name in (
        "CreateTrainingDataset", "GetTrainingDataset", "ListTrainingDatasets", "DeleteTrainingDataset",
        "CreateAudienceModel", "GetAudienceModel", "ListAudienceModels", "DeleteAudienceModel",
        "CreateConfiguredAudienceModel", "GetConfiguredAudienceModel", "ListConfiguredAudienceModels",
        "UpdateConfiguredAudienceModel", "DeleteConfiguredAudienceModel", "PutConfiguredAudienceModelPolicy",
        "GetConfiguredAudienceModelPolicy", "DeleteConfiguredAudienceModelPolicy",
        "StartAudienceGenerationJob", "GetAudienceGenerationJob", "ListAudienceGenerationJobs",
        "DeleteAudienceGenerationJob", "StartAudienceExportJob", "ListAudienceExportJobs",
        "TagResource", "UntagResource", "ListTagsForResource",
    )
)  # fmt: skip
_VERSIONS: Final = ("2012-10-17", "2008-10-17")
_POLICY_ELEMENTS: Final = frozenset({"Version", "Id", "Statement"})
_STATEMENT_ELEMENTS: Final = frozenset({"Sid", "Effect", "Principal", "Action", "Resource", "Condition"})
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_ROOT: Final = re.compile(r"arn:(aws[-a-z]*):iam::([0-9]{12}):root")
_ROLE: Final = re.compile(r"arn:(aws[-a-z]*):iam::([0-9]{12}):role/[A-Za-z0-9+=,.@_/-]{1,576}")
_ACTION: Final = re.compile(rf"\*|{_SERVICE}:[a-z*?]{{1,128}}", re.ASCII | re.IGNORECASE)
_TAG_KEY: Final = re.compile(r"[a-zA-Z0-9 _.:/=+@-]{1,128}")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z:-]{0,63}")

_COLLABORATION: Final = "cleanrooms-ml:collaborationid"
_PRINCIPAL_ACCOUNT: Final = "aws:principalaccount"
_SECURE: Final = "aws:securetransport"
# The account for which an AWS service calls. No request here has it, because accounts call directly.
_SOURCE_ACCOUNT: Final = "aws:sourceaccount"
_TAG_KEYS: Final = "aws:tagkeys"
_REQUEST_TAG: Final = "aws:requesttag/"
_RESOURCE_TAG: Final = "aws:resourcetag/"


class Decision(StrEnum):
    """A policy's decision on a request."""

    ALLOWED = "ALLOWED"
    """A statement allows the request, and none denies it."""
    DENIED = "DENIED"
    """A statement denies the request, regardless of other statements."""
    NOT_MENTIONED = "NOT_MENTIONED"
    """No statement applies to the request, so accounts other than the owner's are denied."""


@dataclass(frozen=True)
class Condition:
    """One condition: an operator, a condition key, and the values the key is compared with.

    Args:
        operator: AWS's name of the operator.
        key: The condition key, in lower case.
        values: The values, at least one.
    """

    operator: str
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class PolicyStatement:
    """One statement of a policy.

    Args:
        is_deny: Whether its effect is Deny.
        accounts: The accounts it applies to; None for all.
        actions: Patterns of actions, in lower case.
        resources: Patterns of ARNs.
        conditions: Conditions that must all hold.
    """

    is_deny: bool
    accounts: frozenset[str] | None
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Policy:
    """A parsed policy."""

    statements: tuple[PolicyStatement, ...]

    def may_allow(self, account: str) -> bool:
        """Check whether any Allow statement covers an account.

        Args:
            account: 12 digits.
        """
        return any(
            not statement.is_deny and (statement.accounts is None or account in statement.accounts)
            for statement in self.statements
        )


def read_policy(text: str, resource_arn: str, *, is_known: Callable[[str], bool] = lambda _: True) -> Policy:
    """Parse the policy document of a configured audience model.

    Args:
        text: The JSON document.
        resource_arn: ARN of the configured audience model that the policy belongs to.
        is_known: Whether an account exists; roles of other accounts are rejected.

    Raises:
        ApiError: ValidationException; it names the element that cannot be evaluated exactly, and quotes no value.
    """
    try:
        return _PolicyReader(resource_arn, is_known).policy(text)
    except _RejectedError as rejected:
        where = f"{rejected.element}: " if rejected.element else ""
        raise ApiError(
            "ValidationException",
            "1 validation error detected: Value at 'configuredAudienceModelPolicy' failed to satisfy constraint: "
            f"{where}{rejected.constraint}",
        ) from None


def context_of(
    *,
    collaboration_id: str | None = None,
    request_tags: Mapping[str, str] | None = None,
    resource_tags: Mapping[str, str] | None = None,
    is_secure: bool = False,
) -> dict[str, str]:
    """Return the values in a StartAudienceGenerationJob request that a policy's conditions can test.

    Args:
        collaboration_id: The request's collaboration.
        request_tags: The request's tags for the job.
        resource_tags: Tags of the requested resource.
        is_secure: Whether the request arrived over TLS.
    """
    context = {f"aws:RequestTag/{key}": value for key, value in (request_tags or {}).items()}
    context |= {f"aws:ResourceTag/{key}": value for key, value in (resource_tags or {}).items()}
    context["aws:SecureTransport"] = str(is_secure).lower()
    if collaboration_id is not None:
        context["cleanrooms-ml:CollaborationId"] = collaboration_id
    return context


def allows(
    policy: Policy,
    *,
    caller_account: str,
    action: str,
    resource_arn: str,
    context: Mapping[str, str | Sequence[str]],
) -> bool:
    """Check whether a policy allows an account to act on a resource: a statement allows it, and none denies it.

    Args:
        policy: The policy.
        caller_account: 12 digits.
        action: Such as `cleanrooms-ml:StartAudienceGenerationJob`.
        resource_arn: The resource of the action.
        context: Condition keys and values from `context_of`; `aws:PrincipalAccount` and `aws:TagKeys` are added.
    """
    decision = decide(
        policy, caller_account=caller_account, action=action, resource_arn=resource_arn, context=context
    )
    return decision is Decision.ALLOWED


def decide(
    policy: Policy,
    *,
    caller_account: str,
    action: str,
    resource_arn: str,
    context: Mapping[str, str | Sequence[str]],
) -> Decision:
    """Evaluate a policy: the owner's account may act unless DENIED, other accounts only if ALLOWED.

    If a request has two tags whose keys differ only in case, AWS does not define which of them a condition means.
    Here an Allow requires both to match, and a Deny only one.

    Args:
        policy: The policy.
        caller_account: 12 digits.
        action: Such as `cleanrooms-ml:StartAudienceGenerationJob`.
        resource_arn: The resource of the action.
        context: As for `allows`.

    Raises:
        ValueError: The context contains a key that policies cannot use, which would be silently ignored.
    """
    found = _values_by_key(context, caller_account)
    decision = Decision.NOT_MENTIONED
    for statement in policy.statements:
        if _applies(statement, caller_account, action.lower(), resource_arn, found):
            if statement.is_deny:
                return Decision.DENIED
            decision = Decision.ALLOWED
    return decision


def may_start(
    policy: Policy,
    *,
    caller_account: str,
    model_arn: str,
    job_arn: str,
    collaboration_id: str | None,
    request_tags: Mapping[str, str],
    model_tags: Mapping[str, str],
    is_secure: bool = False,
) -> bool:
    """Check whether another account may start a generation job on a configured audience model.

    AWS evaluates the action on two resources of the owner, the model and the new job, and its example names both.
    Here it is enough if the policy allows the model, since that can mean nothing else; a Deny on either applies.

    Args:
        policy: The model's policy.
        caller_account: The caller's account, 12 digits.
        model_arn: The configured audience model.
        job_arn: The new job, under the owner's account.
        collaboration_id: The request's collaboration.
        request_tags: The request's tags for the job.
        model_tags: Tags of the configured audience model.
        is_secure: Whether the request arrived over TLS.
    """
    on_job = context_of(collaboration_id=collaboration_id, request_tags=request_tags, is_secure=is_secure)
    on_model = on_job | context_of(resource_tags=model_tags, is_secure=is_secure)
    model = decide(
        policy, caller_account=caller_account, action=START_ACTION, resource_arn=model_arn, context=on_model
    )
    job = decide(policy, caller_account=caller_account, action=START_ACTION, resource_arn=job_arn, context=on_job)
    return model is Decision.ALLOWED and job is not Decision.DENIED


def matches_wildcards(pattern: str, text: str) -> bool:
    """Match a pattern with `*` (any characters) and `?` (one character) in linear time.

    Args:
        pattern: The pattern.
        text: The text.
    """
    if "*" not in pattern and "?" not in pattern:
        return pattern == text
    pattern = _with_single_stars(pattern)
    return bool(_reached(pattern, text) >> len(pattern) & 1)


def _can_begin(pattern: str, beginning: str) -> bool:
    """Check whether a pattern matches at least one text that starts with `beginning`."""
    return _reached(_with_single_stars(pattern), beginning) != 0


def _with_single_stars(pattern: str) -> str:
    return re.sub(r"\*+", "*", pattern)


def _reached(pattern: str, text: str) -> int:
    """Return which prefixes of a pattern match a text, as bits: bit k is set if the first k characters match.

    All alternatives are followed at once, as the bits of one integer, so that there is no backtracking.
    """
    stars = anything = 0
    consuming: dict[str, int] = {}
    for at, character in enumerate(pattern):
        if character == "*":
            stars |= 1 << at
        elif character == "?":
            anything |= 1 << at
        else:
            consuming[character] = consuming.get(character, 0) | 1 << at
    reached = 1 | (1 & stars) << 1
    for character in text:
        used = reached & (consuming.get(character, 0) | anything)
        reached = used << 1 | reached & stars
        reached |= (reached & stars) << 1
        if not reached:
            break
    return reached


def _equals(values: tuple[str, ...], given: str) -> bool:
    return given in values


def _like(values: tuple[str, ...], given: str) -> bool:
    return any(matches_wildcards(value, given) for value in values)


@dataclass(frozen=True)
class _Operator:
    """How a condition operator compares a request's values with those of the policy.

    Args:
        compares: Checks whether a given value is one of the policy's values.
        is_negated: Whether the comparison is negated.
        if_missing: The outcome if the request lacks the key.
        is_for_any: Whether one matching value of the request is enough.
        is_null: Whether it checks only if the request lacks the key.
        is_bool: Whether the key is true or false.
    """

    compares: Callable[[tuple[str, ...], str], bool]
    is_negated: bool
    if_missing: bool
    is_for_any: bool
    is_null: bool = False
    is_bool: bool = False


def _operators() -> dict[str, _Operator]:
    found = {}
    for word, compares in (("Equals", _equals), ("Like", _like)):
        found[f"String{word}"] = _Operator(compares, False, False, False)
        found[f"StringNot{word}"] = _Operator(compares, True, True, False)
        found[f"String{word}IfExists"] = _Operator(compares, False, True, False)
        found[f"StringNot{word}IfExists"] = _Operator(compares, True, True, False)
        found[f"ForAnyValue:String{word}"] = _Operator(compares, False, False, True)
    found["Bool"] = _Operator(_equals, False, False, False, is_bool=True)
    found["BoolIfExists"] = _Operator(_equals, False, True, False, is_bool=True)
    found["Null"] = _Operator(_equals, False, False, False, is_null=True)
    return found


_OPERATORS: Final = _operators()


def _applies(
    statement: PolicyStatement,
    caller_account: str,
    action: str,
    resource_arn: str,
    found: Mapping[str, tuple[str, ...]],
) -> bool:
    return (
        (statement.accounts is None or caller_account in statement.accounts)
        and any(matches_wildcards(pattern, action) for pattern in statement.actions)
        and any(_matches_arn(pattern, resource_arn) for pattern in statement.resources)
        and all(_holds(each, found.get(each.key, ()), is_deny=statement.is_deny) for each in statement.conditions)
    )


def _matches_arn(pattern: str, arn: str) -> bool:
    """Match an ARN with a pattern; wildcards cannot match a colon, because pattern and ARN each have six parts."""
    return pattern == "*" or matches_wildcards(pattern, arn)


def _holds(condition: Condition, given: tuple[str, ...], *, is_deny: bool) -> bool:
    operator = _OPERATORS[condition.operator]
    if operator.is_null:
        return str(not given).lower() in condition.values
    if not given:
        return operator.if_missing
    outcomes = (operator.compares(condition.values, value) is not operator.is_negated for value in given)
    # several values come from several tags with that key, except for aws:TagKeys, which is a list by nature
    return any(outcomes) if is_deny or condition.key == _TAG_KEYS else all(outcomes)


def _values_by_key(context: Mapping[str, str | Sequence[str]], caller_account: str) -> dict[str, tuple[str, ...]]:
    """Return a request's values by condition key; the keys are in lower case."""
    found: dict[str, tuple[str, ...]] = {}
    tag_keys: tuple[str, ...] = ()
    for name, value in context.items():
        key = _lower(name)
        if key in (_PRINCIPAL_ACCOUNT, _TAG_KEYS):
            continue
        if key not in (_COLLABORATION, _SECURE) and not key.startswith((_REQUEST_TAG, _RESOURCE_TAG)):
            raise ValueError("The context contains a condition key that policies cannot use here.")
        found[key] = found.get(key, ()) + ((value,) if isinstance(value, str) else tuple(value))
        if key.startswith(_REQUEST_TAG):
            tag_keys += (name[len(_REQUEST_TAG) :],)
    return {**found, _PRINCIPAL_ACCOUNT: (caller_account,), _TAG_KEYS: tag_keys}


def _lower(text: str) -> str:
    """Convert ASCII letters to lower case; `str.lower` would also turn the Kelvin sign, for one, into a `k`."""
    return "".join(each.lower() if each.isascii() else each for each in text)


class _RejectedError(Exception):
    """A policy document has an element that cannot be evaluated exactly as AWS does."""

    def __init__(self, element: str, constraint: str) -> None:
        super().__init__(constraint)
        self.element = element
        self.constraint = constraint


class _PolicyReader:
    """Parser of the policy document of one resource."""

    def __init__(self, resource_arn: str, is_known: Callable[[str], bool]) -> None:
        self._arn, self._is_known = resource_arn, is_known
        parts = resource_arn.split(":", 5)
        if len(parts) != 6:
            raise ValueError("not an ARN")
        self._partition = parts[1]
        self._beginning_of_jobs = ":".join((*parts[:5], _JOBS))

    def policy(self, text: str) -> Policy:
        if not 1 <= len(text) <= MAX_CHARACTERS:
            raise _RejectedError("", f"Member must have length between 1 and {MAX_CHARACTERS}")
        try:
            document = json.loads(text, object_pairs_hook=_without_repeated_keys, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise _RejectedError("", "Member must be a JSON document") from None
        _check_elements("", document, _POLICY_ELEMENTS, required=("Statement",))
        if "Version" in document and document["Version"] not in _VERSIONS:
            raise _RejectedError("Version", f"Member must be one of {', '.join(_VERSIONS)}")
        if not isinstance(document.get("Id", ""), str):
            raise _RejectedError("Id", "Member must be a string")
        statements = document["Statement"]
        if isinstance(statements, dict):
            return Policy((self._statement("Statement", statements),))
        if not isinstance(statements, list) or not statements:
            raise _RejectedError("Statement", "Member must be a statement or a non-empty list of statements")
        return Policy(tuple(self._statement(f"Statement[{at}]", each) for at, each in enumerate(statements)))

    def _statement(self, where: str, statement: Any) -> PolicyStatement:
        required = ("Effect", "Principal", "Action", "Resource")
        _check_elements(where, statement, _STATEMENT_ELEMENTS, required=required)
        if not isinstance(statement.get("Sid", ""), str):
            raise _RejectedError(f"{where}.Sid", "Member must be a string")
        if statement["Effect"] not in ("Allow", "Deny"):
            raise _RejectedError(f"{where}.Effect", "Member must be Allow or Deny")
        return PolicyStatement(
            is_deny=statement["Effect"] == "Deny",
            accounts=self._accounts(f"{where}.Principal", statement["Principal"]),
            actions=tuple(
                _action(element, each) for element, each in _strings(f"{where}.Action", statement["Action"])
            ),
            resources=tuple(
                self._resource(element, each)
                for element, each in _strings(f"{where}.Resource", statement["Resource"])
            ),
            conditions=_conditions(f"{where}.Condition", statement["Condition"])
            if "Condition" in statement
            else (),
        )

    def _accounts(self, where: str, principal: Any) -> frozenset[str] | None:
        if principal == "*":
            return None
        if isinstance(principal, str):
            raise _RejectedError(where, 'Member must be "*" or an object with the key AWS')
        _check_elements(where, principal, frozenset({"AWS"}), required=("AWS",))
        accounts = set[str]()
        includes_all = False
        for element, each in _strings(f"{where}.AWS", principal["AWS"]):
            root, role = _ROOT.fullmatch(each), _ROLE.fullmatch(each)
            if each == "*":
                includes_all = True
            elif _ACCOUNT.fullmatch(each):
                accounts.add(each)
            elif root and root.group(1) == self._partition:
                accounts.add(root.group(2))
            elif role and role.group(1) == self._partition and self._is_known(role.group(2)):
                accounts.add(role.group(2))
            else:
                raise _RejectedError(
                    element,
                    "Member must be *, an account id of 12 digits, the ARN of an account's root, or the ARN of a "
                    "role in an account that exists here (a role stands for its whole account). Users and "
                    "services are not supported",
                )
        return None if includes_all else frozenset(accounts)

    def _resource(self, where: str, pattern: str) -> str:
        if pattern == "*":
            return pattern
        if pattern.count(":") != self._arn.count(":"):
            raise _RejectedError(
                where, "Member must be * or an ARN of six parts, with wildcards only within parts"
            )
        if not matches_wildcards(pattern, self._arn) and not _can_begin(pattern, self._beginning_of_jobs):
            raise _RejectedError(where, "Member must match this configured audience model or its generation jobs")
        return pattern


def _action(where: str, action: str) -> str:
    if not _ACTION.fullmatch(action):
        raise _RejectedError(
            where, f"Member must be * or an action of {_SERVICE}, with wildcards only in its name"
        )
    pattern = action.lower()
    if not any(matches_wildcards(pattern, each) for each in _ACTIONS):
        raise _RejectedError(where, "Member must match an action of this API")
    return pattern


def _conditions(where: str, condition: Any) -> tuple[Condition, ...]:
    if not isinstance(condition, dict) or not condition:
        raise _RejectedError(where, "Member must be a non-empty object")
    conditions = []
    for operator, keys in condition.items():
        element = f"{where}.{_shown(operator)}"
        if operator not in _OPERATORS:
            raise _RejectedError(element, f"Member must be one of {', '.join(sorted(_OPERATORS))}")
        if not isinstance(keys, dict) or not keys:
            raise _RejectedError(element, "Member must be a non-empty object")
        seen = set[str]()
        for name, values in keys.items():
            key = _condition_key(element, name, _OPERATORS[operator])
            if key in seen:
                raise _RejectedError(element, "Member must name each condition key once, ignoring case")
            seen.add(key)
            shown = f"{element}.{name.partition('/')[0]}"
            conditions.append(Condition(operator, key, _condition_values(shown, values, _OPERATORS[operator])))
    return tuple(conditions)


def _condition_values(where: str, values: Any, operator: _Operator) -> tuple[str, ...]:
    if not (operator.is_bool or operator.is_null):
        return tuple(value for _, value in _strings(where, values))
    several = values if isinstance(values, list) and values else [values]
    found = tuple(str(value).lower() for value in several if isinstance(value, str | bool))
    if len(found) < len(several) or not {"true", "false"}.issuperset(found):
        raise _RejectedError(where, "Member must be true or false")
    return found


def _condition_key(where: str, name: str, operator: _Operator) -> str:
    key = _lower(name)
    if key == _SECURE or operator.is_bool:
        if key == _SECURE and (operator.is_bool or operator.is_null):
            return key
        raise _RejectedError(
            where, "Member must be Bool or Null for aws:SecureTransport; other keys do not support Bool"
        )
    for prefix in (_REQUEST_TAG, _RESOURCE_TAG):
        if key.startswith(prefix) and _TAG_KEY.fullmatch(key[len(prefix) :]):
            return key
    if key in (_COLLABORATION, _PRINCIPAL_ACCOUNT, _SOURCE_ACCOUNT):
        return key
    if key == _TAG_KEYS:
        if operator.is_for_any or operator.is_null:
            return key
        raise _RejectedError(
            f"{where}.aws:TagKeys", "Member must be used with ForAnyValue, because the key can have several values"
        )
    raise _RejectedError(
        f"{where}.{_shown(name.partition('/')[0])}",
        "Member must be one of cleanrooms-ml:CollaborationId, aws:PrincipalAccount, aws:RequestTag/<key>, "
        "aws:ResourceTag/<key>, aws:SecureTransport, aws:SourceAccount, aws:TagKeys",
    )


def _strings(where: str, value: Any) -> list[tuple[str, str]]:
    """Return the strings of a value, itself a string or a list of strings, as pairs of path and string."""
    if isinstance(value, str):
        return [(where, _plain(where, value))]
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise _RejectedError(where, "Member must be a string or a non-empty list of strings")
    return [(f"{where}[{at}]", _plain(f"{where}[{at}]", each)) for at, each in enumerate(value)]


def _plain(where: str, value: str) -> str:
    if "${" in value:
        raise _RejectedError(where, "Member must not use policy variables")
    if len(value) > _MAX_PATTERN:
        raise _RejectedError(where, f"Member must have length less than or equal to {_MAX_PATTERN}")
    return value


def _check_elements(where: str, value: Any, known: frozenset[str], *, required: Sequence[str]) -> None:
    if not isinstance(value, dict):
        raise _RejectedError(where, "Member must be an object")
    prefix = f"{where}." if where else ""
    for element in value:
        if element not in known:
            raise _RejectedError(
                f"{prefix}{_shown(element)}",
                f"Member must be one of {', '.join(sorted(known))}: no others are supported",
            )
    for element in required:
        if element not in value:
            raise _RejectedError(f"{prefix}{element}", "Member must not be missing")


def _shown(name: str) -> str:
    """Return the name of an element for a message; `(unknown)` if it may be data instead of a name."""
    return name if _NAME.fullmatch(name) else "(unknown)"


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object from its pairs; reject repeated keys, because parsers differ in which one they keep."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RejectedError(_shown(key), "Member must not be given twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(name)
