"""Users of the data rooms, and their tokens.

Lives here: users by e-mail address, and tokens, stored as keyed digests only.
Add here when a user can own something new.
Keep out: generating tokens and their digests (the shell has the key) and permissions in rooms.
"""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cleanroom_pipelines.catalog.database import Part, noted
from cleanroom_pipelines.catalog.records import Token, User
from cleanroom_pipelines.catalog.room_specs import check_email
from cleanroom_pipelines.catalog.tables import (
    AccountRow,
    SessionRow,
    SignInLinkRow,
    TokenRow,
    UserRow,
    record_of,
    stored,
)
from cleanroom_pipelines.errors import ConflictError, NotFoundError


class Users(Part):
    """The part of the catalogue that stores users."""

    @noted
    def create_user(self, email: str) -> User:
        """Create a user.

        Raises:
            UsageError: The address is invalid.
            ConflictError: The user exists already.
        """
        check_email(email)
        with self._database.write(clash=_exists()) as session:
            if session.get(UserRow, email) is not None:
                raise _exists()
            row = UserRow(email=email, created_at=self._database.now(), disabled=False)
            return stored(session, row, User)

    def all(self) -> tuple[User, ...]:
        """Return all users, sorted by e-mail address."""
        return self._all(User, select(UserRow).order_by(UserRow.email))

    def user(self, email: str) -> User | None:
        """Return a user; None if the user does not exist."""
        return self._get(User, UserRow, email)

    @noted
    def set_role(self, email: str, *, is_operator: bool, account_id: str | None) -> User:
        """Set whether a user is an operator, and the account that the user manages in the console.

        Args:
            email: The user.
            is_operator: Whether the user may use the operator's pages.
            account_id: The account whose resources the user manages; None for no account.

        Raises:
            NotFoundError: The user or the account does not exist.
        """
        with self._database.write() as session:
            row = find_user(session, email)
            if account_id is not None and session.get(AccountRow, account_id) is None:
                raise NotFoundError("There is no such account.", remedy="List the accounts.")
            row.is_operator, row.account_id = is_operator, account_id
            session.flush()
            return record_of(User, row)

    @noted
    def set_user_disabled(self, email: str, disabled: bool) -> User:
        """Disable or enable a user; a disabled user has no sessions, and cannot use tokens or a password.

        Raises:
            NotFoundError: The user does not exist.
        """
        with self._database.write() as session:
            row = find_user(session, email)
            row.disabled = disabled
            if disabled:
                session.execute(delete(SessionRow).where(SessionRow.email == email))
                session.execute(delete(SignInLinkRow).where(SignInLinkRow.email == email))
            return record_of(User, row)

    @noted
    def add_token(self, email: str, digest: str, expires_at: datetime) -> Token:
        """Store a token's digest.

        Args:
            email: The token's user.
            digest: Keyed digest of the token, 64 hex digits.
            expires_at: UTC.

        Raises:
            NotFoundError: The user does not exist.
        """
        with self._database.write() as session:
            find_user(session, email)
            row = TokenRow(
                id=self._database.token_hex(8),
                email=email,
                digest=digest,
                created_at=self._database.now(),
                expires_at=expires_at,
                revoked=False,
            )
            return stored(session, row, Token)

    def tokens(self, email: str) -> tuple[Token, ...]:
        """Return a user's tokens, in order of creation."""
        query = select(TokenRow).where(TokenRow.email == email).order_by(TokenRow.created_at, TokenRow.id)
        return self._all(Token, query)

    @noted
    def revoke_token(self, token_id: str) -> Token:
        """Revoke a token.

        Raises:
            NotFoundError: The token does not exist.
        """
        with self._database.write() as session:
            row = session.get(TokenRow, token_id)
            if row is None:
                raise NotFoundError("There is no such token.", remedy="List the user's tokens.")
            row.revoked = True
            return record_of(Token, row)

    def token_of(self, digest: str) -> Token | None:
        """Return a token by its digest; None if it is unknown, revoked or expired, or if its user is disabled."""
        with self._database.read() as session:
            found = session.execute(
                select(TokenRow, UserRow.disabled)
                .join(UserRow, UserRow.email == TokenRow.email)
                .where(TokenRow.digest == digest)
            ).first()
            if found is None or found[0].revoked or found[1] or found[0].expires_at <= self._database.now():
                return None
            return record_of(Token, found[0])


def find_user(session: Session, email: str) -> UserRow:
    """Return a user's row.

    Raises:
        NotFoundError: The user does not exist.
    """
    row = session.get(UserRow, email)
    if row is None:
        raise NotFoundError("There is no such user.", remedy="Ask the operator to create the user.")
    return row


def _exists() -> ConflictError:
    return ConflictError("A user with this e-mail address already exists.", remedy="Issue a token for this user.")
