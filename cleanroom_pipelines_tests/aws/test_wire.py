"""Parsing requests and writing responses.

Contract: parsing restores what a real botocore client sends, and such a client restores what we write; every
violated constraint of botocore's model gives a ValidationException that names the member and never the value; no
body, path or query raises anything but an ApiError.
"""

import json
import math
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cleanroom_pipelines.aws.answers import ApiError
from cleanroom_pipelines.aws.constraints import MAX_PROBLEMS, parse_timestamp
from cleanroom_pipelines.aws.handlers import OPERATIONS
from cleanroom_pipelines.aws.model import operations
from cleanroom_pipelines.aws.wire import MAX_BODY_BYTES, OperationCall, read, route, write, write_error

from ..cases import assert_each
from .examples import MARK, Broken, broken, example, right
from .requests import RawRequest, ShortClient, build, operation_model, raised
from .strategies import inputs, outputs

REQUEST_ID = "0123abcd-0123-4abc-8def-0123456789ab"
MODEL_ARN = "arn:aws:cleanrooms-ml:us-east-1:123456789012:audience-model/x"
DATASET_ARN = "arn:aws:cleanrooms-ml:us-east-1:123456789012:training-dataset/x"
CREATE_MODEL = {"name": "n", "trainingDatasetArn": DATASET_ARN}
WITH_OUTPUT = [name for name in OPERATIONS if operation_model(name).output_shape]
# There are 25 operations: a few examples for each, where others draw theirs for one thing. What a model allows is
# large, and much of it is filtered.
each_operation = settings(max_examples=4 * settings().max_examples, suppress_health_check=list(HealthCheck))


def understood(request: RawRequest) -> OperationCall:
    operation, labels = route(request.method, request.raw_path)
    return read(operation, labels, request.raw_query, request.headers, request.body)


def refused(request: RawRequest) -> ApiError:
    with pytest.raises(ApiError) as caught:
        understood(request)
    return caught.value


def create_model(body: bytes) -> RawRequest:
    return RawRequest("POST", "/audience-model", body=body)


@pytest.fixture(scope="module")
def client() -> ShortClient:
    return ShortClient()


@each_operation
@given(name=st.sampled_from(tuple(OPERATIONS)), data=st.data())
def test_the_server_reads_what_a_client_sends(client: ShortClient, name: str, data: st.DataObject) -> None:
    parameters = data.draw(inputs(operation_model(name).input_shape))
    request, _ = client.call(name, parameters)
    call = understood(request)
    assert (call.operation.name, call.n_unknown) == (name, 0)
    assert call.parameters == parameters


@each_operation
@given(name=st.sampled_from(tuple(OPERATIONS)), data=st.data())
def test_a_client_reads_what_the_server_writes(client: ShortClient, name: str, data: st.DataObject) -> None:
    shape = operation_model(name).output_shape
    output = data.draw(outputs(shape)) if shape else {}
    answer = write(operations()[name], output, REQUEST_ID, is_strict=True)
    assert answer[0] == 200
    _, parsed = client.call(name, right(name), answer)
    metadata = parsed.pop("ResponseMetadata")
    assert metadata["RequestId"] == REQUEST_ID
    assert parsed == output


def test_the_example_with_all_members_is_read() -> None:
    def is_read(name: str) -> None:
        assert understood(build(name, right(name))).parameters == right(name)

    assert_each(is_read, OPERATIONS)


def test_a_broken_constraint_is_named() -> None:
    def is_named(wrong: Broken) -> None:
        error = refused(build(wrong.operation, wrong.parameters))
        assert (error.name, error.status) == ("ValidationException", 400)
        assert error.message.startswith("1 validation error detected: Value at ")
        assert f"Value at '{wrong.place}' failed to satisfy constraint: M" in error.message
        assert MARK not in error.message, "no value is quoted"

    assert_each(is_named, (each for name in OPERATIONS for each in broken(name)))


def test_every_constraint_of_the_model_is_broken_somewhere() -> None:
    kinds = {each.kind for name in OPERATIONS for each in broken(name)}
    assert {"missing", "null", "too short", "too long", "below", "above", "too few", "too many"} <= kinds
    assert {"pattern", "enum", "wrong type", "empty union", "key too long", "key pattern", "reserved key"} <= kinds


