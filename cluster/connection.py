"""A client of a cluster's job server: checks who answers, sends the token, explains failures."""

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

__all__ = ["connect", "use_token"]

_ANSWER_SECONDS = 5.0
_REQUEST_SECONDS = 20.0
_UPLOAD_SECONDS = 300.0  # for a package of 100 MB
_LARGEST_ANSWER = 64 * 2**20  # bytes
_TUNNEL = "open the tunnel first: `foldrace tunnel CLUSTER.yaml`, or `ray dashboard CLUSTER.yaml`"
_TOKEN_FILE = "~/.ray/auth_token"
# Ray's client prefers these to the address that it is given.
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at ``address``, after a check that it answers.

    Neither a proxy nor the target of a redirection gets the token: proxies are bypassed, and
    redirections are not followed.

    Raises:
        InputError: ``address`` is not an http address.
        StateError: nothing answers there, something other than Ray does, or it refuses the token;
            each with the remedy, within ten seconds.
    """
    host = _check_address(address)
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), host)))
    _probe(address.rstrip("/"), use_token())
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return _make_client(address)


def use_token() -> str | None:
    """Lets Ray's clients in this process send the token, if there is one; returns it.

    Ray makes up its mind when it is imported, so this has to come before.

    Raises:
        StateError: what is there is no token.
    """
    token = _read_token()
    if token is not None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    return token


def _make_client(address: str) -> JobSubmissionClient:
    """Ray's client with time-outs and plain errors. Raises: StateError."""
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules").setLevel(logging.ERROR)
    for name in ("_do_request", "_raise_error"):
        assert hasattr(JobSubmissionClient, name), f"this Ray has no JobSubmissionClient.{name}"

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Ray's client; no request waits forever, and errors are one sentence."""

        def _do_request(self, method: str, endpoint: str, **given: Any) -> Any:
            seconds = _UPLOAD_SECONDS if method == "PUT" else _REQUEST_SECONDS
            timeout = (_ANSWER_SECONDS, seconds)
            try:
                return super()._do_request(method, endpoint, timeout=timeout, **given)
            except (OSError, http.client.HTTPException) as error:  # requests' errors are OSErrors
                raise StateError(
                    f"{address}: the connection is lost ({first_line(error)[:200]}); sweeps on the"
                    f" cluster continue. {_TUNNEL}"
                ) from error

        def _raise_error(self, answer: Any) -> NoReturn:
            text = " ".join(str(answer.text).split())[:200]
            raise StateError(f"{address}: the cluster refused ({answer.status_code}): {text}")

    before = {name: os.environ.pop(name, None) for name in _OVERRIDING}
    try:
        return Client(address)
    except FoldraceError:
        raise
    except Exception as error:  # of Ray
        raise StateError(
            f"{address}: the job server cannot be used: {first_line(error)}"
        ) from error
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})


def _check_address(address: str) -> str:
    """The host of an address. Raises: InputError."""
    try:
        parts = urlsplit(address)
        valid = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        )
    except ValueError:  # a port that is not a number, or a bracket that is not closed
        valid = False
    if not valid:
        rule = "must be the address of Ray's dashboard"
        raise InputError("--address", address, rule, "http://127.0.0.1:8265")
    return str(parts.hostname)


def _read_token() -> str | None:
    """The token that Ray's own tools would send, from the environment or a file; None if none.

    Raises:
        StateError: it is not a token; the message does not show it.
    """
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return None
    text, source = os.environ.get("RAY_AUTH_TOKEN"), "RAY_AUTH_TOKEN"
    if not text:
        default = Path.home() / ".ray" / "auth_token"
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", default)).expanduser()
        source = str(path)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
    token = text.strip()
    if token and not re.fullmatch(r"[!-~]+", token):
        raise StateError(
            f"{source}: holds no token, which is one line of letters and digits; copy the"
            " cluster's there"
        )
    return token or None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follows nothing: a redirection becomes an HTTPError with its number."""


def _probe(address: str, token: str | None) -> None:
    """Checks that a Ray dashboard answers and accepts the token. Raises: StateError."""
    request = urllib.request.Request(f"{address}/api/jobs/")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
    try:
        with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            body = answer.read(_LARGEST_ANSWER)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise StateError(f"{address}: {_token_problem(token)}") from error
        rule = f"answers with {error.code}, so it is no Ray dashboard; is the port right?"
        raise StateError(f"{address}: {rule}") from error
    except http.client.HTTPException as error:
        rule = "something answers there that is no web server; is the port right?"
        raise StateError(f"{address}: {rule}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StateError(f"{address}: nothing answers there ({reason}); {_TUNNEL}") from error
    try:
        jobs = json.loads(body)
    except ValueError:
        jobs = None
    if not isinstance(jobs, list):
        rule = "something answers there that is no Ray dashboard; is the port right?"
        raise StateError(f"{address}: {rule}")


def _token_problem(token: str | None) -> str:
    source = "from where `ray up` was run, or from the head"
    if token is None:
        return f"asks for a token, and there is none in {_TOKEN_FILE}; copy it {source}"
    return f"does not know the token in {_TOKEN_FILE}; copy the cluster's, {source}"
