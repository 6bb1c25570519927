"""The address of the tracking store, and whether it answers."""

from __future__ import annotations

import ipaddress
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mlflow.tracking._tracking_service.utils import _tracking_store_registry

from foldrace.errors import InputError, StateError, redacted
from foldrace.search.recording.tracking import check_tracking, tracking_uri


def test_where_the_record_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(tmp_path) == "http://server:5000"
    assert tracking_uri(tmp_path, "http://named:1") == "http://named:1"


def test_a_server_that_does_not_answer_is_said(tmp_path: Path) -> None:
    check_tracking(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(
        StateError, match=r"tracking.uri: http://127.0.0.1:9: the MLflow server does not answer"
    ):
        check_tracking("http://127.0.0.1:9")


@contextmanager
def mlflow_server(certificate: Path | None = None, status: int = 200) -> Iterator[str]:
    """What MLflow's client needs of a server; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b"{}" if status == 200 else b'{"error_code": "PERMISSION_DENIED"}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kind = "http" if certificate is None else "https"
        yield f"{kind}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def own_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
    now = datetime.now(UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "own.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return path


def test_a_server_of_ones_own_certificate_is_asked_as_mlflow_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = own_certificate(tmp_path)
    with mlflow_server(certificate) as address:
        with pytest.raises(StateError, match=r"does not answer .*certificate"):
            check_tracking(address)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        check_tracking(address)


def test_a_proxy_does_not_hide_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.org")
    with mlflow_server() as address:
        check_tracking(address)
    assert os.environ["no_proxy"] == "example.org,127.0.0.1"


def test_a_server_that_does_not_accept_us_is_said_with_the_remedy() -> None:
    with (
        mlflow_server(status=403) as address,
        pytest.raises(StateError, match=r"does not accept us .*; set MLFLOW_TRACKING_TOKEN"),
    ):
        check_tracking(address)


@pytest.mark.parametrize(
    "uri", ["foo://bar", "file:///x", "mlruns", "/x", "http://", "http://h:abc", "azureml://x"]
)
def test_an_address_that_mlflow_does_not_know_is_refused(uri: str) -> None:
    with pytest.raises(InputError, match=r"^tracking.uri: .*: must be http://…"):
        check_tracking(uri)


def test_the_store_of_a_plugin_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("databricks", "databricks-uc", "databricks://profile"):
        check_tracking(uri)
    known = {"azureml": lambda *_: None, "arn": lambda *_: None}
    monkeypatch.setattr(_tracking_store_registry, "_registry", known)
    for uri in ("azureml://x", "arn:aws:sagemaker:x"):
        check_tracking(uri)


def test_an_address_from_the_environment_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://bar")
    with pytest.raises(InputError, match=r"^MLFLOW_TRACKING_URI: foo://bar: must be"):
        check_tracking("foo://bar")


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:pa/planted@host/db",
        "postgresql://me:p@planted@host/db",
        "postgresql://me@host/db?user=me&password=planted",
        "mysql+pymysql://me@h/db?passwd=planted",
        "mysql://h/db?ssl_key=/x&ssl_password=planted",
        "mssql+pyodbc:///?odbc_connect=Driver%3D18%3BUID%3Dme%3BPWD%3Dplanted",
        "https://h:5000/?access_token=planted",
        "https://h:5000/?api_key=planted&x=1",
        "http://me:pa/planted@h:5000",
        "connection to host=h user=me password=planted failed",
    ],
)
def test_no_form_of_a_secret_is_printed(address: str) -> None:
    assert "planted" not in redacted(f"at {address}, and at ({address})")
    assert redacted(address) != address
    if address.startswith("http"):
        with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as raised:
            check_tracking(address)
        assert "planted" not in str(raised.value)


@pytest.mark.parametrize("uri", ["http://me:a planted@h:5000", "postgresql://me:a planted@h/d"])
def test_an_address_with_a_blank_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(InputError, match="without blanks; write %20") as raised:
        check_tracking(uri)
    assert "planted" not in str(raised.value)


def test_credentials_in_an_address_are_not_printed() -> None:
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as raised:
        check_tracking("http://me:planted@127.0.0.1:9")
    assert "planted" not in str(raised.value)
    with pytest.raises(InputError) as raised:
        check_tracking("ftp://me:pl@nted@host/x")
    assert "nted" not in str(raised.value)
    assert redacted("sqlite:///a/b@c.db http://h/x@y") == "sqlite:///a/b@c.db http://h/x@y"
