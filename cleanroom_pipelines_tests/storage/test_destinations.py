"""Contract: a destination URL is a folder below one bucket of one account, or is rejected; dots, encoding and
links cannot reach anything else."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.storage import Home, ObjectPlace
from cleanroom_pipelines.storage.buckets import Buckets

from ..offenders import offenders

ACCOUNT = "000000000000"


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home.open(tmp_path_factory.mktemp("home"))


def destination(home: Home, account: str, url: str) -> ObjectPlace:
    """The place of a URL where no bucket is registered."""
    return Buckets(home, lambda _: None).destination(account, url)


def test_plain_url_is_resolved(home: Home) -> None:
    urls = [
        ("s3://audiences", "audiences"),
        ("s3://audiences/", "audiences"),
        ("s3://audiences/spring/top 5", "audiences/spring/top 5"),
        ("s3://a.b-c/x=1/y@2/(z)!", "a.b-c/x=1/y@2/(z)!"),
        ("s3://audiences/...", "audiences/..."),
    ]

    def check(url: str, below: str) -> None:
        place = destination(home, ACCOUNT, url)
        assert place.folder == home.accounts / ACCOUNT / "buckets" / below
        assert place.url == f"s3://{below}"
        assert (place / "0123456789ab").folder == place.folder / "0123456789ab"
        assert (place / "0123456789ab").url == f"s3://{below}/0123456789ab"

    assert offenders(urls, check) == []


REJECTED = [
    "s3://audiences/../other",
    "s3://audiences/a/../../../x",
    "s3://audiences/.",
    "s3://audiences/%2e%2e/x",
    "s3://audiences/..%2fx",
    "s3://audiences/a//b",
    "s3://audiences/a//",
    "s3://audiences/" + "a/" * 64 + "a",
    "s3://audiences//etc",
    "s3://audiences/a\\..\\b",
    "s3://audiences/a\nb",
    "s3://audiences/a\0",
    "s3://audiences/é",
    "s3://audiences/‥",
    "s3://audiences/" + "a/" * 600 + "a",
    "s3://audiences/" + "a" * 256,
    "s3://audiences/.export-abcdefgh/x",
    "s3://audiences/.x.draft",
    "s3://..",
    "s3://../..",
    "s3://.",
    "s3://a",
    "s3://ab",
    "s3://-ab",
    "s3://Audiences",
    "s3://a_b",
    "s3://" + "a" * 64,
    "s3://audiences:80/x",
    "s3://me@audiences/x",
    "s3://",
    "s3:///etc",
    "S3://audiences",
    "file:///etc",
    "/etc",
    "audiences",
    "",
    " s3://audiences",
    "s3://audiences\n",
]


def test_other_urls_are_rejected(home: Home) -> None:
    def check(url: str) -> None:
        with pytest.raises(UsageError) as caught:
            destination(home, ACCOUNT, url)
        assert caught.value.remedy
        assert len(url) < 6 or url not in str(caught.value)

    assert offenders(REJECTED, check) == []


def test_account_must_be_twelve_digits(home: Home) -> None:
    def check(account: str) -> None:
        with pytest.raises(UsageError):
            destination(home, account, "s3://audiences/x")

    accounts = ["", "..", "0" * 11, "0" * 13, "00000000000a", "000000000000\n", "\uff10" * 12]
    assert offenders(accounts, check) == []


@given(
    st.one_of(
        st.text(), st.sampled_from(REJECTED), st.from_regex(r"\As3://[a-z.-]{0,6}(/[a-z.%\\ ~]{0,4}){0,5}\Z")
    ),
    st.one_of(st.just(ACCOUNT), st.text(max_size=14)),
)
@example("s3://abc/...", ACCOUNT)
def test_every_url_is_rejected_or_stays_in_its_bucket(shared_home: Home, url: str, account: str) -> None:
    try:
        place = destination(shared_home, account, url)
    except UsageError:
        return
    bucket = url.removeprefix("s3://").split("/")[0]
    assert place.folder.resolve().is_relative_to(shared_home.accounts / account / "buckets" / bucket)
    assert place.url == url.removesuffix("/")


def test_link_cannot_leave_the_bucket(home: Home, tmp_path: Path) -> None:
    buckets = home.accounts / ACCOUNT / "buckets"
    (buckets / "mine").mkdir(parents=True)
    (buckets / "theirs").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (buckets / "mine" / "out").symlink_to(outside)
    (buckets / "mine" / "up").symlink_to("..")
    (buckets / "mine" / "beside").symlink_to(buckets / "theirs")
    (buckets / "linked").symlink_to(outside)
    (buckets / "mine2").symlink_to(buckets / "theirs")
    for url in ("mine/out", "mine/out/x", "mine/up/x", "mine/beside", "linked", "linked/x", "mine2/x"):
        with pytest.raises(UsageError, match="contains a symbolic link"):
            destination(home, ACCOUNT, f"s3://{url}")


def test_bucket_allows_no_links(home: Home) -> None:
    bucket = home.accounts / ACCOUNT / "buckets" / "mine"
    (bucket / "real").mkdir(parents=True)
    (bucket / "inside").symlink_to("real")
    with pytest.raises(UsageError, match="contains a symbolic link"):
        destination(home, ACCOUNT, "s3://mine/inside/x")


def test_operator_may_link_an_account_folder_elsewhere(home: Home, tmp_path: Path) -> None:
    (home.accounts / ACCOUNT).symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "buckets").mkdir(parents=True)
    assert destination(home, ACCOUNT, "s3://mine/x").url == "s3://mine/x"


def test_link_to_itself_is_rejected(home: Home) -> None:
    bucket = home.accounts / ACCOUNT / "buckets" / "mine"
    bucket.mkdir(parents=True)
    (bucket / "around").symlink_to("around")
    with pytest.raises(UsageError):
        destination(home, ACCOUNT, "s3://mine/around/x")