# routing


def test_an_operation_is_found_by_its_own_path() -> None:
    def is_found(name: str) -> None:
        request = build(name, right(name))
        operation, labels = route(request.method, request.raw_path)
        assert operation.name == name
        assert all(right(name)[label] == value for label, value in labels.items())

    assert_each(is_found, OPERATIONS)


def test_encoded_slashes_stay_in_their_segment() -> None:
    arn = "arn%3Aaws%3Acleanrooms-ml%3Aus-east-1%3A123456789012%3Aconfigured-audience-model%2Fa%2Fpolicy"
    operation, labels = route("GET", f"/configured-audience-model/{arn}")
    assert operation.name == "GetConfiguredAudienceModel"
    assert labels["configuredAudienceModelArn"].endswith(":configured-audience-model/a/policy")
    operation, _ = route("GET", f"/configured-audience-model/{arn}/policy")
    assert operation.name == "GetConfiguredAudienceModelPolicy"


UNKNOWN_PATHS = [
    "",
    "/",
    "x",
    "audience-model",
    "/audience-models",
    "/audience-model/",
    "//audience-model",
    "/tags",
    "/tags/a/b",
    "/Audience-Model",
    "/audience-model/a/policy",
    "/trained-model",
    "/audience-model/../tags/x/y",
    "/\0",
    "/%zz/x",
]


def test_an_unknown_path() -> None:
    def is_unknown(path: str) -> None:
        with pytest.raises(ApiError) as caught:
            route("GET", path)
        assert (caught.value.name, caught.value.status) == ("UnknownOperationException", 404)

    assert_each(is_unknown, UNKNOWN_PATHS)


def test_an_unknown_method() -> None:
    def is_unknown(method: str, path: str, allowed: str) -> None:
        with pytest.raises(ApiError) as caught:
            route(method, path)
        assert (caught.value.name, caught.value.status) == ("UnknownOperationException", 405)
        assert caught.value.headers == {"Allow": allowed}

    assert_each(
        is_unknown,
        [
            ("PUT", "/audience-model", "GET, POST"),
            ("POST", f"/audience-model/{'a' * 20}", "DELETE, GET"),
            ("get", "/audience-model", "GET, POST"),
            ("POST", "/configured-audience-model/x/policy", "DELETE, GET, PUT"),
            ("HEAD", "/tags/x", "DELETE, GET, POST"),
        ],
    )


def test_a_label_that_is_not_text() -> None:
    def is_rejected(label: str) -> None:
        with pytest.raises(ApiError, match="The path is not percent-encoded UTF-8"):
            route("GET", f"/tags/{label}")

    assert_each(is_rejected, ["%", "%2", "%zz", "%ff", "%ed%a0%80", "é"])


# bodies


NO_JSON = [
    b"{",
    b"nope",
    b'{"name": NaN}',
    b'{"name": Infinity}',
    b'{"name": -Infinity}',
    b'{"name": 1e999}',
    b'{"name": ' + b"9" * 5000 + b"}",
    b'{"name": "a\nb"}',
    b'{"name": "\xe9"}',
    b'{"name": "\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"name": "x"}',
    '{"name": "x"}'.encode("utf-16"),
    b'{"name": "x"} x',
    b"{'name': 'x'}",
    b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    b"[" * 500_000,
    b'{"x":' * 100_000,
    b"\0",
    b" ",
]


def test_a_body_that_is_not_json() -> None:
    def is_rejected(body: bytes) -> None:
        error = refused(create_model(body))
        assert (error.name, error.message) == (
            "ValidationException",
            "The request body is not valid JSON in UTF-8.",
        )

    assert_each(is_rejected, NO_JSON)


def test_a_body_that_is_not_an_object() -> None:
    def is_rejected(body: bytes) -> None:
        assert refused(create_model(body)).message == "The request body is not a JSON object."

    assert_each(is_rejected, [b"[]", b"null", b'"x"', b"5", b"true"])


def test_a_member_given_twice() -> None:
    def is_rejected(body: bytes) -> None:
        assert refused(create_model(body)).message == "The request body gives a member more than once."

    assert_each(
        is_rejected,
        [b'{"name": "a", "name": "a"}', b'{"tags": {"a": "x", "\\u0061": "y"}}', b'{"z": {"a": 1, "a": 2}}'],
    )


