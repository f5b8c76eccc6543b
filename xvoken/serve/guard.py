"""What is checked before a request is answered: who asks, from which page, how often, and how much is sent."""

import asyncio
import base64
import hmac
import ipaddress
import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response
from h11 import LocalProtocolError
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from xvoken.console import log
from xvoken.errors import one_line
from xvoken.serve.rates import Rates

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

UPLOAD = 20 << 20  # bytes of a picture's file
JSON = 1 << 20
BODIES = {"/api/pictures": UPLOAD, "/knn-service": UPLOAD * 4 // 3 + JSON}  # bytes of a body, others: JSON; base64 takes a third more
HEADER = 16 << 10  # bytes of the address and the headers
TOGETHER = 256 << 20  # bytes of all bodies that are in memory at once; half of them may be one client's
SMALL = 64 << 10  # bytes of a body that is taken in any case, so that large ones never keep a sentence out
EACH = 100  # connections of one client
AT_WORK = 64  # requests of one client that are answered at once
WITHIN = 60.0  # seconds from a connection's first byte, or the end of the answer before, to the end of the answer
ALL = ""  # in the place of a client
OPEN = re.compile(r"/|/assets/[a-z]+\.(css|js|svg)")  # the page itself, which is to be able to ask for the token
# What <img> fetches, which can send no header: the key that the page was told stands in the address.
KEYED = re.compile(r"/(thumbs|pictures|uploads)/[\w-]+")

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}  # fmt: skip


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer as JSON in ASCII, which holds names of files that are no Unicode too."""
    body = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return Response(body, status, {"cache-control": "no-store", **(headers or {})}, "application/json")


def as_error(why: object, status: int, wait: float = 0) -> Response:
    """An answer that says in one line what is wrong; wait: seconds after which it may be tried again."""
    return as_json({"error": one_line(why)[:1000]}, status, {"retry-after": str(int(wait) + 1)} if wait else None)


def client_of(scope: Scope) -> str:
    """The address that a request comes from."""
    return (scope.get("client") or ("unknown",))[0]


class Refused(Exception):
    """A request that is not answered; wait: seconds after which it may be tried again."""

    def __init__(self, status: int, why: str, wait: float = 0):
        super().__init__(why)
        self.status, self.wait = status, wait

    def answer(self) -> Response:
        """What says so; the connection is closed, as not all of the body may have been read."""
        answer = as_error(self, self.status, self.wait)
        answer.headers["connection"] = "close"
        return answer


@dataclass
class Access:
    """Who may ask. token: what they must send (None: nobody must); names: of the machine that a request may be sent to.

    any_address: a request may also name the machine by any of its addresses; rates: how often they may ask.
    """

    token: str | None = None
    names: tuple[str, ...] = ("localhost",)
    any_address: bool = False
    rates: Rates = field(default_factory=lambda: Rates(50))
    key: str = ""  # of the pictures, different at each start

    def check(self, scope: Scope) -> None:
        """Raise Refused for a request that may not be answered."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        given = dict(headers)
        if "content-length" in given and "transfer-encoding" in given:  # a proxy in front may have read another end of the request
            raise Refused(400, "content-length and transfer-encoding exclude each other")
        if len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers) > HEADER:
            raise Refused(431, f"more than {HEADER >> 10} KB of address and headers")
        hosts = [value for name, value in headers if name == "host"]
        if len(hosts) != 1 or not self.is_mine(hosts[0]):  # a page of another site whose name was made to lead here
            raise Refused(421, "the address names another host than this server; take localhost, or start it with --host NAME")
        origin = given.get("origin")
        navigated = scope["path"] == "/" and given.get("sec-fetch-mode") == "navigate"
        elsewhere = given.get("sec-fetch-site", "none") not in ("none", "same-origin") and not navigated
        if elsewhere or (origin is not None and origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}")):
            raise Refused(403, "pages of other sites may not ask this server")
        if wait := self.rates.wait(client_of(scope)):
            raise Refused(429, "too many requests; wait a moment", wait)
        if self.token and not OPEN.fullmatch(scope["path"]) and not self._knows(given, scope):
            raise Refused(401, "a token is needed; the server printed it when it started: Authorization: Bearer TOKEN")

    def is_mine(self, host: str) -> bool:
        """Whether a Host header, with a port or without, names this server."""
        found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:\d{1,5})?", host, re.ASCII | re.IGNORECASE)
        name = found[1].strip("[]").lower().removesuffix(".") if found else ""
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return address.is_loopback or self.any_address or name in self.names

    def _knows(self, headers: dict[str, str], scope: Scope) -> bool:
        kind, _, said = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":  # of addresses such as http://:TOKEN@host/knn-service
            try:
                said = base64.b64decode(said, validate=True).decode("latin-1").partition(":")[2]
            except ValueError:
                return False
        if KEYED.fullmatch(scope["path"]) and (key := re.search(rb"(?:^|&)key=([\w-]+)", scope["query_string"])):
            return hmac.compare_digest(key[1], self.key.encode())
        return kind.lower() in ("bearer", "basic") and hmac.compare_digest(said.encode(), (self.token or "").encode())


