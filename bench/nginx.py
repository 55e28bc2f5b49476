"""nginx in front of the stub engine's socket: what a relay that reads nothing can do."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.client import Address
from bench.service import free_port, get

# One worker, and a line in a log for each request, as the gateway has.
_CONF = """
daemon off;
{user}
worker_processes 1;
pid {place}/nginx.pid;
error_log {place}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {place}/access.log;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    keepalive_requests 1000000;
    upstream engine {{
        server unix:{engine};
        keepalive 64;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx."""

    address: Address
    worker: psutil.Process


def installed() -> str | None:
    """Find nginx; Debian puts it where only root looks."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def proxying(engine: Address) -> Iterator[Nginx | None]:
    """Run nginx in front of an engine's socket; nothing when it is not installed."""
    program = installed()
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        port = free_port()
        # Its worker must reach a socket that only this user may open.
        user = "user root;" if os.getuid() == 0 else ""
        conf = Path(place) / "nginx.conf"
        conf.write_text(_CONF.format(place=place, port=port, engine=engine.path, user=user))
        process = subprocess.Popen(
            [program, "-p", place, "-c", str(conf)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield _started(process, port)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(process: subprocess.Popen[bytes], port: int) -> Nginx | None:
    end = time.monotonic() + 5
    while get(port, "/health") != 200:
        if process.poll() is not None or time.monotonic() > end:
            return None
        time.sleep(0.05)
    return Nginx(Address(port=port), psutil.Process(process.pid).children()[0])
