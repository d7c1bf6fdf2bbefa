"""Commands for parties: accounts and their keys, collaborations, templates, buckets.

Lives here: the groups `account`, `collaboration`, `template` and `bucket`.
Add here when parties get another kind of object.
Keep out: the rules (catalog) and the sealing of secrets (runs).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cleanroom_pipelines.cli.console import (
    JSON,
    open_installation,
    print_json,
    print_list,
    print_result,
    read_installation,
)

if TYPE_CHECKING:
    from cleanroom_pipelines.catalog import Account, AccountBucket, AnalysisTemplate, Catalog, Collaboration
    from cleanroom_pipelines.runs.installation import Installation

_TERMS = ("seed", "privacy", "period")
_ACCOUNT = click.option("--account", required=True, help="The account, by id or name.")


@click.group()
def account() -> None:
    """Manage accounts and their access keys for the AWS API."""


@account.command("create")
@click.argument("name")
@click.option("--id", "account_id", help="Account id of 12 digits; default: random.")
@click.option(
    "--organization",
    help="Organisation whose privacy budget pays for results about its data; default: the account itself.",
)
@JSON
def create_account(name: str, account_id: str | None, organization: str | None, as_json: bool) -> None:
    """Create the account NAME with an access key; the secret is shown once."""
    installation = open_installation()
    created = installation.catalog.parties.create_account(name, account_id, organization)
    _print_key(installation, created.id, as_json=as_json)


@account.command("list")
@JSON
def list_accounts(as_json: bool) -> None:
    """List all accounts and their access keys."""
    catalog = read_installation().catalog
    found = [_of_account(catalog, one) for one in catalog.parties.accounts()]
    rows = [
        [
            one["account_id"],
            one["name"],
            one["organization"],
            "disabled" if one["disabled"] else "",
            "\n".join(key["access_key_id"] + " (disabled)" * key["disabled"] for key in one["access_keys"]),
        ]
        for one in found
    ]
    columns = ["account", "name", "organization", "", "access keys"]
    nothing = "No accounts yet. Create one with `cleanroom account create NAME`."
    print_list(found, columns, rows, nothing, as_json=as_json)


@account.command("disable")
@click.argument("name_or_id", metavar="ACCOUNT")
@JSON
def disable_account(name_or_id: str, as_json: bool) -> None:
    """Disable ACCOUNT: requests with any of its access keys are rejected."""
    _set_disabled(name_or_id, True, as_json=as_json)


@account.command("enable")
@click.argument("name_or_id", metavar="ACCOUNT")
@JSON
def enable_account(name_or_id: str, as_json: bool) -> None:
    """Enable ACCOUNT again. Access keys that were disabled individually stay disabled."""
    _set_disabled(name_or_id, False, as_json=as_json)


@account.group("key")
def account_key() -> None:
    """Manage the access keys of an account."""


@account_key.command("create")
@click.argument("name_or_id", metavar="ACCOUNT")
@JSON
def create_key(name_or_id: str, as_json: bool) -> None:
    """Create another access key for ACCOUNT; the secret is shown once."""
    installation = open_installation()
    _print_key(installation, installation.catalog.parties.account_named(name_or_id), as_json=as_json)


@account_key.command("disable")
@click.argument("access_key_id")
@JSON
def disable_key(access_key_id: str, as_json: bool) -> None:
    """Disable an access key permanently."""
    open_installation().catalog.parties.disable_access_key(access_key_id)
    print_result({"access_key_id": access_key_id, "disabled": True}, "Disabled.", as_json=as_json)


@click.group()
def collaboration() -> None:
    """Manage collaborations between accounts.

    Members may start jobs on each other's models if the models' policies allow it.
    """


@collaboration.command("create")
@click.argument("name")
@click.option("--members", required=True, help="2 to 10 accounts, by id or name, separated by commas.")
@click.option(
    "--seed",
    type=click.Choice(["in-place", "removed"]),
    default="in-place",
    show_default=True,
    help="Keep seed users in lists at their rank, or remove them as AWS does, which reveals who is in the seed.",
)
@click.option(
    "--privacy",
    type=click.Choice(["private", "full"]),
    default="private",
    show_default=True,
    help="private: rank with noise. full: rank without noise; lists and metrics then reveal individuals.",
)
@click.option(
    "--period",
    type=click.Choice(["life", "month"]),
    default="life",
    show_default=True,
    help="When the privacy budget of each pair of members renews: every month (month) or never (life).",
)
@JSON
def create_collaboration(  # noqa: PLR0917 click passes them by name
    name: str, members: str, seed: str, privacy: str, period: str, as_json: bool
) -> None:
    """Create the collaboration NAME between the accounts in --members."""
    catalog = open_installation().catalog
    names = [part.strip() for part in members.split(",")]
    created = catalog.parties.create_collaboration(
        name,
        [catalog.parties.account_named(member) for member in names],
        seed_removed=seed == "removed",
        full_ensemble=privacy == "full",
        monthly=period == "month",
    )
    print_result(_of_collaboration(catalog, created), f"Created the collaboration {created.id}.", as_json=as_json)


@collaboration.command("list")
@JSON
def list_collaborations(as_json: bool) -> None:
    """List all collaborations, their members and terms."""
    catalog = read_installation().catalog
    found = [_of_collaboration(catalog, one) for one in catalog.parties.collaborations()]
    rows = [
        [
            one["collaboration_id"],
            one["name"],
            "\n".join(member["account_id"] + " (left)" * (not member["active"]) for member in one["members"]),
            "\n".join(f"{name} {one[name]}" for name in _TERMS),
        ]
        for one in found
    ]
    columns = ["collaboration", "name", "members", "terms"]
    print_list(found, columns, rows, "No collaborations yet.", as_json=as_json)


@collaboration.command("leave")
@click.argument("name_or_id", metavar="COLLABORATION")
@_ACCOUNT
@JSON
def leave_collaboration(name_or_id: str, account: str, as_json: bool) -> None:
    """Remove an account from COLLABORATION (id or name); no new jobs start between it and other members."""
    catalog = open_installation().catalog
    named = [one.id for one in catalog.parties.collaborations() if name_or_id in (one.id, one.name)]
    left = catalog.parties.set_membership(
        named[0] if named else name_or_id, catalog.parties.account_named(account), active=False
    )
    print_result(_of_collaboration(catalog, left), "Left.", as_json=as_json)


@click.group()
def template() -> None:
    """Manage analysis templates: SQL that selects a seed."""


@template.command("add")
@click.argument("name")
@_ACCOUNT
@click.option(
    "--sql",
    "file",
    required=True,
    type=click.Path(path_type=Path),
    help="File with one SELECT; parameters are written :name.",
)
@click.option("--collaboration", help="Id of the collaboration that the template is for.")
@click.option("--region", default="us-east-1", show_default=True, help="AWS Region of the template.")
@JSON
def add_template(
    name: str, *, account: str, file: Path, collaboration: str | None, region: str, as_json: bool
) -> None:
    """Add the template NAME to an account, with the SQL of a file."""
    catalog = open_installation().catalog
    from cleanroom_pipelines.declarations.form import read_text

    sql = read_text(file, "SQL file", remedy="Check its path.")
    added = catalog.parties.add_template(name, catalog.parties.account_named(account), sql, collaboration, region)
    print_result(_of_template(added), f"Added the template {added.arn}.", as_json=as_json)


@template.command("list")
@JSON
def list_templates(as_json: bool) -> None:
    """List all templates."""
    found = [_of_template(one) for one in read_installation().catalog.parties.templates()]
    rows = [[one["arn"], one["name"], one["account_id"]] for one in found]
    print_list(found, ["template", "name", "account"], rows, "No templates yet.", as_json=as_json)


@click.group()
def bucket() -> None:
    """Manage the buckets of accounts.

    A bucket name in s3://name/… belongs to one account, and refers to a folder of the home or a real bucket.
    """


@bucket.command("create")
@click.argument("name")
@_ACCOUNT
@JSON
def create_bucket(name: str, account: str, as_json: bool) -> None:
    """Create the bucket NAME for an account, as a folder in CLEANROOM_HOME."""
    _register(name, account, as_json=as_json)


@bucket.command("register")
@click.argument("name")
@_ACCOUNT
@click.option("--url", required=True, help="URL in the object store: s3://bucket or s3://bucket/prefix.")
@click.option(
    "--credentials-profile",
    "profile",
    required=True,
    help="Profile in the AWS configuration files with the bucket's credentials.",
)
@JSON
def register_bucket(name: str, *, account: str, url: str, profile: str, as_json: bool) -> None:
    """Register a bucket of an object store for an account, as the bucket NAME."""
    _register(name, account, url, profile, as_json=as_json)


@bucket.command("list")
@JSON
def list_buckets(as_json: bool) -> None:
    """List registered buckets and their accounts."""
    found = read_installation().catalog.parties.buckets()
    rows = [[one.name, one.account_id, one.url or "the home", one.profile or ""] for one in found]
    columns = ["bucket", "account", "stored in", "profile"]
    nothing = "No buckets are registered. An unregistered name refers to a folder of the account that uses it."
    print_list([_of_bucket(one) for one in found], columns, rows, nothing, as_json=as_json)


def _print_key(installation: "Installation", account_id: str, *, as_json: bool) -> None:
    from cleanroom_pipelines.runs.credentials import issue_access_key

    key_id, secret = issue_access_key(installation, account_id)
    if as_json:
        print_json(
            {
                "account_id": account_id,
                "organization": installation.catalog.pairs.organization_of_account(account_id),
                "access_key_id": key_id,
                "secret_access_key": secret,
            }
        )
        return
    click.echo(f"account {account_id}\naccess key id {key_id}\nsecret access key {secret}")
    click.echo("The secret is shown only once: store it now.", err=True)


def _set_disabled(name_or_id: str, disabled: bool, *, as_json: bool) -> None:
    catalog = open_installation().catalog
    account_id = catalog.parties.account_named(name_or_id)
    catalog.parties.set_account_disabled(account_id, disabled)
    print_result(
        {"account_id": account_id, "disabled": disabled}, "Disabled." if disabled else "Enabled.", as_json=as_json
    )


def _register(
    name: str, account: str, url: str | None = None, profile: str | None = None, *, as_json: bool
) -> None:
    catalog = open_installation().catalog
    registered = catalog.parties.register_bucket(name, catalog.parties.account_named(account), url, profile)
    print_result(
        _of_bucket(registered), f"Registered the bucket for account {registered.account_id}.", as_json=as_json
    )


def _of_account(catalog: "Catalog", one: "Account") -> dict[str, Any]:
    return {
        "account_id": one.id,
        "name": one.name,
        "organization": catalog.pairs.organization_of_account(one.id),
        "created_at": one.created_at.isoformat(),
        "disabled": one.disabled,
        "access_keys": [
            {"access_key_id": key.id, "created_at": key.created_at.isoformat(), "disabled": key.disabled}
            for key in catalog.parties.access_keys(one.id)
        ],
    }


def _of_collaboration(catalog: "Catalog", one: "Collaboration") -> dict[str, Any]:
    members = [member.account_id for member in one.members]
    return {
        "collaboration_id": one.id,
        "name": one.name,
        "created_at": one.created_at.isoformat(),
        "members": [{"account_id": member.account_id, "active": member.active} for member in one.members],
        "seed": "removed" if one.seed_removed else "in-place",
        "privacy": "full" if one.full_ensemble else "private",
        "period": catalog.pairs.period_of(members) or "life",
    }


def _of_template(one: "AnalysisTemplate") -> dict[str, Any]:
    return {
        "arn": one.arn,
        "name": one.name,
        "account_id": one.account_id,
        "collaboration_id": one.collaboration_id,
        "created_at": one.created_at.isoformat(),
    }


def _of_bucket(one: "AccountBucket") -> dict[str, Any]:
    return {
        "bucket": one.name,
        "account_id": one.account_id,
        "url": one.url,
        "credentials_profile": one.profile,
        "created_at": one.created_at.isoformat(),
    }
