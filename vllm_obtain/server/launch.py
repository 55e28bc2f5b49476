"""Starts the service: the development server, or gunicorn in place of this process."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Literal, NoReturn

from vllm_obtain import core_dumps
from vllm_obtain.access import secret_checks, tls
from vllm_obtain.access.loopback import require_keys
from vllm_obtain.config.settings import Settings, load_settings
from vllm_obtain.config.sources import export_otel
from vllm_obtain.control import runtime_dir
from vllm_obtain.download.bundled_model import ensure_a_model
from vllm_obtain.engines.selection import probe_all
from vllm_obtain.errors import ServiceError, SettingsError, StartError

Mode = Literal["dev", "prod"]


def launch(mode: Mode, fetch: bool = True) -> NoReturn:
    """Run the service. Prints the error and exits 1 if it cannot start.

    Args:
        mode: `dev` for Flask's server with reload, `prod` for gunicorn with gevent.
        fetch: whether to download the small bundled model if MODELS_DIR has no model.
    """
    try:
        settings = load_settings()
        core_dumps.forbid(settings)
        if not _is_reloaded():
            _check(settings)
            if fetch:
                ensure_a_model(settings.models_dir)
            # Done once before gunicorn starts, because its master must only have worker children.
            probe_all(settings)
        if mode == "prod":
            _gunicorn()
        development(settings, reload=True)
    except (SettingsError, StartError, ServiceError) as error:
        sys.exit(str(error))
    sys.exit(0)


def serve_here() -> NoReturn:
    """Run Flask's server in this process for `python -m src.api.app`. DEBUG enables reload."""
    try:
        settings = load_settings()
        core_dumps.forbid(settings)
        if not _is_reloaded():
            _check(settings)
        development(settings, reload=settings.debug)
    except (SettingsError, StartError, ServiceError) as error:
        sys.exit(str(error))
    sys.exit(0)


def development(settings: Settings, reload: bool) -> None:
    """Run Flask's development server.

    Args:
        settings: settings of the service.
        reload: whether to restart the gateway on code changes; engines stay loaded.
    """
    from werkzeug.serving import run_simple

    from vllm_obtain.gateway.app import OWNER_VARIABLE, create_app
    from vllm_obtain.gateway.core.services import EXTENSION
    from vllm_obtain.server.startup_banner import announce

    if reload:
        settings = settings.model_copy(update={"debug": True})
        os.environ["DEBUG"] = "true"
        if not _is_reloaded():
            # The first process only watches files and outlives its children, so it is the owner.
            os.environ[OWNER_VARIABLE] = str(os.getpid())
            runtime_dir.begin_service(settings.port)
            run_simple(settings.host, settings.port, _nothing, use_reloader=True)
            return
    if not reload:
        runtime_dir.begin_service(settings.port)
    encryption = tls.context(settings)
    export_otel(Path(".env"))
    app = create_app(settings)
    secret_checks.warn(settings, Path(".env"))
    services = app.extensions[EXTENSION]
    threading.Thread(target=announce, args=(services,), daemon=True).start()
    run_simple(
        settings.host,
        settings.port,
        app,
        threaded=True,
        use_reloader=reload,
        ssl_context=encryption,
    )


def require_free(host: str, port: int) -> None:
    """Check that the address is free.

    Raises:
        StartError: the address is in use, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}. "
                "Stop the program that uses it, or set another PORT or HOST."
            ) from error


def _check(settings: Settings) -> None:
    """Check the settings before anything is downloaded or started."""
    tls.context(settings)
    require_keys(settings, [settings.host])
    require_free(settings.host, settings.port)


def _gunicorn() -> NoReturn:
    command = ["gunicorn", "-c", "python:vllm_obtain.server.gunicorn_conf"]
    os.execv(  # noqa: S606 - runs this interpreter, no shell
        sys.executable, [sys.executable, "-m", *command, "vllm_obtain.gateway.app:create_app()"]
    )


def _is_reloaded() -> bool:
    return os.environ.get("WERKZEUG_RUN_MAIN") == "true"


def _nothing(*_: object) -> list[bytes]:
    return []
