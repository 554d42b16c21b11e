"""Tells a URL how a run of the schedule ended, as JSON; that it could not be told is only a warning."""

import json
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from pipeline.errors import ConfigError

_SECONDS = 10.0


def require_url(url: str) -> None:
    """Refuse what nothing can be posted to.

    Raises:
        ConfigError: it is no http or https URL; what it is, is not said: such URLs are secrets.
    """
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ConfigError("--webhook is not valid: allowed is an http:// or https:// URL")


def post(url: str, message: dict[str, Any], say: Callable[[str], None]) -> None:
    """POST a message."""
    data = json.dumps(message, default=str).encode()
    request = Request(url, data, {"Content-Type": "application/json"}, method="POST")  # noqa: S310  # require_url
    try:
        with urlopen(request, timeout=_SECONDS):  # noqa: S310  # require_url
            return
    except HTTPError as error:
        why = f"it answered {error.code}"
    except (OSError, ValueError) as error:
        why = str(getattr(error, "reason", "") or type(error).__name__)
    say(f"warning: the webhook at {urlsplit(url).hostname} could not be told: {why}")
