"""An installation: its settings, and the stores, databases and keys that they configure.

Lives here: the only code that reads environment variables, and the assembly of home, key, catalogue and stores.
Add here when the installation gets a new setting or part.
Keep out: doing anything with them.
"""

import math
import os
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from cleanroom_pipelines.catalog import Catalog
from cleanroom_pipelines.catalog.channels import Mail, is_loopback
from cleanroom_pipelines.catalog.database import Change
from cleanroom_pipelines.engine import EngineSettings
from cleanroom_pipelines.errors import ConfigurationError
from cleanroom_pipelines.runs.opening import Opened, Parts
from cleanroom_pipelines.storage import ArtifactStore, Home, InstallationKey, SeedVault
from cleanroom_pipelines.storage.artifacts import check_store_url
from cleanroom_pipelines.storage.audit import AuditLog, fits
from cleanroom_pipelines.storage.buckets import Buckets
from cleanroom_pipelines.storage.home import CLOSED_UMASK, root_of
from cleanroom_pipelines.storage.identity import HomeIdentity
from cleanroom_pipelines.storage.layout import is_partition_key
from cleanroom_pipelines.storage.vault import Vault
from cleanroom_pipelines.uploads.sources import Connection, Sources

if TYPE_CHECKING:
    from cleanroom_pipelines.storage.remote_bucket import RemoteBucket

T = TypeVar("T")

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

_NEEDED = (
    ("CLEANROOM_MAIL", "CLEANROOM_CONSOLE_URL"),
    ("CLEANROOM_SSO_ISSUER", "CLEANROOM_CONSOLE_URL"),
    ("CLEANROOM_SSO_ISSUER", "CLEANROOM_SSO_CLIENT"),
)
_SECRET = re.compile(r"CLEANROOM_SECRET_([A-Z][A-Z0-9_]*?)(_FILE)?")
_SOURCE_URL = re.compile(r"CLEANROOM_SOURCE_([A-Z][A-Z0-9_]*)_URL")


@dataclass(frozen=True)
class SignOnProvider:
    """An OpenID Connect provider by which users sign in to the console.

    Args:
        issuer: Its address.
        client_id: Our id there.
    """

    issuer: str
    client_id: str


