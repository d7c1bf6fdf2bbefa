"""Commands for receivers of notices.

Lives here: `cleanroom notice`.
Add here when the operator can manage something else of a receiver.
Keep out: declaring receivers (`cleanroom apply`) and sending (`runs.notices`).
"""

import click

from cleanroom_pipelines.cli.console import JSON, open_installation, print_json, print_list, read_installation
from cleanroom_pipelines.errors import CleanroomError


@click.group()
def notice() -> None:
    """List and test the receivers of notices about work that ended.

    Declare receivers under `notices` in a file for `cleanroom apply`.
    """


@notice.command("list")
@JSON
def list_receivers(as_json: bool) -> None:
    """List all receivers, and whether the last notice to each one arrived."""
    from cleanroom_pipelines.runs.notices import states_of

    installation = read_installation()
    states = states_of(installation.catalog, setting=installation.settings.notify)
    rows = [[each.name, each.organization or "all", each.channel, each.outcome] for each in states]
    values = [{**vars(state), "sentence": state.sentence} for state in states]
    nothing = "No receivers yet. Declare one under `notices` in a file for `cleanroom apply`."
    print_list(values, ["name", "organization", "channel", "last notice"], rows, nothing, as_json=as_json)


@notice.command("test")
@click.argument("name", required=False)
@JSON
def test(name: str | None, as_json: bool) -> None:
    """Send a test notice to the receiver NAME, or to all receivers."""
    from cleanroom_pipelines.runs.notices import send_test

    installation = open_installation()
    settings = installation.settings
    problems = send_test(installation.catalog, name, setting=settings.notify, secrets=settings.secrets)
    if as_json:
        print_json(problems)
    else:
        for receiver, problem in problems.items():
            click.echo(f"{receiver!r}: {f'not arrived ({problem})' if problem else 'arrived'}.")
    if n_failed := sum(map(bool, problems.values())):
        raise CleanroomError(
            f"{n_failed} of {len(problems)} test notices did not arrive.",
            remedy="Check the receiver's address and secret, then test again.",
        )


@notice.command("delete")
@click.argument("name")
def delete(name: str) -> None:
    """Delete the receiver NAME. Applying a declaration that still contains it creates it again."""
    open_installation().catalog.notices.delete_receiver(name)
    click.echo("Deleted.")
