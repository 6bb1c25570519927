"""The way to a cluster's job server: who answers there, with which token, and what is said when it
breaks off."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from foldrace.errors import FoldraceError, InputError, StateError, first_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["connect"]

_PATIENCE = 5.0
_SENDING = 300.0  # seconds, for a package of 100 MB
_TUNNEL = "open the tunnel first: `foldrace tunnel CLUSTER.yaml`, or `ray dashboard CLUSTER.yaml`"
_KEY_FILE = "~/.ray/auth_token"
_INSTEAD = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
)  # which Ray's client takes rather than what it is given


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at ``address``, which answers. No proxy is asked, and no
    redirection is followed: neither is to see the token.

    Raises:
        InputError: ``address`` is no http address.
        StateError: nothing answers there, something else does, or it does not know the token; each
            with the remedy, within ten seconds.
    """
    host = _check_address(address)
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), host)))
    token = _token()
    _ask(address.rstrip("/"), token)
    if token is not None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules").setLevel(logging.ERROR)

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Waits for no answer forever, and says in one sentence what went wrong."""

        def _do_request(self, method: str, endpoint: str, **given: Any) -> Any:
            wait = _SENDING if method == "PUT" else 4 * _PATIENCE
            try:
                return super()._do_request(method, endpoint, timeout=(_PATIENCE, wait), **given)
            except (OSError, http.client.HTTPException) as error:  # requests' errors are OSErrors
                raise _lost(address, error) from error

        def _raise_error(self, answer: Any) -> NoReturn:
            said = " ".join(str(answer.text).split())[:200]
            raise StateError(f"{address}: the cluster refused ({answer.status_code}): {said}")

    before = {name: os.environ.pop(name, None) for name in _INSTEAD}
    try:
        return Client(address)
    except FoldraceError:
        raise
    except Exception as error:  # Ray's own
        raise StateError(
            f"{address}: the job server cannot be used: {first_line(error)}"
        ) from error
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _lost(address: str, error: BaseException) -> StateError:
    """What is said when a connection that was there breaks off."""
    why = first_line(error)[:200]
    return StateError(
        f"{address}: the connection is lost ({why}); what runs on the cluster goes on. {_TUNNEL}"
    )


def _check_address(address: str) -> str:
    """The host of an address. Raises: InputError."""
    try:
        parts = urlsplit(address)
        whole = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        )
    except ValueError:  # a port that is no number, a bracket that is not closed
        whole = False
    if not whole:
        raise InputError(
            "--address", address, "must be the address of Ray's dashboard", "http://127.0.0.1:8265"
        )
    return str(parts.hostname)


def _token() -> str | None:
    """The token that Ray's own tools would send: of the environment, of a file; None if there is
    none.

    Raises: StateError, which does not show it, if it is no token.
    """
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return None
    given, where = os.environ.get("RAY_AUTH_TOKEN"), "RAY_AUTH_TOKEN"
    if not given:
        path = Path(
            os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token")
        ).expanduser()
        where = str(path)
        try:
            given = path.read_text(encoding="utf-8")
        except OSError:
            return None
        except UnicodeDecodeError as error:
            raise StateError(f"{where}: holds no token; copy the cluster's there") from error
    token = given.strip()
    if token and not re.fullmatch(r"[!-~]+", token):
        raise StateError(
            f"{where}: holds no token, which is one line of letters and digits; copy the cluster's"
            " there"
        )
    return token or None


class _Still(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows nothing: a redirection is an answer with its number."""


def _ask(address: str, token: str | None) -> None:
    """Looks who answers; `connect` tells what is raised."""
    request = urllib.request.Request(f"{address}/api/jobs/")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Still())
    try:
        with opener.open(request, timeout=_PATIENCE) as answer:
            told = answer.read(64 * 2**20)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise StateError(f"{address}: {_about_token(token)}") from error
        rule = f"answers with {error.code}, so it is no Ray dashboard; is the port right?"
        raise StateError(f"{address}: {rule}") from error
    except http.client.HTTPException as error:
        raise StateError(
            f"{address}: something answers there that is no web server; is the port right?"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StateError(f"{address}: nothing answers there ({reason}); {_TUNNEL}") from error
    try:
        jobs = json.loads(told)
    except ValueError:
        jobs = None
    if not isinstance(jobs, list):
        raise StateError(
            f"{address}: something answers there that is no Ray dashboard; is the port right?"
        )


def _about_token(token: str | None) -> str:
    if token is None:
        return (
            f"asks for a token, and there is none in {_KEY_FILE}; copy it from where `ray up` was"
            " run, or the head"
        )
    return (
        f"does not know the token in {_KEY_FILE}; copy the cluster's, from where `ray up` was run"
        " or from the head"
    )
