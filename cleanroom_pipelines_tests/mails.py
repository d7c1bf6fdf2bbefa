"""A small mail server on loopback, with STARTTLS and a login.

Lives here: the server, and the messages that it received.
Add here when a test needs another command of SMTP.
"""

import base64
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

PASSWORD = "pass word"


@dataclass
class ReceivedMail:
    """A message, and how it arrived."""

    is_encrypted: bool = False
    user: str = ""
    password: str = ""
    sender: str = ""
    to: list[str] = field(default_factory=list)
    content: bytes = b""

    @property
    def parsed(self) -> EmailMessage:
        """The message with its headers."""
        message = message_from_bytes(self.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        return message


class MailServer(socketserver.ThreadingTCPServer):
    """The server; its only user has the password `PASSWORD`.

    Attributes:
        messages: What it received.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, certificate: Path, key: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.messages: list[ReceivedMail] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.server_address[1])

    def handle_error(self, *_: Any) -> None:
        """Say nothing about a client that ended its session early."""

    @classmethod
    @contextmanager
    def running(cls, certificate: Path, key: Path) -> Iterator["MailServer"]:
        """Run a server until the block ends."""
        with cls(certificate, key) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()


class _Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        mail = ReceivedMail()
        self._say("220 mail.test")
        while line := self.rfile.readline().decode().strip():
            command, _, rest = line.partition(" ")
            if command.upper() == "QUIT":
                self._say("221 bye")
                return
            self._answer(mail, command.upper(), rest)

    def _answer(self, mail: ReceivedMail, command: str, rest: str) -> None:
        if command == "EHLO":
            self._say("250-mail.test", "250 AUTH PLAIN" if mail.is_encrypted else "250 STARTTLS")
        elif command == "STARTTLS":
            self._say("220 go ahead")
            self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb", -1)
            self.wfile = self.connection.makefile("wb", 0)  # type: ignore[assignment]
            mail.is_encrypted = True
        elif command == "AUTH":
            _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
            mail.user, mail.password = user, password
            self._say("235 ok" if password == PASSWORD else "535 wrong")
        elif command == "MAIL":
            mail.sender = rest.partition("<")[2].partition(">")[0]
            self._say("250 ok")
        elif command == "RCPT":
            mail.to.append(rest.partition("<")[2].partition(">")[0])
            self._say("250 ok")
        elif command == "DATA":
            self._say("354 send")
            while (line := self.rfile.readline()) != b".\r\n":
                mail.content += line
            self.server.messages.append(mail)
            self._say("250 ok")
        else:
            self._say("250 ok")

    def _say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())