@dataclass(frozen=True)
class Settings:
    """Settings of an installation; the description of each names the environment variable that it is read from.

    Args:
        home: CLEANROOM_HOME, the folder that holds the installation.
        catalog_url: CLEANROOM_CATALOG_URL, any SQLAlchemy URL; None: SQLite in the home.
        artifacts_url: CLEANROOM_ARTIFACTS_URL, a folder or the URL of an object store; None: a folder of the home.
        key_file: CLEANROOM_KEY_FILE; None: in the home.
        memory_bytes: CLEANROOM_MEMORY, such as 8GB: memory of one engine; None: 60 % of RAM.
        threads: CLEANROOM_THREADS; None: one per core.
        engine_url: CLEANROOM_ENGINE_URL: engine for the steps that scale with the number of users:
            `spark://host:port`, `local[n]`, `sc://host:port`; None: DuckDB on this machine.
        scoring_runs: CLEANROOM_SCORING_RUNS: how many Dagster runs may share the scoring of one large audience, by
            shards of the model; at least 1.
        size_profile: CLEANROOM_SIZE_PROFILE, `default` or `aws`: the smallest population a model is trained on.
        seed_floor: CLEANROOM_SEED_FLOOR: lower limit for the minimum number of matching seed users that a
            configured model may set, at least 1; below 25 a seed hardly hides its users, and reports warn.
        notify: CLEANROOM_NOTIFY: a URL that gets a POST, or a command to run, when work ends.
        retention_days: CLEANROOM_RETENTION_DAYS: how many days superseded versions are kept.
        encryption: CLEANROOM_ENCRYPTION: `volume` states that home and temporary space are on an encrypted volume;
            rejected files of the inbox are then kept for a day.
        requests_per_second: CLEANROOM_REQUESTS_PER_SECOND: average request rate allowed per account.
        max_unfinished_jobs: CLEANROOM_MAX_UNFINISHED_JOBS: unfinished generation jobs per account.
        max_resources: CLEANROOM_MAX_RESOURCES: resources of one kind that an account may create over HTTP.
        max_upload_bytes: CLEANROOM_MAX_UPLOAD, such as 1GB: the largest object the server accepts.
        s3_host: CLEANROOM_S3_HOST: the endpoint's host name, if clients name buckets as `bucket.<host name>`.
        max_unpacked_bytes: CLEANROOM_MAX_UNPACKED, such as 2GB: unpacked size limit of one compressed file.
        max_scratch_bytes: CLEANROOM_MAX_SCRATCH, such as 100GB: how much the engine of one job may spill.
        operator_pages: CLEANROOM_OPERATOR_PAGES: `remote` shows the operator's pages over TLS from elsewhere too;
            `local`, the default, only on this machine.
        private_networks: CLEANROOM_PRIVATE_NETWORKS, such as 172.17.0.0/16: networks whose connections need no TLS
            because others cannot read them, such as a container's whose port is published on 127.0.0.1 only.
        console_url: CLEANROOM_CONSOLE_URL: the address at which users open the console, such as
            https://room.example; links in e-mails and the return from single sign-on lead there.
        mail: CLEANROOM_MAIL, `smtp://[user@]host[:port]?from=address`: sends invitations and one-time links; the
            user's password is the secret MAIL.
        sso: CLEANROOM_SSO_ISSUER and CLEANROOM_SSO_CLIENT: the OpenID Connect provider by which users sign in, and
            our client id there; the client's secret is the secret SSO.
        max_uploads: CLEANROOM_MAX_UPLOADS: files per user that are not in a room yet.
        max_labs: CLEANROOM_MAX_LABS: data labs per user.
        max_rooms: CLEANROOM_MAX_ROOMS: data rooms owned per user.
        secrets: CLEANROOM_SECRET_<NAME>, or CLEANROOM_SECRET_<NAME>_FILE with the path of a file that contains it:
            secrets that declared notices name. MAIL and SSO belong to the settings above, METRICS is the token of
            /_cleanroom/metrics.
        connections: CLEANROOM_SOURCE_<NAME>_URL and CLEANROOM_SOURCE_<NAME>_DRIVER: databases that sources name.
    """

    home: Path
    catalog_url: str | None = None
    artifacts_url: str | None = None
    key_file: Path | None = None
    memory_bytes: int | None = None
    threads: int | None = None
    engine_url: str | None = None
    scoring_runs: int = 1
    size_profile: str = "default"
    seed_floor: int = 25
    notify: str | None = None
    retention_days: float = 30.0
    encryption: str | None = None
    requests_per_second: float = 200.0
    max_unfinished_jobs: int = 100
    max_resources: int = 10_000
    max_upload_bytes: int = 10**9
    s3_host: str | None = None
    max_unpacked_bytes: int = 2 * 10**9
    max_scratch_bytes: int | None = None
    operator_pages: str = "local"
    private_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    console_url: str | None = None
    mail: Mail | None = None
    sso: SignOnProvider | None = None
    max_uploads: int = 100
    max_labs: int = 100
    max_rooms: int = 100
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    connections: Mapping[str, Connection] = field(default_factory=dict, repr=False, hash=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the settings; an empty variable counts as unset.

        Args:
            environment: Variables by name; defaults to those of this process.

        Raises:
            ConfigurationError: A variable cannot be read; the message names it.
        """
        values = os.environ if environment is None else environment
        _check_together(values)
        return cls(
            home=root_of(values.get("CLEANROOM_HOME") or "data"),
            catalog_url=_read(values, "CLEANROOM_CATALOG_URL", _catalog_url),
            artifacts_url=_read(values, "CLEANROOM_ARTIFACTS_URL", _artifacts_url),
            key_file=_read(values, "CLEANROOM_KEY_FILE", _path),
            memory_bytes=_read(values, "CLEANROOM_MEMORY", parse_bytes),
            threads=_read(values, "CLEANROOM_THREADS", _positive),
            engine_url=_read(values, "CLEANROOM_ENGINE_URL", engine_url),
            scoring_runs=_read(values, "CLEANROOM_SCORING_RUNS", _positive) or 1,
            size_profile=_read(values, "CLEANROOM_SIZE_PROFILE", _size_profile) or "default",
            seed_floor=_read(values, "CLEANROOM_SEED_FLOOR", _positive) or 25,
            notify=values.get("CLEANROOM_NOTIFY") or None,
            retention_days=30.0 if (days := _read(values, "CLEANROOM_RETENTION_DAYS", _days)) is None else days,
            encryption=_read(values, "CLEANROOM_ENCRYPTION", _encryption),
            requests_per_second=_read(values, "CLEANROOM_REQUESTS_PER_SECOND", _positive) or 200.0,
            max_unfinished_jobs=_read(values, "CLEANROOM_MAX_UNFINISHED_JOBS", _positive) or 100,
            max_resources=_read(values, "CLEANROOM_MAX_RESOURCES", _positive) or 10_000,
            max_upload_bytes=_read(values, "CLEANROOM_MAX_UPLOAD", parse_bytes) or 10**9,
            s3_host=(values.get("CLEANROOM_S3_HOST") or "").lower() or None,
            max_unpacked_bytes=_read(values, "CLEANROOM_MAX_UNPACKED", parse_bytes) or 2 * 10**9,
            max_scratch_bytes=_read(values, "CLEANROOM_MAX_SCRATCH", parse_bytes),
            operator_pages=_read(values, "CLEANROOM_OPERATOR_PAGES", _operator_pages) or "local",
            private_networks=_read(values, "CLEANROOM_PRIVATE_NETWORKS", _networks) or (),
            console_url=_read(values, "CLEANROOM_CONSOLE_URL", _site_url),
            mail=_read(values, "CLEANROOM_MAIL", _mail),
            sso=_read(values, "CLEANROOM_SSO_ISSUER", lambda url: _sign_on(url, values)),
            max_uploads=_read(values, "CLEANROOM_MAX_UPLOADS", _positive) or 100,
            max_labs=_read(values, "CLEANROOM_MAX_LABS", _positive) or 100,
            max_rooms=_read(values, "CLEANROOM_MAX_ROOMS", _positive) or 100,
            secrets=_secrets(values),
            connections=source_connections(values),
        )


@dataclass(frozen=True)
class Installation:
    """The parts of one installation, each opened on first use.

    Args:
        settings: The operator's settings.
        clock: Returns the time in UTC.
        token_hex: Returns n random bytes as hex.
    """

    settings: Settings
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    token_hex: Callable[[int], str] = secrets.token_hex

    @classmethod
    def from_environment(cls) -> "Installation":
        """Create the installation that the environment variables configure, for commands, runs and workers.

        This sets the umask, so files that the process creates are accessible to their owner only. To embed the
        package in another program without changing its umask, construct an Installation from Settings instead.
        """
        os.umask(CLOSED_UMASK)
        return cls(Settings.from_environment())

    @cached_property
    def home(self) -> Home:
        """The home folder, created if missing."""
        return Home.open(self.settings.home)

    @property
    def exists(self) -> bool:
        """Whether an installation exists: its home has content, or its catalogue is outside the home."""
        root = self.settings.home
        try:
            return self.settings.catalog_url is not None or (root.is_dir() and any(root.iterdir()))
        except OSError:
            return True  # opening it says what is wrong

    @cached_property
    def parts(self) -> Parts:
        """The configured home, catalogue, store and key, not yet checked to belong to one installation."""
        settings, home = self.settings, self.home
        catalog = Catalog(
            settings.catalog_url or home.catalog_url,
            clock=self.clock,
            token_hex=self.token_hex,
            seed_floor=settings.seed_floor,
            on_generation=HomeIdentity(home.root).raise_to,
            server_clock=True,
        )
        store = ArtifactStore(settings.artifacts_url or str(home.artifacts), home.scratch)
        return Parts(home, catalog, store, settings.key_file or home.key_file, self.token_hex)

    @cached_property
    def opened(self) -> Opened:
        """The installation's key and identity; checks first that home, catalogue and key belong together.

        Raises:
            IdentityError: They do not belong together.
        """
        return self.parts.open()

    @property
    def key(self) -> InstallationKey:
        """The installation key; a new one is created only in an empty home.

        Raises:
            IdentityError: Home, catalogue and key do not belong together.
        """
        return self.opened.key

    @cached_property
    def catalog(self) -> Catalog:
        """The catalogue, migrated to this version's schema.

        Raises:
            IdentityError: Home, catalogue and key do not belong together.
        """
        _ = self.opened
        self.parts.catalog.database.on_change = self._note
        return self.parts.catalog

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifact store.

        Raises:
            IdentityError: Home, catalogue and key do not belong together.
        """
        _ = self.opened
        return self.parts.store

    def check(self) -> None:
        """Check again that home and catalogue belong together; called before deletions.

        Raises:
            IdentityError: They no longer belong together.
        """
        self.parts.check(self.opened)

    @cached_property
    def vault(self) -> SeedVault:
        """The vault with the encrypted seeds of unfinished jobs."""
        return SeedVault(self.home, self.key)

    @cached_property
    def uploads(self) -> Vault:
        """The vault with the encrypted files that were uploaded for data rooms and not ingested yet."""
        return Vault(self.home, self.key)

    def room_key(self, data_room_id: str) -> bytes:
        """Return a key for one data room, so that its hashed ids and noise differ from other rooms'."""
        return self.key.derive(f"data room {data_room_id}")

    @cached_property
    def buckets(self) -> Buckets:
        """The buckets of all accounts, in the home or in object stores."""
        return Buckets(self.home, self.catalog.parties.bucket)

    def sources_of(self, account_id: str) -> Sources:
        """Return the sources from which an account's datasets and seeds may be read: files, buckets, databases.

        In a dry run the account may not exist yet; its id is then empty. Only the operator may name a source,
        because it is read with the operator's credentials; a bucket registered for the account has its own.
        """

        def registered(name: str) -> "RemoteBucket | None":
            return self.buckets.real(account_id, name) if account_id else None

        return Sources(self.home.scratch, self.settings.connections, registered)

    @cached_property
    def audit(self) -> AuditLog:
        """The audit log."""
        return AuditLog(self.home.audit, self.key, self.clock, self.parts.catalog.database.server)

    def _note(self, change: Change) -> None:
        """Log a change to the catalogue in the audit log, with a keyed digest in place of the user's address."""
        entry = {
            "way": change.way,
            "operation": change.operation,
            # a rejected request is logged only with a valid partition key: the caller may have typed a secret
            "resource": change.resource
            if change.error is None or is_partition_key(change.resource or "")
            else None,
            "account": change.account,
            "user": self.audit_name(change.email) if change.email else None,
            "outcome": "refused" if change.error else "ok",
            "error": type(change.error).__name__ if change.error else None,
        }
        # text that a caller typed instead of a key or an account must not reach the log
        self.audit.write({name: value for name, value in entry.items() if fits(name, value)})

    def audit_name(self, email: str) -> str:
        """Return the name of a user in the audit log: a keyed digest of the address, 16 hex digits."""
        return self.key.digest("audit users", email.encode())[:16]

    @property
    def engine_settings(self) -> EngineSettings:
        """The engine to use, with its share of this machine's memory and cores."""
        return EngineSettings(
            self.settings.memory_bytes,
            self.settings.threads,
            self.home.scratch,
            self.settings.max_scratch_bytes,
            self.settings.max_unpacked_bytes,
            url=self.settings.engine_url,
        )


def source_connections(environment: Mapping[str, str]) -> Mapping[str, Connection]:
    """Read the database connections for data sources: `CLEANROOM_SOURCE_<NAME>_URL` and `…_DRIVER`."""
    found = {}
    for variable, url in environment.items():
        if (match := _SOURCE_URL.fullmatch(variable)) and url:
            driver = environment.get(f"CLEANROOM_SOURCE_{match[1]}_DRIVER") or "postgresql"
            found[match[1]] = Connection(url, driver)
    return found


def _secrets(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Read the secrets from environment variables, or from the files that the variables name."""
    found = {}
    for variable, value in environment.items():
        if (match := _SECRET.fullmatch(variable)) and value:
            found[match[1]] = _read(environment, variable, _content) if match[2] else value
    return {name: value for name, value in found.items() if value}


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        raise ValueError("cannot be read") from None


def parse_bytes(text: str) -> int:
    """Read an amount of memory such as `8GB`, `512MiB` or a number of bytes.

    Raises:
        ValueError: The text is not an amount of memory, or is below 64 MB.
    """
    number = text.strip().rstrip("BGIKMTbgikmt")
    try:
        n_bytes = int(float(number) * _UNITS[text.strip()[len(number) :].strip().upper()])
    except (KeyError, OverflowError):
        raise ValueError("not an amount of memory") from None
    if n_bytes < 64 * 10**6:
        raise ValueError("below 64 MB")
    return n_bytes


def engine_url(text: str) -> str | None:
    """Read the engine's address: a Spark cluster, or `duckdb` for this machine.

    Raises:
        ValueError: The text is not an engine address.
    """
    address = text.strip()
    if address.lower() == "duckdb":
        return None
    if not address.startswith(("spark://", "sc://", "local[")) and address != "local":
        raise ValueError("not an engine address")
    return address


def _read(values: Mapping[str, str], name: str, parse: Callable[[str], T]) -> T | None:
    text = values.get(name)
    if not text:
        return None
    try:
        return parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"The setting {name} is invalid: {error.message}", remedy=error.remedy) from None
    except (ValueError, RuntimeError):
        raise ConfigurationError(
            f"The setting {name} is invalid.", remedy="See the README's table of settings."
        ) from None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("below 1")
    return number


def _path(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _catalog_url(text: str) -> str:
    Catalog(text, clock=lambda: datetime.now(UTC), token_hex=secrets.token_hex)  # connects to nothing
    return text


def _artifacts_url(text: str) -> str:
    check_store_url(text)
    return text


def _days(text: str) -> float:
    days = float(text)
    if not (math.isfinite(days) and 0 <= days <= 36_500):
        raise ValueError("out of range")
    return days


def _encryption(text: str) -> str:
    if text != "volume":
        raise ValueError("unknown encryption")
    return text


def _operator_pages(text: str) -> str:
    if text not in ("local", "remote"):
        raise ValueError("unknown place")
    return text


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(each.strip()) for each in text.split(","))


def _site_url(text: str) -> str:
    """Check the site's address: https:// (or http:// on this machine), without a path."""
    if urlsplit(text).path.strip("/"):
        raise ValueError("it has a path")
    return _web_address(text).rstrip("/")


def _web_address(text: str) -> str:
    parts = urlsplit(text)
    is_secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    is_plain = parts.username is None and not parts.query and not parts.fragment and parts.port != 0
    if not (is_secure and is_plain and parts.hostname and text.isprintable() and " " not in text):
        raise ValueError("not the address of a site")
    return text


def _mail(text: str) -> Mail:
    parts = urlsplit(text)
    sender = dict(parse_qsl(parts.query, strict_parsing=True)).get("from", "")
    if parts.scheme != "smtp" or parts.path.strip("/") or parts.password is not None:
        raise ValueError("not the address of a mail server")
    user = unquote(parts.username) if parts.username else None
    mail = Mail(sender, sender, parts.hostname or "", parts.port or 587, user, "MAIL" if user else None)
    mail.check()  # its receiver is set for each message
    return mail


def _sign_on(issuer: str, values: Mapping[str, str]) -> SignOnProvider:
    return SignOnProvider(_web_address(issuer), values["CLEANROOM_SSO_CLIENT"])


def _check_together(values: Mapping[str, str]) -> None:
    """Reject sign-in settings if other settings that they require are missing."""
    for name, needed in _NEEDED:
        if values.get(name) and not values.get(needed):
            raise ConfigurationError(f"The setting {name} needs {needed}.", remedy=f"Set {needed} too.")


def _size_profile(text: str) -> str:
    if text not in ("default", "aws"):
        raise ValueError("unknown profile")
    return text