def test_a_body_has_a_limit() -> None:
    operation, labels = route("POST", "/audience-model")
    body = json.dumps(CREATE_MODEL | {"unknown": "x" * MAX_BODY_BYTES}).encode()
    assert refused(create_model(body)).message == f"The request body has more than {MAX_BODY_BYTES} bytes."
    assert read(operation, labels, "", [], body, max_body_bytes=len(body)).n_unknown == 1
    with pytest.raises(ApiError, match=f"more than {len(body) - 1} bytes"):
        read(operation, labels, "", [], body, max_body_bytes=len(body) - 1)


def test_compressed_body_is_rejected() -> None:
    request = replace(create_model(b"\x1f\x8b"), headers=(("content-encoding", "GZIP"),))
    assert refused(request).message == "The request body is compressed; send it uncompressed."
    plain = replace(create_model(json.dumps(CREATE_MODEL).encode()), headers=(("Content-Encoding", "identity"),))
    assert understood(plain).parameters == CREATE_MODEL


def test_an_empty_body_lacks_the_required_members() -> None:
    error = refused(create_model(b""))
    assert error.message == (
        "2 validation errors detected: Value at 'name' failed to satisfy constraint: Member must not be null; "
        "Value at 'trainingDatasetArn' failed to satisfy constraint: Member must not be null"
    )


def test_an_operation_without_a_body_ignores_one() -> None:
    assert understood(RawRequest("GET", "/audience-model", body=b"\xff{")).parameters == {}


def test_null_is_absent() -> None:
    body = json.dumps(CREATE_MODEL | {"description": None, "tags": None, "kmsKeyArn": None}).encode()
    call = understood(create_model(body))
    assert (call.parameters, call.n_unknown) == (CREATE_MODEL, 0)


def test_unknown_members_are_ignored_and_counted() -> None:
    parameters = right("CreateConfiguredAudienceModel")
    parameters["outputConfig"]["destination"]["azure"] = {"a": {"b": 1}}
    parameters["newer"] = [math.pi]
    parameters["newest"] = None
    request = build("CreateConfiguredAudienceModel", parameters)
    call = understood(replace(request, raw_query="x=1&x=2&maxResults=5"))
    assert call.n_unknown == 5
    assert call.parameters == right("CreateConfiguredAudienceModel")


def test_unknown_members_of_a_union_do_not_count() -> None:
    parameters = right("StartAudienceGenerationJob")
    parameters["seedAudience"]["sqlComputeConfiguration"] = {"serverless": {}}
    error = refused(build("StartAudienceGenerationJob", parameters))
    assert "'seedAudience.sqlComputeConfiguration'" in error.message
    assert "exactly one of the members: [worker]" in error.message


def test_a_path_member_in_the_body_is_not_the_path_s() -> None:
    """UpdateConfiguredAudienceModel has a model's ARN in the body and its own in the path."""
    request = build("UpdateConfiguredAudienceModel", right("UpdateConfiguredAudienceModel"))
    body = json.loads(request.body) | {"configuredAudienceModelArn": "arn:elsewhere"}
    call = understood(replace(request, body=json.dumps(body).encode()))
    assert call.parameters == right("UpdateConfiguredAudienceModel")
    assert call.n_unknown == 1


def test_a_message_lists_a_limited_number_of_problems() -> None:
    parameters = right("CreateTrainingDataset")
    config = parameters["trainingData"][0]["inputConfig"]
    config["schema"] = [{"columnName": "", "columnTypes": ["X"]} for _ in range(100)]
    error = refused(build("CreateTrainingDataset", parameters))
    assert error.message.startswith(f"{MAX_PROBLEMS} validation errors detected")
    assert error.message.count("Value at") == MAX_PROBLEMS
    assert "'trainingData.1.member.inputConfig.schema.5.member.columnTypes.1.member'" in error.message


def test_a_map_key_is_not_quoted() -> None:
    error = refused(build("TagResource", right("TagResource") | {"tags": {"her@example.com": "v" * 257}}))
    assert "'tags.value'" in error.message
    assert "example" not in error.message


