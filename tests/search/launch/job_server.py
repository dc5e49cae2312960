"""A stand-in for a cluster's dashboard: one job, whose log grows, behind connections that break."""

import asyncio
import threading
from collections.abc import Callable
from importlib import metadata

from aiohttp import web

TOKEN = "the-token"


class JobServer:
    """``pieces`` of the log come one every ``pause`` seconds, whoever listens; the connection of
    each listener is cut after the number of pieces that ``cuts`` says next."""

    def __init__(self, pieces: list[str], exit_code: int = 0, cuts=(), pause: float = 0.05):
        self.pieces, self.exit_code, self.pause = pieces, exit_code, pause
        self.cuts = list(cuts)
        self.listened, self.submitted, self.knows = 0, [], True
        self.status = "SUCCEEDED" if exit_code == 0 else "FAILED"
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "JobServer":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(middlewares=[self._authenticate])
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/{job}", self._info)
        app.router.add_get("/api/jobs/{job}/logs/tail", self._tail)
        app.router.add_get("/api/packages/{scheme}/{name}", self._have)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.port = site._server.sockets[0].getsockname()[1]
        self._began = self._loop.time()
        self._ready.set()
        self._loop.run_forever()

    def _grown(self) -> int:
        """Pieces that the log has by now."""
        return min(len(self.pieces), int((self._loop.time() - self._began) / self.pause))

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401, text="Unauthorized: a token is needed")
        return await handler(request)

    async def _version(self, request: web.Request) -> web.Response:
        version = {"ray_version": metadata.version("ray"), "version": "4", "ray_commit": ""}
        return web.json_response({**version, "session_name": "session"})

    async def _have(self, request: web.Request) -> web.Response:
        return web.Response(text="it is here already")

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.submitted.append(body)
        name = body["submission_id"]
        return web.json_response({"job_id": name, "submission_id": name})

    def _details(self, job: str) -> dict:
        ended = self._grown() == len(self.pieces)
        return {
            "type": "SUBMISSION",
            "submission_id": job,
            "entrypoint": "",
            "status": self.status if ended else "RUNNING",
            "start_time": 1,
            "metadata": {"run": "/mnt/runs/first"},
            "driver_exit_code": self.exit_code if ended else None,
        }

    async def _list(self, request: web.Request) -> web.Response:
        jobs = [{**self._details(f"raysearch-{n}"), "start_time": n} for n in (1, 3, 2)]
        return web.json_response([*jobs, {**self._details("another"), "start_time": 9}])

    async def _info(self, request: web.Request) -> web.Response:
        if not self.knows:
            return web.Response(status=404, text="Job does not exist")
        return web.json_response(self._details(request.match_info["job"]))

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        self.listened += 1
        cut = self.cuts.pop(0) if self.cuts else None
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sent = 0
        while sent < len(self.pieces):
            if sent == cut:
                request.transport.abort()  # as ssh does when it dies: no closing words
                return socket
            if sent < self._grown():
                await socket.send_str(self.pieces[sent])
                sent += 1
            else:
                await asyncio.sleep(self.pause / 5)
        await socket.close()
        return socket
