"""How users sign in to the console: passwords, passkeys, sign-in links and sessions.

Lives here: encoded passwords, public keys, and the keyed digests of links, challenges and sessions.
Add here when a user can sign in in another way.
Keep out: encoding passwords, secrets and their digests (the shell has the key), cookies and pages.

A session ends when its user is disabled, when its token expires or is revoked, when the user sets a new password
or removes a passkey, after the time `IDLE` without a request, and in any case after the time `LONGEST`.
"""

from datetime import datetime, timedelta

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part, noted
from cleanroom_pipelines.catalog.records import ConsoleSession, LinkPurpose, NewPasskey, Passkey, SignInLink
from cleanroom_pipelines.catalog.tables import (
    ChallengeRow,
    PasskeyRow,
    SessionRow,
    SignInLinkRow,
    TokenRow,
    UserRow,
    record_of,
    stored,
)
from cleanroom_pipelines.catalog.users import find_user
from cleanroom_pipelines.errors import ConflictError, NotFoundError

IDLE, LONGEST = timedelta(minutes=30), timedelta(hours=12)
_BETWEEN_RECORDS = timedelta(minutes=1)
_MOST_PASSKEYS = 20


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
            return stored(session, row, SignInLink)

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
        self,
        digest: str,
        purpose: LinkPurpose,
        session_digest: str,
        *,
        password: str | None = None,
        passkey: NewPasskey | None = None,
    ) -> SignInLink | None:
        """Use up a link, set its user's password or passkey if given, and start a session, in one transaction.

        A new password or passkey replaces the user's password and all passkeys, and ends all sessions and links.

        Args:
            digest: The link's keyed digest.
            purpose: What the link must be for.
            session_digest: The keyed digest of the session.
            password: The new password, encoded.
            passkey: The new passkey.

        Returns:
            The link; None if it is invalid, or another request was first.

        Raises:
            ConflictError: The passkey is stored already.
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
            if password is not None or passkey is not None:
                find_user(session, link.email).password = password
                session.execute(delete(PasskeyRow).where(PasskeyRow.email == link.email))
                _end_all(session, link.email)
            if passkey is not None:
                self._add_passkey(session, link.email, passkey)
            self._start(session, link.email, session_digest)
        return link

    def invitations(self) -> tuple[SignInLink, ...]:
        """Return the invitations that can still be accepted, oldest first."""
        valid = SignInLinkRow.purpose == LinkPurpose.INVITATION, SignInLinkRow.expires_at > self._database.now()
        query = select(SignInLinkRow).where(*valid).order_by(SignInLinkRow.created_at, SignInLinkRow.email)
        return self._all(SignInLink, query)

    def can_sign_in(self, email: str) -> bool:
        """Return whether a user has a password or a passkey, or was ever issued a token."""
        with self._database.read() as session:
            row = session.get(UserRow, email)
            return row is not None and _can_sign_in(session, row)

    @noted
    def add_passkey(self, email: str, passkey: NewPasskey) -> Passkey:
        """Store a user's passkey.

        Raises:
            NotFoundError: The user does not exist.
            ConflictError: The passkey is stored already, or the user has too many.
        """
        with self._database.write() as session:
            find_user(session, email)
            return record_of(Passkey, self._add_passkey(session, email, passkey))

    def passkeys(self, email: str) -> tuple[Passkey, ...]:
        """Return a user's passkeys, in order of creation."""
        query = select(PasskeyRow).where(PasskeyRow.email == email)
        return self._all(Passkey, query.order_by(PasskeyRow.created_at, PasskeyRow.id))

    def passkey_with(self, credential_id: str) -> Passkey | None:
        """Return the passkey with this credential id; None if the id is unknown or its user is disabled."""
        query = select(PasskeyRow).join(UserRow, UserRow.email == PasskeyRow.email)
        with self._database.read() as session:
            row = session.scalar(
                query.where(PasskeyRow.credential_id == credential_id, UserRow.disabled.is_(False))
            )
            return None if row is None else record_of(Passkey, row)

    def start_session_by(self, passkey: Passkey, sign_count: int, digest: str) -> bool:
        """Start a session by a passkey: record that it was used, and store the digest of the new session.

        Args:
            passkey: The passkey as it was when its signature was checked.
            sign_count: The device's counter of signatures now.
            digest: The session's keyed digest.

        Returns:
            Whether the session was stored: false if the passkey was removed or used meanwhile.
        """
        unchanged = PasskeyRow.id == passkey.id, PasskeyRow.sign_count == passkey.sign_count
        used = update(PasskeyRow).where(*unchanged).values(sign_count=sign_count, used_at=self._database.now())
        with self._database.write() as session:
            if session.scalar(used.returning(PasskeyRow.id)) is None:
                return False
            self._start(session, passkey.email, digest)
        return True

    @noted
    def remove_passkey(self, email: str, passkey_id: str) -> None:
        """Remove one of a user's passkeys, and end all of the user's sessions.

        Raises:
            NotFoundError: The user has no such passkey.
            ConflictError: The user could no longer sign in.
        """
        with self._database.write() as session:
            row = session.get(PasskeyRow, passkey_id)
            if row is None or row.email != email:
                raise NotFoundError("You have no such passkey.", remedy="Reload your account page.")
            session.delete(row)
            session.flush()
            if not _can_sign_in(session, find_user(session, email)):
                raise ConflictError(
                    "This passkey is your only way to sign in.",
                    remedy="Add another passkey first, then remove it.",
                )
            _end_all(session, email)

    def add_challenge(self, digest: str, expires_at: datetime) -> None:
        """Store the keyed digest of a challenge, and delete expired challenges."""
        with self._database.write() as session:
            session.execute(delete(ChallengeRow).where(ChallengeRow.expires_at <= self._database.now()))
            session.add(ChallengeRow(digest=digest, expires_at=expires_at))

    def use_challenge(self, digest: str) -> bool:
        """Use up a challenge; false if it is unknown, used or expired."""
        used = delete(ChallengeRow).where(ChallengeRow.digest == digest).returning(ChallengeRow.expires_at)
        with self._database.write() as session:
            expires_at = session.scalar(used)
            return expires_at is not None and expires_at > self._database.now()

    def _add_passkey(self, session: Session, email: str, passkey: NewPasskey) -> PasskeyRow:
        n_passkeys = session.scalar(select(func.count()).where(PasskeyRow.email == email)) or 0
        if n_passkeys >= _MOST_PASSKEYS:
            raise ConflictError("You have too many passkeys.", remedy="Remove one first.")
        if session.scalar(select(PasskeyRow.id).where(PasskeyRow.credential_id == passkey.credential_id)):
            raise _is_stored()
        id_, now = self._database.token_hex(8), self._database.now()
        row = PasskeyRow(**vars(passkey), id=id_, email=email, created_at=now)
        session.add(row)
        session.flush()
        return row

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
                raise ConflictError(
                    "The user was deleted, disabled or given another password during the sign-in.",
                    remedy="Sign in again.",
                )
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
    """End a user's sessions, and delete the sign-in links with which the user could start new ones."""
    session.execute(delete(SessionRow).where(SessionRow.email == email))
    is_link = SignInLinkRow.purpose == LinkPurpose.SIGN_IN
    session.execute(delete(SignInLinkRow).where(SignInLinkRow.email == email, is_link))


def _may_still_invite(session: Session, link: SignInLinkRow) -> bool:
    """Whether a participant's invitation is still valid: the user has no password, token, role or account yet."""
    user, inviter = session.get(UserRow, link.email), session.get(UserRow, link.invited_by)
    if user is None or inviter is None or inviter.disabled or _can_sign_in(session, user):
        return False
    return not user.is_operator and user.account_id is None


def _can_sign_in(session: Session, user: UserRow) -> bool:
    """Whether a user has a password or a passkey, or was ever issued a token."""
    owned = (select(row.id).where(row.email == user.email).limit(1) for row in (PasskeyRow, TokenRow))
    return user.password is not None or any(session.scalar(each) is not None for each in owned)


def _is_stored() -> ConflictError:
    return ConflictError("This passkey is stored already.", remedy="Sign in with it, or create another one.")
