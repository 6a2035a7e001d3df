"""The pages of runs over HTTP, on this machine only: live, and with parts of videos, so that they can be sought in."""

from __future__ import annotations

import asyncio
import collections
import errno
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import hdrs, web

from arena_ray.errors import ArenaError, RunDirError
from arena_ray.json_files import strict_json
from arena_ray.report.run_index import index_html
from arena_ray.report.served_files import CONTENT_TYPES, find_file, find_run
from arena_ray.report.served_run import ServedRun

#: Only programs on this machine can reach it.
HOST = "127.0.0.1"

DEFAULT_PORT = 8264

#: So many ports after the default one are tried.
MOST_PORTS = 100

#: Names by which this machine calls itself. Other names in a request come from pages elsewhere (DNS rebinding).
OWN_NAMES = {"127.0.0.1", "localhost", "[::1]"}

#: Runs that are kept in memory while an index is served.
MOST_OPEN_RUNS = 4

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Refuse what no page of ours asks."""
    host = request.headers.get(hdrs.HOST, "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name.lower() not in OWN_NAMES:
        raise web.HTTPForbidden(text="this server answers only to 127.0.0.1 and localhost")
    if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
        raise web.HTTPMethodNotAllowed(request.method, [hdrs.METH_GET, hdrs.METH_HEAD])
    return await handler(request)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


class Site:
    """Answers requests about one run, or about the runs in a folder.

    Args:
        target: A run directory, or a folder of them.

    Raises:
        RunDirError: If it is neither.
    """

    def __init__(self, target: Path) -> None:
        if not target.is_dir():
            raise RunDirError(f"{str(target)!r} is no directory; give the folder of a run, or one with runs in it")
        self._target = target
        self._lock = threading.Lock()
        self._runs: collections.OrderedDict[Path, ServedRun] = collections.OrderedDict()
        self._single = (target / "run.json").is_file() or (target / "episodes.jsonl").is_file()
        if self._single:
            self._runs[target] = ServedRun(target)

    def app(self) -> web.Application:
        """Return what aiohttp serves."""
        app = web.Application(middlewares=[_guard])
        app.on_response_prepare.append(_add_headers)
        prefix = "" if self._single else "/{run}"
        if not self._single:
            app.router.add_get("/", self._index)
            app.router.add_get("/{run}", self._to_folder)
        app.router.add_get(f"{prefix}/", self._page)
        app.router.add_get(f"{prefix}/report.html", self._page)
        app.router.add_get(f"{prefix}/_api/updates", self._updates)
        app.router.add_get(f"{prefix}/{{file:.+}}", self._file)
        return app

    def _run_path(self, request: web.Request) -> Path:
        if self._single:
            return self._target
        path = find_run(self._target, request.match_info["run"])
        if path is None:
            raise web.HTTPNotFound(text="there is no such run")
        return path

    def _run(self, path: Path) -> ServedRun:
        with self._lock:
            run = self._runs.get(path)
            if run is None:
                run = self._runs[path] = ServedRun(path)
            self._runs.move_to_end(path)
            while len(self._runs) > MOST_OPEN_RUNS:
                self._runs.popitem(last=False)
            return run

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return _html(await asyncio.to_thread(index_html, self._target))

    async def _to_folder(self, request: web.Request) -> web.StreamResponse:
        path = self._run_path(request)
        raise web.HTTPFound(f"/{path.name}/")

    async def _page(self, request: web.Request) -> web.StreamResponse:
        path = self._run_path(request)
        try:
            return _html(await asyncio.to_thread(lambda: self._run(path).page()))
        except RunDirError as error:
            return web.Response(status=503, text=str(error))

    async def _updates(self, request: web.Request) -> web.StreamResponse:
        path, query = self._run_path(request), request.query
        try:
            after, errors = int(query.get("after", "0")), int(query.get("errors", "0"))
        except ValueError:
            raise web.HTTPBadRequest(text="after and errors are numbers") from None
        epoch, stamp = query.get("epoch", ""), query.get("stamp", "")
        try:
            content = await asyncio.to_thread(
                lambda: strict_json(self._run(path).updates(epoch, after, errors, stamp)).encode("utf-8", "replace")
            )
        except RunDirError as error:
            return web.Response(status=503, text=str(error))
        return web.Response(body=content, content_type="application/json", charset="utf-8")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = find_file(self._run_path(request), request.match_info["file"])
        if path is None:
            raise web.HTTPNotFound(text="there is no such file of the run")
        kind = CONTENT_TYPES[path.suffix]
        charset = "; charset=utf-8" if kind.startswith("text/") else ""
        return web.FileResponse(path, headers={hdrs.CONTENT_TYPE: kind + charset})


def _html(text: str) -> web.Response:
    return web.Response(body=text.encode("utf-8", "replace"), content_type="text/html", charset="utf-8")


def serve(target: Path, port: int | None, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        target: A run directory, or a folder of them.
        port: Where; 0: any free one; ``None``: `DEFAULT_PORT`, or the next free one.
        announce: Called with the address once it answers.

    Raises:
        RunDirError: If `target` is neither.
        ArenaError: If the port is taken.
    """
    asyncio.run(_serve(Site(target).app(), port, announce))


async def _serve(app: web.Application, port: int | None, announce: Callable[[str], None]) -> None:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        taken = await _listen(runner, port)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        announce(f"http://{HOST}:{taken}/")
        await ended.wait()
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, port: int | None) -> int:
    """Return the port that answers now."""
    for number in range(DEFAULT_PORT, DEFAULT_PORT + MOST_PORTS) if port is None else [port]:
        try:
            await web.TCPSite(runner, HOST, number).start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port is not None:
                raise ArenaError(f"port {number} of {HOST} cannot be had: {error.strerror}; choose another") from error
            continue
        return int(runner.addresses[0][1])
    raise ArenaError(f"ports {DEFAULT_PORT} to {DEFAULT_PORT + MOST_PORTS - 1} of {HOST} are taken; give one: --port N")