def test_the_parameters_are_not_in_the_call_s_repr() -> None:
    assert "credit" not in repr(understood(create_model(json.dumps(CREATE_MODEL | {"name": "credit"}).encode())))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [*operation_model("StartAudienceGenerationJob").input_shape.members, "dataSource", "s3Uri"]
                ),
                inner,
                max_size=4,
            )
        ),
    ),
    st.sampled_from([name for name in OPERATIONS if operations()[name].method in {"POST", "PUT", "PATCH"}]),
)
def test_any_json_is_parsed_or_rejected(value: Any, name: str) -> None:
    request = replace(build(name, right(name)), body=json.dumps(value).encode())
    try:
        assert understood(request).parameters
    except ApiError as error:
        assert error.name == "ValidationException"


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps(text).encode()))
def test_any_bytes_are_rejected(body: bytes) -> None:
    with pytest.raises(ApiError):
        understood(create_model(body))


def test_deep_nesting_on_a_deep_stack() -> None:
    def deeper(n: int) -> ApiError:
        return deeper(n - 1) if n else refused(create_model(b'{"x":' * 5_000))

    assert deeper(sys.getrecursionlimit() // 2).name == "ValidationException"


# queries


def test_repeated_keys_are_a_list() -> None:
    request = replace(
        build("UntagResource", right("UntagResource")), raw_query="tagKeys=a&tagKeys=b%20c&tagKeys=d+e%2B"
    )
    assert understood(request).parameters["tagKeys"] == ["a", "b c", "d+e+"]


def test_types_of_the_query() -> None:
    arn = "arn:aws:cleanrooms-ml:us-east-1:123456789012:configured-audience-model/x"
    call = understood(
        RawRequest(
            "GET", "/audience-generation-job", f"maxResults=5&nextToken=a%3D%26&configuredAudienceModelArn={arn}"
        )
    )
    assert call.parameters == {"maxResults": 5, "nextToken": "a=&", "configuredAudienceModelArn": arn}


WRONG_QUERIES = [
    (
        "maxResults=0",
        "'maxResults' failed to satisfy constraint: Member must have value greater than or equal to 1",
    ),
    (
        "maxResults=101",
        "'maxResults' failed to satisfy constraint: Member must have value less than or equal to 100",
    ),
    ("maxResults=", "'maxResults' failed to satisfy constraint: Member must be of type integer"),
    ("maxResults", "'maxResults' failed to satisfy constraint: Member must be of type integer"),
    ("maxResults=5.0", "'maxResults' failed to satisfy constraint: Member must be of type integer"),
    ("maxResults=%205", "'maxResults' failed to satisfy constraint: Member must be of type integer"),
    ("maxResults=%D9%A5", "'maxResults' failed to satisfy constraint: Member must be of type integer"),
    ("maxResults=1_0", "'maxResults' failed to satisfy constraint: Member must be of type integer"),
    ("maxResults=" + "9" * 5000, "'maxResults' failed to satisfy constraint: Member must be of type integer"),
    ("maxResults=true", "'maxResults' failed to satisfy constraint: Member must be of type integer"),
    (
        "nextToken=",
        "'nextToken' failed to satisfy constraint: Member must have length greater than or equal to 1",
    ),
    (
        "nextToken=" + "x" * 10241,
        "'nextToken' failed to satisfy constraint: Member must have length less than",
    ),
    ("maxResults=1&maxResults=2", "The query gives 'maxResults' more than once."),
    ("nextToken=%ff", "The query is not percent-encoded UTF-8."),
    ("nextToken=%", "The query is not percent-encoded UTF-8."),
    ("%ff=1", "The query is not percent-encoded UTF-8."),
    ("nextToken=\xe9", "The query is not percent-encoded UTF-8."),
]


def test_a_wrong_query() -> None:
    def is_rejected(query: str, message: str) -> None:
        error = refused(RawRequest("GET", "/audience-model", query))
        assert error.name == "ValidationException"
        assert message in error.message

    assert_each(is_rejected, WRONG_QUERIES)


# timestamps


TIMESTAMPS = [
    ("2024-01-01T12:00:00Z", datetime(2024, 1, 1, 12, tzinfo=UTC)),
    ("2024-01-01T12:00:00.5Z", datetime(2024, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)),
    ("2024-01-01T12:00:00.123456789Z", datetime(2024, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)),
    ("2024-01-01T12:00:00", datetime(2024, 1, 1, 12, tzinfo=UTC)),
    ("2024-01-01T12:00:00+05:30", datetime(2024, 1, 1, 6, 30, tzinfo=UTC)),
    ("2024-01-01T12:00:00.25-08:00", datetime(2024, 1, 1, 20, 0, 0, 250_000, tzinfo=UTC)),
    (0, datetime(1970, 1, 1, tzinfo=UTC)),
    (1_704_110_400, datetime(2024, 1, 1, 12, tzinfo=UTC)),
    (1_704_110_400.25, datetime(2024, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)),
    (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
]


def test_a_timestamp_in_each_of_its_forms() -> None:
    def is_read(value: Any, expected: datetime) -> None:
        body = json.dumps(CREATE_MODEL | {"trainingDataStartTime": value}).encode()
        read_back = understood(create_model(body)).parameters["trainingDataStartTime"]
        assert read_back == expected
        assert read_back.utcoffset() == timedelta(0)

    assert_each(is_read, TIMESTAMPS)


NO_TIMESTAMPS = [
    "",
    "2024",
    "2024-01-01",
    "20240101T120000Z",
    "2024-W01-1",
    "2024-01-01 12:00:00",
    "2024-13-01T00:00:00Z",
    "2024-01-01T24:00:01Z",
    "2024-01-01T12:00:60Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "2024-01-01T12:00:00.Z",
    "2024-01-01T12:00:00+0530",
    "٢٠٢٤-01-01T12:00:00Z",
    "1704110400",
    "2024-01-01T12:00:00Z\n",
    "0000-01-01T00:00:00Z",
    "2024-01-01T12:00:00+25:00",
    1e300,
    -1e300,
    10**400,
    True,
    None,
    [],
    float("nan"),
    float("inf"),
]


def test_an_invalid_timestamp() -> None:
    def is_rejected(value: Any) -> None:
        with pytest.raises(ValueError, match=r"^not a timestamp$"):
            parse_timestamp(value)

    assert_each(is_rejected, NO_TIMESTAMPS)


# answers


def test_written_outputs() -> None:
    class Status(StrEnum):
        ACTIVE = "ACTIVE"

    eastern = datetime(2024, 1, 1, 7, 0, 0, 123_999, tzinfo=timezone(timedelta(hours=-5)))
    output = {
        "createTime": eastern,
        "updateTime": eastern,
        "audienceModelArn": MODEL_ARN,
        "name": "ü",
        "trainingDatasetArn": DATASET_ARN,
        "status": Status.ACTIVE,
        "statusDetails": None,
        "tags": {},
        "description": None,
    }
    status, headers, body = write(operations()["GetAudienceModel"], output, REQUEST_ID, is_strict=True)
    assert (status, headers) == (200, {"x-amzn-RequestId": REQUEST_ID, "Content-Type": "application/json"})
    assert json.loads(body) == {
        "createTime": "2024-01-01T12:00:00.123Z",
        "updateTime": "2024-01-01T12:00:00.123Z",
        "audienceModelArn": MODEL_ARN,
        "name": "ü",
        "trainingDatasetArn": DATASET_ARN,
        "status": "ACTIVE",
        "tags": {},
    }


def test_an_empty_output() -> None:
    def has_none(name: str, body: bytes) -> None:
        for output in (None, {}):
            status, headers, written = write(operations()[name], output, REQUEST_ID, is_strict=True)
            assert (status, written, headers["x-amzn-RequestId"]) == (200, body, REQUEST_ID)
            assert ("Content-Type" in headers) == bool(body)

    assert_each(has_none, [("DeleteAudienceModel", b""), ("StartAudienceExportJob", b""), ("TagResource", b"{}")])


def test_strict_rejects_an_output_that_violates_its_shape() -> None:
    def is_held_to_its_shape(name: str) -> None:
        shape, operation = operation_model(name).output_shape, operations()[name]
        whole = example(shape)
        write(operation, whole, REQUEST_ID, is_strict=True)
        with pytest.raises(ValueError, match="has no secretMember"):
            write(operation, whole | {"secretMember": 1}, REQUEST_ID, is_strict=True)
        assert b"secretMember" not in write(operation, whole | {"secretMember": 1}, REQUEST_ID)[2]
        for member in shape.required_members:
            with pytest.raises(ValueError, match=f"'{member}'"):
                write(
                    operation,
                    {key: value for key, value in whole.items() if key != member},
                    REQUEST_ID,
                    is_strict=True,
                )

    assert_each(is_held_to_its_shape, WITH_OUTPUT)


WRONG_METRICS = [
    ("metrics.relevanceMetrics", {}),
    ("metrics.recallMetric", {"relevanceMetrics": [], "recallMetric": 1.1}),
    ("metrics.recallMetric", {"relevanceMetrics": [], "recallMetric": "0.5"}),
    *(
        (f"metrics.relevanceMetrics.1.member.{place}", {"relevanceMetrics": [entry]})
        for place, entry in [
            ("score", {"audienceSize": {"type": "ABSOLUTE", "value": 5}, "score": -1.01}),
            ("audienceSize.type", {"audienceSize": {"type": "SHARE", "value": 5}}),
            ("audienceSize.value", {"audienceSize": {"type": "ABSOLUTE", "value": 0}}),
            ("audienceSize.value", {"audienceSize": {"type": "ABSOLUTE", "value": 5.5}}),
        ]
    ),
]


def test_strict_rejects_an_invalid_value_in_an_output() -> None:
    def is_rejected(place: str, metrics: dict[str, Any]) -> None:
        output = example(operation_model("GetAudienceGenerationJob").output_shape) | {"metrics": metrics}
        with pytest.raises(ValueError, match=f"'{place}'"):
            write(operations()["GetAudienceGenerationJob"], output, REQUEST_ID, is_strict=True)

    assert_each(is_rejected, WRONG_METRICS)


def test_an_unexpected_output() -> None:
    with pytest.raises(ValueError, match="DeleteAudienceModel has no output"):
        write(operations()["DeleteAudienceModel"], {"x": 1}, REQUEST_ID, is_strict=True)
    assert write(operations()["DeleteAudienceModel"], {"x": 1}, REQUEST_ID)[2] == b""


def test_nan_and_naive_datetimes_are_never_written() -> None:
    output = example(operation_model("GetAudienceGenerationJob").output_shape)
    operation = operations()["GetAudienceGenerationJob"]
    with pytest.raises(ValueError, match="JSON compliant"):
        write(operation, output | {"metrics": {"relevanceMetrics": [], "recallMetric": math.nan}}, REQUEST_ID)
    with pytest.raises(ValueError, match="without a time zone"):
        write(operation, output | {"createTime": datetime(2024, 1, 1)}, REQUEST_ID)  # noqa: DTZ001


def test_a_client_raises_the_matching_exception_class(client: ShortClient) -> None:
    def is_raised(name: Any) -> None:
        members = {"quotaName": "jobs", "quotaValue": 5.0} if name == "ServiceQuotaExceededException" else {}
        error = ApiError(name, "Say what to do: ü.", members=members)
        with raised(client.client, name) as told:
            client.call("CreateAudienceModel", right("CreateAudienceModel"), write_error(error, REQUEST_ID))
        shape = next(
            each for name_ in OPERATIONS for each in operation_model(name_).error_shapes if each.name == name
        )
        assert (
            told["ResponseMetadata"]["HTTPStatusCode"] == error.status == shape.metadata["error"]["httpStatusCode"]
        )
        assert told["ResponseMetadata"]["RequestId"] == REQUEST_ID
        assert told["Error"]["Message"] == "Say what to do: ü."
        assert {key: told[key] for key in members} == members

    assert_each(
        is_raised, sorted({error.name for name in OPERATIONS for error in operation_model(name).error_shapes})
    )


def test_written_errors() -> None:
    error = ApiError(
        "ThrottlingException", members={"quotaName": None}, headers={"Retry-After": "3"}, reason="too many lists"
    )
    status, headers, body = write_error(error, REQUEST_ID)
    assert (status, json.loads(body)) == (429, {"message": "The request was denied due to request throttling."})
    assert headers == {
        "Retry-After": "3",
        "x-amzn-RequestId": REQUEST_ID,
        "x-amzn-ErrorType": "ThrottlingException",
        "Content-Type": "application/json",
    }
    assert b"too many" not in body
