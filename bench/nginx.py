"""nginx in front of the stub engine's socket: a relay that forwards bytes."""

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

# One worker and an access log, like the gateway.
_CONF = """
daemon off;
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
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


def find_nginx() -> str | None:
    """Find the nginx binary; Debian installs it outside of users' PATH."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def start_nginx(engine: Address) -> Iterator[Nginx | None]:
    """Run nginx in front of an engine's socket; yields None if it is not installed."""
    program = find_nginx()
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        # The worker must have access to the socket, which only this user can open.
        user = "user root;" if os.getuid() == 0 else ""
        conf = Path(folder) / "nginx.conf"
        conf.write_text(_CONF.format(folder=folder, port=port, engine=engine.path, user=user))
        process = subprocess.Popen(
            [program, "-p", folder, "-c", str(conf)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield _wait(process, port)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], port: int) -> Nginx | None:
    deadline = time.monotonic() + 5
    while get(port, "/health") != 200:
        if process.poll() is not None or time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    return Nginx(Address(port=port), psutil.Process(process.pid).children()[0])
