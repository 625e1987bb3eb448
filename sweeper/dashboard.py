"""Serves optuna-dashboard over a storage: read-only unless told otherwise, on loopback unless told otherwise.

Read-only is held twice: requests that would change something are answered 403, and the database itself is opened to read. The
dashboard knows no users; a page of another site in the same browser is kept out by its `Origin`, and by a `Host` that is not ours.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna

from storage.engine import open_database, open_to_read
from storage.engine import translated as storage_errors
from sweeper.errors import UsageError, translated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

HARMLESS = ("GET", "HEAD", "OPTIONS")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Guard:
    """What stands before the dashboard.

    Args:
        app: the dashboard.
        host: the address that it is served on.
        write: let requests through that change something.
    """

    app: WSGIApplication
    host: str
    write: bool

    def __call__(self, environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or refuse it."""
        asked = urlsplit(f"//{environment.get('HTTP_HOST', '')}").hostname or ""
        if not self._is_ours(asked):
            return _refuse(start_response, f"this dashboard is not {asked!r}; ask for {self.host}")
        if environment["REQUEST_METHOD"] not in HARMLESS:
            if not self.write:
                return _refuse(start_response, "this dashboard is read-only; sweeper dashboard --write allows edits")
            origin = environment.get("HTTP_ORIGIN")
            if origin is not None and urlsplit(origin).netloc != environment.get("HTTP_HOST"):
                return _refuse(start_response, "a page of another site asks for a change")
        return self.app(environment, start_response)

    def _is_ours(self, host: str) -> bool:
        """Whether a request means us: on loopback, by a name of loopback; served to others, by whatever name they know us."""
        return not is_loopback(self.host) or is_loopback(host)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def dashboard_app(storage: str, host: str, *, write: bool = False) -> WSGIApplication:
    """Return the dashboard of a storage as a WSGI application.

    Raises:
        DatabaseError: there is no such database.
    """
    from optuna_dashboard import wsgi

    with translated(), storage_errors(storage):
        backend = open_to_read(storage)
        if write:
            backend.engine.dispose()
            backend = open_database(storage)
    app: WSGIApplication = wsgi(optuna.storages.get_storage(backend))
    return Guard(app, host, write)


@contextmanager
def serving(storage: str, host: str, port: int, *, write: bool = False) -> Iterator[tuple[str, Callable[[], None]]]:
    """Bind the dashboard; yield its address, and what serves it until the process is interrupted.

    Raises:
        DatabaseError: there is no such database.
        UsageError: the address cannot be served on.
    """
    app = dashboard_app(storage, host, write=write)
    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_Handler)
    except (OSError, OverflowError) as error:
        raise UsageError(f"--host {host} --port {port}: {getattr(error, 'strerror', None) or error}") from error
    with server:
        yield f"http://{host}:{server.server_port}/dashboard/", server.serve_forever


def _refuse(start_response: StartResponse, reason: str) -> Iterable[bytes]:
    body = json.dumps({"reason": reason}).encode()
    start_response("403 Forbidden", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
