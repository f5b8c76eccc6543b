"""From a searcher to a server that answers: socket, token, uvicorn."""

import errno
import ipaddress
import logging
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn

from xvoken.ask.searcher import Searcher
from xvoken.errors import UserError
from xvoken.serve.app import make_app
from xvoken.serve.guard import HEADER, Access, Patient
from xvoken.serve.rates import Rates
from xvoken.serve.service import Service

CONNECTIONS = 300


@dataclass(frozen=True)
class Door:
    """Where and to whom a server answers: the socket that it listens at, the token that it asks for, and its address with that."""

    listening: socket.socket
    access: Access
    url: str


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_door(host: str, port: int, token: str | None, rate: float, another: str) -> Door:
    """Listen at an address, before anything slow is done; a browser that comes early waits.

    port: 0 for any free one; token: None for none, or one that is made where others than this machine can ask; "" for one that is
    made; rate: requests a second of one client; another: the command that takes another port, for the message.
    Raises UserError for an address that can't be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else an answer's last bytes wait 40 ms; asyncio sets it on others
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError: a name that can't be one
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is taken; take another one with: {another}") from None
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: can't listen there ({why}); give this machine's own address") from None
    if token == "" or (token is None and not is_loopback(host)):
        token = secrets.token_urlsafe(24)
    names = ["localhost", host.lower(), *([] if is_loopback(host) else [socket.gethostname().lower(), socket.getfqdn().lower()])]
    access = Access(token, tuple(dict.fromkeys(names)), not is_loopback(host), Rates(rate), secrets.token_urlsafe(16))
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return Door(listening, access, f"http://{shown}:{listening.getsockname()[1]}/{f'#token={token}' if token else ''}")


def _is_failure(record: logging.LogRecord) -> bool:
    """Whether uvicorn tells of an error of ours, not of requests that are no HTTP, by which a stranger could fill the log."""
    return bool(record.exc_info)


def make_server(searcher: Searcher, door: Door) -> tuple[uvicorn.Server, Service]:
    """A server that is warm: its first answer takes no longer than later ones."""
    service = Service(searcher)
    service.warm_up()
    logging.getLogger("uvicorn.error").addFilter(_is_failure)
    config = uvicorn.Config(
        make_app(service, door.access), http=Patient, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False,
        server_header=False, limit_concurrency=CONNECTIONS, h11_max_incomplete_event_size=HEADER, timeout_graceful_shutdown=1,
    )  # fmt: skip
    return uvicorn.Server(config), service


def serve(searcher: Searcher, door: Door, ready: Callable[[str], None]) -> None:
    """Answer until Ctrl-C, which raises KeyboardInterrupt; ready: called with the server's address when it is warm."""
    server, service = make_server(searcher, door)
    try:
        ready(door.url)
        server.run(sockets=[door.listening])
    finally:
        service.close()
