"""The page, served: on this machine only unless told otherwise, and so that strangers can do no harm.

Nothing but the page's own routes is answered, nothing but pictures that were sent is given out, and the page loads nothing
from elsewhere.
"""

import contextlib
import errno
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import CnnzooError, shown_path
from ._models import Models
from ._page import CSS, gradio, page

HOST, PORT = "127.0.0.1", 7860
MAX_BYTES = 20_000_000  # of a picture that is sent
_SMALL = 2_000_000  # bytes of any other question, a sketch among them, and of what stands around a picture
_MAX_SENT = 1_000_000_000  # bytes of all pictures that are kept, which is for an hour at most
_WAITING = 100  # questions in the queue; more are told to come later
_AT_ONCE = 4

_API = "/gradio_api"
_ROUTES = re.compile(
    rf"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/.*"
    rf"|{_API}/(info|queue/join|queue/data|upload|upload_progress|heartbeat/\w+|startup-events|theme\.css|app_id|cancel|reset)/?"
    rf"|{_API}/(component_server/?|file=.*)"
)
# The browser itself refuses whatever is not of this page. Gradio's scripts and the sketch pad's need the two "unsafe".
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; form-action 'self'; base-uri 'self'"
)
# Gradio reads these, and each would undo something here.
_CLEARED = ("GRADIO_SHARE", "GRADIO_ALLOWED_PATHS", "GRADIO_NUM_WORKERS", "GRADIO_WATCH_DIRS", "GRADIO_VIBE_MODE")


def launch(model: str | None = None, host: str = HOST, port: int = PORT, ready: Callable[[str], None] = print) -> None:
    """Serves the page until Ctrl-C (`KeyboardInterrupt`).

    Args:
        model: A MODEL to begin with (see `resolve`), besides every pretrained one of the zoo.
        host: The address to listen at; the default can be reached from this machine only, `0.0.0.0` from everywhere.
        port: 1 to 65535.
        ready: Is told the page's address, once it can be opened.

    Raises:
        CnnzooError: The extra is not installed, the model cannot be loaded, or the address cannot be used.
    """
    with serving(model, host, port) as url:
        ready(url)
        while True:
            time.sleep(1)


@contextlib.contextmanager
def serving(model: str | None = None, host: str = HOST, port: int = PORT) -> Iterator[str]:
    """The page's address; it is served as long as the block lasts, and what was sent to it is deleted at the end.

    Raises:
        CnnzooError: As `launch`.
    """
    gr = gradio()
    check_address(host, port)
    models = Models(model)
    scratch = tempfile.TemporaryDirectory(prefix="cnnzoo-app-", ignore_cleanup_errors=True)
    with scratch as folder, _environment(folder, host):
        blocks = page(models)
        blocks.queue(default_concurrency_limit=_AT_ONCE, max_size=_WAITING)
        off = ("share", "ssr_mode", "mcp_server", "pwa", "run_history", "enable_monitoring")
        theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
        try:
            _, url, _ = blocks.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, max_file_size=MAX_BYTES,
                footer_links=[], css_paths=CSS, theme=theme, app_kwargs=dict(middleware=_middleware(folder)),
                **dict.fromkeys(off, False),
            )  # fmt: skip
        except Exception as e:  # of Gradio, httpx or uvicorn
            blocks.close(verbose=False)
            raise CnnzooError(
                f"The page cannot be served at {host}, port {port} ({type(e).__name__}: {str(e)[:200]}). Type: cnnzoo app "
                f"--host {HOST} --port {PORT}"
            ) from e
        try:
            yield url
        finally:
            blocks.close(verbose=False)


def check_address(host: str, port: int) -> None:
    """Whether the page can be served there.

    Raises:
        CnnzooError: It cannot: the port is in use, say.
    """
    if ":" in host:
        raise CnnzooError(
            f"The page cannot be served at {shown_path(host)}: only IPv4 addresses and names are allowed. Type: cnnzoo app "
            f"--host {HOST}"
        )
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just ended does not count
            probe.bind(address)
    except (OSError, OverflowError, ValueError) as e:
        if getattr(e, "errno", None) == errno.EADDRINUSE:
            raise CnnzooError(
                f"Port {port} of {host} is in use; a free port is needed. Type: cnnzoo app --port {port % 65535 + 1}"
            ) from e
        reason = getattr(e, "strerror", None) or " ".join(str(e).split())[:100]
        raise CnnzooError(
            f"The page cannot be served at {shown_path(host)}, port {port} ({reason}). Allowed is an address of this "
            f"machine with a port from 1024 to 65535. Type: cnnzoo app --host {HOST} --port {PORT}"
        ) from e


@contextlib.contextmanager
def _environment(folder: str, host: str) -> Iterator[None]:
    """Tells Gradio where to put what is sent, and takes away what it would read; all is as before at the end.

    Gradio asks its own page whether it is there, which no proxy can answer.
    """
    before = dict(os.environ)
    for name in _CLEARED:
        os.environ.pop(name, None)
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY"), os.environ.get("no_proxy"), "localhost", HOST, host)))
    told = dict(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False", NO_PROXY=direct, no_proxy=direct)
    os.environ.update(told)
    try:
        yield
    finally:
        for name in (*_CLEARED, *told):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _middleware(folder: str) -> list[Any]:
    from starlette.middleware import Middleware

    return [Middleware(_Gate, folder=folder)]


class _Gate:
    """In front of Gradio: answers the page's own routes only, and tells browsers to load nothing from elsewhere."""

    def __init__(self, app: Any, folder: str) -> None:
        self.app, self.folder = app, os.path.realpath(folder)

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = self._refusal(scope)

        async def with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()), (b"content-security-policy", _POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"),
                ]  # fmt: skip
            await send(message)

        if status:
            await with_policy(dict(type="http.response.start", status=status, headers=[(b"content-type", b"text/plain")]))
            await send(dict(type="http.response.body", body=b"Not of this page."))
        else:
            await self.app(scope, receive, with_policy)

    def _refusal(self, scope: dict) -> int | None:
        """The status of a request that is not answered."""
        path = scope["path"]
        if not _ROUTES.fullmatch(path):
            return 404
        if path.startswith(f"{_API}/file="):
            place = os.path.realpath(path.partition("file=")[2])
            return None if place.startswith(self.folder + os.sep) else 403
        if scope["method"] != "POST":
            return None
        length = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
        if not length.isdecimal():
            return 411
        upload = path.startswith(f"{_API}/upload")
        if int(length) > (MAX_BYTES + _SMALL if upload else _SMALL):
            return 413
        return 507 if upload and _size(self.folder) > _MAX_SENT else None


def _size(folder: str) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # it may have just been deleted
                total += os.stat(os.path.join(place, name)).st_size
    return total
