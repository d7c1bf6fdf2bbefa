"""Channels of notices (webhook, command, e-mail), and the rules for declaring them.

Lives here: the dataclasses of the three channels, and their rules.
Add here when notices can be sent in another way.
Keep out: sending (`runs.notices`), and secrets: a channel has the name of a secret, never the secret itself.
"""

import re
import shlex
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from cleanroom_pipelines.catalog.names import check_label, check_text
from cleanroom_pipelines.errors import UsageError

_SECRET = re.compile("[A-Z][A-Z0-9_]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9a-fA-F:]{2,39}")
# without quotes, spaces, angle brackets and commas, so that a header cannot get another address
_ADDRESS = re.compile(r"[^\s\x00-\x1f\x7f<>(),;:\\\"@]{1,64}@[A-Za-z0-9.-]{1,253}")


@dataclass(frozen=True)
class Webhook:
    """A URL that gets each notice as a JSON POST.

    Args:
        url: An https:// URL, or http:// on this machine.
        secret: Name of the secret that signs notices; None: they are not signed.
    """

    url: str
    secret: str | None = None

    @property
    def words(self) -> str:
        """A short description of the channel: only the URL's host, because its path may contain a secret."""
        try:
            host = urlsplit(self.url).hostname
        except ValueError:  # of the setting, which is not checked
            host = None
        return f"webhook to {host}" if host else "webhook with an invalid URL"

    def check(self) -> None:
        """Raise UsageError unless the URL and the name of the secret are valid."""
        check_text("URL of the webhook", self.url)
        remedy = "Give https://host/path without a user name, or http:// for an address of this machine."
        try:
            parts = urlsplit(self.url)
            is_valid = parts.port != 0 and bool(parts.hostname) and parts.username is None and not parts.fragment
        except ValueError:
            is_valid = False
        if not is_valid or " " in self.url:
            raise UsageError("The URL of the webhook is invalid.", remedy=remedy)
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
            raise UsageError("The URL of the webhook is not https://.", remedy=remedy)
        check_secret_name(self.secret)


@dataclass(frozen=True)
class Command:
    """A command that reads each notice as JSON from its standard input; it runs without a shell.

    Args:
        line: The command and its arguments, quoted as in a shell.
    """

    line: str

    @property
    def words(self) -> str:
        """A short description of the channel, without the command line."""
        return "command"

    def check(self) -> None:
        """Raise UsageError unless the command line can be split into a program and its arguments."""
        check_text("command", self.line)
        try:
            parts = shlex.split(self.line)
        except ValueError:
            parts = []
        if not parts:
            raise UsageError(
                "The command is invalid.", remedy="Give a program with its arguments, and close all quotes."
            )


@dataclass(frozen=True)
class Mail:
    """An e-mail address, and the mail server through which notices are sent to it.

    Args:
        to: The receiver's address.
        sender: The address in `From`.
        host: The mail server; it must support STARTTLS, unless it is on this machine.
        port: Its port.
        user: User name for the mail server; None: no login.
        secret: Name of the secret that is the user's password.
    """

    to: str
    sender: str
    host: str
    port: int = 587
    user: str | None = None
    secret: str | None = None

    @property
    def words(self) -> str:
        """A short description of the channel: the mail server, without the e-mail addresses."""
        return f"e-mail through {self.host}"

    def check(self) -> None:
        """Raise UsageError unless addresses, server, port and login are valid."""
        if not (_ADDRESS.fullmatch(self.to) and _ADDRESS.fullmatch(self.sender)):
            raise UsageError("An e-mail address is invalid.", remedy="Give `to` and `from` as name@domain.")
        if not _HOST.fullmatch(self.host) or not 1 <= self.port <= 65_535:
            raise UsageError("The mail server is invalid.", remedy="Give its host name and a port up to 65535.")
        check_label("user name of the mail server", self.user, 255)
        if (self.user is None) != (self.secret is None):
            raise UsageError(
                "The mail server's login is incomplete.",
                remedy="Give both the user name and the name of the secret with its password, or neither.",
            )
        check_secret_name(self.secret)


Channel = Webhook | Command | Mail


def check_secret_name(name: str | None) -> None:
    """Raise UsageError unless the name is valid for a secret; None stands for no secret."""
    if name is not None and not _SECRET.fullmatch(name):
        raise UsageError(
            "The name of a secret is invalid.",
            remedy="Give only the name, in capital letters, digits and underscores. The operator stores the "
            "secret itself in the environment.",
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine: `localhost` or an address such as 127.0.0.1."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
