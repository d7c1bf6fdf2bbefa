"""How users sign in to the console: passwords, sign-in links and sessions.

Lives here: encoded passwords, and the keyed digests of links and sessions.
Add here when a user can sign in in another way.
Keep out: encoding passwords, secrets and their digests (the shell has the key), cookies and pages.

A session ends with its user, its token, a new password, after `IDLE` without a request, and after `LONGEST`.
"""

from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part
from cleanroom_pipelines.catalog.noting import noted
from cleanroom_pipelines.catalog.records import ConsoleSession, LinkPurpose, SignInLink
from cleanroom_pipelines.catalog.tables import SessionRow, SignInLinkRow, TokenRow, UserRow, record_of
from cleanroom_pipelines.catalog.users import find_user
from cleanroom_pipelines.errors import ConflictError

IDLE, LONGEST = timedelta(minutes=30), timedelta(hours=12)
_BETWEEN_RECORDS = timedelta(minutes=1)


class SignIn(Part):
    """The part of the catalogue that stores how users sign in."""

    def password(self, email: str) -> str | None:
        """Return a user's encoded password; None if the user is unknown or disabled, or has no password."""
        with self._database.read() as session:
            row = session.get(UserRow, email)
            return None if row is None or row.disabled else row.password

    @noted
    def add_link(
        self, email: str, digest: str, purpose: LinkPurpose, expires_at: datetime, invited_by: str | None = None
    ) -> SignInLink:
        """Store a link's digest; the user's earlier links for the same purpose become invalid.

        Raises:
            NotFoundError: The user does not exist.
        """
        now = self._database.now()
        with self._database.write() as session:
            find_user(session, email)
            earlier = (SignInLinkRow.email == email) & (SignInLinkRow.purpose == purpose)
            session.execute(delete(SignInLinkRow).where(or_(earlier, SignInLinkRow.expires_at <= now)))
            row = SignInLinkRow(
                email=email,
                digest=digest,
                purpose=purpose,
                invited_by=invited_by,
                created_at=now,
                expires_at=expires_at,
            )
            session.add(row)
            session.flush()
            return record_of(SignInLink, row)

    def link(self, digest: str, purpose: LinkPurpose) -> SignInLink | None:
        """Return a link; None if it is unknown, used or expired, or its user is disabled."""
        query = select(SignInLinkRow).join(UserRow, UserRow.email == SignInLinkRow.email)
        valid = SignInLinkRow.expires_at > self._database.now(), UserRow.disabled.is_(False)
        with self._database.read() as session:
            row = session.scalar(
                query.where(SignInLinkRow.digest == digest, SignInLinkRow.purpose == purpose, *valid)
            )
            return None if row is None else record_of(SignInLink, row)

    def use_link(
        self, digest: str, purpose: LinkPurpose, session_digest: str, password: str | None = None
    ) -> SignInLink | None:
        """Use up a link, set its user's password, and start a session, at once.

        Args:
            digest: The link's keyed digest.
            purpose: What the link must be for.
            session_digest: The keyed digest of the session.
            password: The new password, encoded; None to keep the old one.

        Returns:
            The link; None if it is invalid, or another request was first.
        """
        link = self.link(digest, purpose)
        if link is None:
            return None
        with self._database.write() as session:
            row = session.get(SignInLinkRow, digest, with_for_update=True)
            if row is None:
                return None
            session.delete(row)
            if row.invited_by is not None and not _may_still_invite(session, row):
                return None
            if password is not None:
                find_user(session, link.email).password = password
                _end_all(session, link.email)
            self._start(session, link.email, session_digest)
        return link

    def invitations(self) -> tuple[SignInLink, ...]:
        """Return the invitations that can still be accepted, oldest first."""
        valid = SignInLinkRow.purpose == LinkPurpose.INVITATION, SignInLinkRow.expires_at > self._database.now()
        with self._database.read() as session:
            query = select(SignInLinkRow).where(*valid).order_by(SignInLinkRow.created_at, SignInLinkRow.email)
            return tuple(record_of(SignInLink, row) for row in session.scalars(query))

    def can_sign_in(self, email: str) -> bool:
        """Return whether a user has a password, or was ever issued a token."""
        with self._database.read() as session:
            row = session.get(UserRow, email)
            token = session.scalar(select(TokenRow.id).where(TokenRow.email == email).limit(1))
            return token is not None or (row is not None and row.password is not None)

    def add_session(
        self, email: str, digest: str, *, token_id: str | None = None, password: str | None = None
    ) -> None:
        """Store a new session's digest, and delete sessions that have ended.

        Args:
            email: The user.
            digest: The session's keyed digest.
            token_id: The token by which the user signed in.
            password: The password by which the user signed in, encoded; None for another way.

        Raises:
            ConflictError: The user was deleted, disabled, or got another password, since the request was checked.
        """
        with self._database.write() as session:
            # locked, because a new password must end this session too
            user = session.get(UserRow, email, with_for_update=True)
            if user is None or user.disabled or password not in (None, user.password):
                raise ConflictError("How the user signs in has changed.", remedy="Sign in again.")
            self._start(session, email, digest, token_id)

    def session(self, digest: str) -> ConsoleSession | None:
        """Return a session and record its use; None if it is unknown or has ended."""
        now = self._database.now()
        query = (
            select(SessionRow)
            .join(UserRow, UserRow.email == SessionRow.email)
            .outerjoin(TokenRow, TokenRow.id == SessionRow.token_id)
            .where(
                SessionRow.digest == digest,
                SessionRow.used_at > now - IDLE,
                SessionRow.created_at > now - LONGEST,
                UserRow.disabled.is_(False),
                or_(SessionRow.token_id.is_(None), (TokenRow.expires_at > now) & TokenRow.revoked.is_(False)),
            )
        )
        with self._database.read() as session:
            row = session.scalar(query)
            if row is None:
                return None
            found = record_of(ConsoleSession, row)
        if found.used_at <= now - _BETWEEN_RECORDS:
            with self._database.write() as session:
                session.execute(update(SessionRow).where(SessionRow.digest == digest).values(used_at=now))
        return found

    def end_session(self, digest: str) -> None:
        """End a session; idempotent."""
        with self._database.write() as session:
            session.execute(delete(SessionRow).where(SessionRow.digest == digest))

    def _start(self, session: Session, email: str, digest: str, token_id: str | None = None) -> None:
        now = self._database.now()
        ended = or_(SessionRow.used_at <= now - IDLE, SessionRow.created_at <= now - LONGEST)
        session.execute(delete(SessionRow).where(ended))
        session.add(SessionRow(email=email, digest=digest, token_id=token_id, created_at=now, used_at=now))

    @noted
    def end_sessions(self, email: str) -> None:
        """End all sessions of a user, and make the user's one-time links invalid."""
        with self._database.write() as session:
            _end_all(session, email)


def _end_all(session: Session, email: str) -> None:
    """End what a user is, or could soon be, signed in by."""
    session.execute(delete(SessionRow).where(SessionRow.email == email))
    is_link = SignInLinkRow.purpose == LinkPurpose.SIGN_IN
    session.execute(delete(SignInLinkRow).where(SignInLinkRow.email == email, is_link))


def _may_still_invite(session: Session, link: SignInLinkRow) -> bool:
    """Whether a participant's invitation is still valid: the user has no password, token, role or account yet."""
    user, inviter = session.get(UserRow, link.email), session.get(UserRow, link.invited_by)
    has_token = session.scalar(select(TokenRow.id).where(TokenRow.email == link.email).limit(1)) is not None
    if user is None or inviter is None or inviter.disabled or has_token:
        return False
    return user.password is None and not user.is_operator and user.account_id is None
