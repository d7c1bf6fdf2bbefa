"""Notify the operator when work ends, by a URL or command.

Lives here: sending a notice.
Add here when notices can be sent in another way.
Keep out: data. A notice says what ended and with which status, never its results.
"""

import http.client
import json
import logging
import shlex
import subprocess
import urllib.request
from collections.abc import Mapping

_LOG = logging.getLogger(__name__)
TIMEOUT_SECONDS = 10


def send_notice(notify: str | None, notice: Mapping[str, str]) -> None:
    """Notify the operator; a failure is logged and does not fail the work.

    Args:
        notify: An http(s) URL that gets the notice as a JSON POST, or a command that reads it from standard input;
            None sends nothing.
        notice: `kind`, `id`, `version`, `status` and `status_code`.
    """
    if not notify:
        return
    body = json.dumps(dict(notice), sort_keys=True).encode()
    try:
        if notify.startswith(("http://", "https://")):
            request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
                notify, data=body, headers={"Content-Type": "application/json"}, method="POST"
            )
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
                pass
        else:
            command = shlex.split(notify)
            if not command:
                raise ValueError("an empty command")
            # Output is discarded: waiting for a pipe would last as long as any child of the command keeps it open.
            subprocess.run(  # noqa: S603 - the operator's own command
                command,
                input=body,
                timeout=TIMEOUT_SECONDS,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
    except (OSError, ValueError, subprocess.SubprocessError, http.client.HTTPException) as error:
        _LOG.warning("The notification hook failed (%s).", type(error).__name__)
