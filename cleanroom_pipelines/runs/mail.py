"""E-mail: sending notices through a declared mail server, and sending users their sign-in links.

Lives here: the message, STARTTLS, the login, and the operator's own mail server.
Add here when something else is sent to a user.
Keep out: who gets notices (`notices.py`), issuing links (`sign_in.py`) and the texts (the console).

Decided 2026-12-01. Links go through the operator's own mail server, not through that of a receiver of notices,
which may belong to another organisation. They lead to CLEANROOM_CONSOLE_URL, because a request for a link may have
a forged Host header.
"""

import smtplib
import ssl
from dataclasses import replace
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

from cleanroom_pipelines.catalog import Mail
from cleanroom_pipelines.catalog.channels import is_loopback
from cleanroom_pipelines.errors import UsageError
from cleanroom_pipelines.runs.installation import Installation

TIMEOUT_SECONDS = 10.0
MAIL_ERRORS = (smtplib.SMTPException, OSError, ValueError)
"""What `send_mail` raises."""


def send_mail(mail: Mail, subject: str, text: str, password: str | None, message_id: str) -> None:
    """Send an e-mail; the possible errors are listed in `MAIL_ERRORS`.

    Args:
        mail: Receiver, sender and mail server.
        subject: Its subject.
        text: Its text.
        password: Password for the mail server, if it has a user.
        message_id: The same for each attempt, so that a receiver can drop duplicates.
    """
    message = EmailMessage()
    message["From"], message["To"] = mail.sender, mail.to
    message["Subject"] = subject
    message["Date"], message["Message-ID"] = formatdate(), message_id
    message["Auto-Submitted"] = "auto-generated"  # so that absence notes are not sent back (RFC 3834)
    message.set_content(f"{text}\n")
    with smtplib.SMTP(mail.host, mail.port, timeout=TIMEOUT_SECONDS) as server:
        server.ehlo()
        if server.has_extn("starttls") or not is_loopback(mail.host):
            server.starttls(context=ssl.create_default_context())
        if mail.user is not None and password is not None:
            server.login(mail.user, password)
        server.send_message(message)


def mail_user(installation: Installation, email: str, subject: str, text: str) -> None:
    """Send an e-mail to a user through the mail server in CLEANROOM_MAIL.

    Raises:
        UsageError: There is no mail server, or it did not accept the message.
    """
    mail = installation.settings.mail
    if mail is None:
        raise UsageError("E-mail is not set up here.", remedy="Copy the link and send it yourself.")
    try:
        message_id = make_msgid(domain="cleanroom")
        send_mail(replace(mail, to=email), subject, text, installation.settings.secrets.get("MAIL"), message_id)
    except MAIL_ERRORS as error:
        raise UsageError(
            f"The e-mail was not sent ({type(error).__name__}).", remedy="Copy the link and send it yourself."
        ) from None