class Guard:
    """Lets through what `access` allows and what is not too large, and puts the headers that protect the page on every answer.

    An error of `app` becomes an answer and a line in the log.
    """

    def __init__(self, app: App, access: Access):
        self.app, self.access = app, access
        self.at_work: Counter[str] = Counter()  # requests of each client
        self.held: Counter[str] = Counter()  # bytes of each client's bodies, and of all by ALL

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            return
        started, bounded, client = False, Bounded(self, scope, receive), client_of(scope)

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *((name.encode(), text.encode()) for name, text in HEADERS.items())]
            await send(message)

        self.at_work[client] += 1
        try:
            self.access.check(scope)
            if self.at_work[client] > AT_WORK:
                raise Refused(429, "too many requests at once; wait for answers", 1)
            bounded.announced()
            asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope  # uvicorn leaves the content out
            await self.app(asked, bounded.receive, sending)
        except ClientDisconnect:  # in the midst of what it sends
            pass
        except asyncio.CancelledError:  # Ctrl-C, and what was asked takes longer than uvicorn waits
            if not started:
                await Refused(503, "the server was stopped").answer()(scope, receive, sending)
        except Exception as error:
            refused = error if isinstance(error, Refused) else Refused(500, "the server failed; its log says why")
            if refused is not error:
                log.error(f"{scope['method']} {scope['path']!r}: {type(error).__name__}: {one_line(error)[:500]}")
            if not started:
                await refused.answer()(scope, receive, sending)
        finally:
            bounded.let_go()
            self.at_work[client] -= 1
            self.at_work += Counter()  # forgets clients without any


class Bounded:
    """The body of a request, which is read no further than it may be long."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive):
        self.guard, self.scope, self._receive, self.size = guard, scope, receive, 0
        self.client = client_of(scope)
        self.most = BODIES.get(scope["path"], JSON)

    def announced(self) -> None:
        """Raise Refused for a length that is too large, as the headers say it."""
        length = dict(self.scope["headers"]).get(b"content-length", b"0")
        if int(length if length.isdigit() else b"0") > self.most:
            raise self._too_large()

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part; raises Refused where it, or all requests' together, are too much."""
        message = await self._receive()
        more = len(message.get("body", b""))
        self.size += more
        self.guard.held.update({self.client: more, ALL: more})
        if self.size > self.most:
            raise self._too_large()
        if self.size > SMALL and (self.guard.held[ALL] > TOGETHER or self.guard.held[self.client] > TOGETHER // 2):
            raise Refused(503, "too much is being sent at once; try again in a moment", 5)
        return message

    def let_go(self) -> None:
        """Count what was read no more."""
        self.guard.held.subtract({self.client: self.size, ALL: self.size})
        self.guard.held += Counter()

    def _too_large(self) -> Refused:
        return Refused(413, f"more than {self.most >> 20} MB are not taken here")


class Patient(H11Protocol):
    """uvicorn's HTTP, without patience: a connection whose request is not sent and answered within WITHIN seconds is cut.

    So clients that send their header or body a byte at a time, or do not read the answer, can't hold connections for ever. And who opens
    many loses its own idle ones, so that others get theirs.
    """

    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin to count."""
        super().connection_made(transport)
        self.late = self.loop.call_later(WITHIN, transport.abort)
        everyone = [one for one in self.connections if isinstance(one, Patient)]
        own = [one for one in everyone if one.client and self.client and one.client[0] == self.client[0]]
        if len(own) > EACH:
            self._cut_one_of(own)
        elif self.limit_concurrency and len(everyone) >= self.limit_concurrency:
            self._cut_one_of(everyone)

    def _cut_one_of(self, connections: "list[Patient]") -> None:
        """Cut the one that has waited longest for a whole request; this one, if requests of all others are being answered."""
        idle = [one for one in connections if one is not self and (one.cycle is None or one.cycle.response_complete or one.cycle.more_body)]
        oldest = min(idle, key=lambda one: one.late.when() if one.late else 0.0, default=self)
        self.connections.discard(oldest)
        oldest.transport.abort()

    def handle_events(self) -> None:
        """As uvicorn's, but what is no HTTP behind a request that is answered already ends the connection without a traceback."""
        try:
            super().handle_events()
        except LocalProtocolError:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Count again for the next request on this connection."""
        self._no_longer_late()
        self.late = self.loop.call_later(WITHIN, self.transport.abort)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count no more."""
        self._no_longer_late()
        super().connection_lost(exc)

    def _no_longer_late(self) -> None:
        if self.late:
            self.late.cancel()
