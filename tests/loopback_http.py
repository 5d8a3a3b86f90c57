"""The wire of the loopback Hub: requests to its methods, replies back, and what may go wrong in between."""

import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

ALWAYS = float("inf")  # for a fault that does not go away

ROUTES: list[tuple[str, str, re.Pattern, Callable]] = []  # name, method, path, handler; in the order they are tried


def route(name: str, method: str, path: str) -> Callable:
    """Registers a method of the hub under a path, in which ID, REV and PATH stand for what they say."""
    for word, pattern in dict(ID="(?P<repo_id>[^/]+/[^/]+)", REV="(?P<revision>[^/]+)", PATH="(?P<path>.+)").items():
        path = path.replace(word, pattern)

    def register(function: Callable) -> Callable:
        ROUTES.append((name, method, re.compile(path + r"\Z"), function))
        return function

    return register


@dataclass
class Reply(Exception):
    """An answer; raised where there is nothing more to say."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    server: str  # "hub" or "cdn"
    route: str
    method: str
    path: str
    token: str | None


@dataclass
class Fault:
    """What goes wrong on a route.

    kind: a status, or a function that is called before the request is answered as usual, or
        "reset", "cut", "stall": RST, FIN or silence after `at` bytes of the body;
        "short": a body of `at` bytes that claims to be whole;
        "flip": another last byte of the body, of the request's if it has one;
        "lose": done, and no reply.
    """

    route: str
    kind: Any
    times: float = 1
    at: int = 0
    only: str = ""  # part of the paths that it happens to


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Any
    name: str

    def log_message(self, *args) -> None:
        pass

    def handle_any(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        header = self.headers.get("Authorization") or ""
        self.token = header.removeprefix("Bearer ") or None
        parts = urlsplit(self.path)
        name, function, match = "unknown", None, None
        for known, method, pattern, handler in ROUTES:
            here = (known in ("cdn", "lfs-put")) == (self.name == "cdn")
            if here and method == self.command and (match := pattern.match(parts.path)):
                name, function = known, handler
                break
        self.hub.requests.append(Request(self.name, name, self.command, self.path, self.token))
        fault = self._fault(name)
        if callable(fault.kind):
            fault.kind()
        if isinstance(fault.kind, int):
            echo = f"fault for {header}"  # a server that repeats the token must not make the client print it
            reply = Reply(fault.kind, {"error": echo}, {"X-Error-Message": echo} if fault.at else {})
        elif function is None:
            reply = Reply(404, {"error": f"no route for {self.command} {self.path}"})
        else:
            if fault.kind == "flip" and self.body:
                self.body = self.body[:-1] + bytes([self.body[-1] ^ 1])
            reply = self._answer(function, match.groupdict())
        self._send(reply, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _fault(self, name: str) -> Fault:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.route == name and fault.times > 0 and fault.only in self.path:
                    fault.times -= 1
                    return fault
        return Fault(name, None)

    def _answer(self, function: Callable, groups: dict) -> Reply:
        with self.hub.lock:
            try:
                return Reply(200, function(self.hub, self, **groups))
            except Reply as reply:
                return reply

    def _send(self, reply: Reply, fault: Fault) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        headers = dict(reply.headers)
        if fault.kind == "short":
            body = body[: fault.at]
            headers.pop("Content-Range", None)
        if fault.kind == "flip" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        broken = fault.kind in ("reset", "cut", "stall", "lose")
        if not broken or fault.at:
            self.send_response(reply.status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: fault.at] if broken else body)
        if fault.kind == "stall":
            self.hub.over.wait(30)
        if fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()  # without a FIN before it
        self.close_connection = self.close_connection or broken


def serve(name: str, hub: Any, bound: socket.socket | None) -> ThreadingHTTPServer:
    handler = type(name, (_Handler,), dict(name=name, hub=hub))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler, bind_and_activate=bound is None)
    if bound is not None:
        server.socket.close()
        server.socket, server.server_address = bound, bound.getsockname()
        server.server_activate()
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.05), daemon=True).start()
    return server
