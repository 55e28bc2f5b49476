"""Starting the service from Python: the development server, or gunicorn in this process's place."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from typing import Literal, NoReturn

from vllm_obtain import cores
from vllm_obtain.access import tls, weak
from vllm_obtain.access.binding import require_keys
from vllm_obtain.catalogue.embedded import ensure_a_model
from vllm_obtain.engines.choice import warm
from vllm_obtain.errors import ServiceError, SettingsError, StartError
from vllm_obtain.settings import Settings, load_settings
from vllm_obtain.supervisor import runtime

Mode = Literal["dev", "prod"]


def launch(mode: Mode, fetch: bool = True) -> NoReturn:
    """Serve until the end; prints one sentence and exits 1 when that is impossible.

    Args:
        mode: `dev` for Flask's server with reload, `prod` for gunicorn with gevent.
        fetch: whether to fetch the small embedded model when MODELS_DIR holds none.
    """
    try:
        settings = load_settings()
        cores.forbid(settings)
        if not _is_reloaded():
            _check(settings)
            if fetch:
                ensure_a_model(settings.models_dir)
            # Once, before there are workers; not in gunicorn's master, which shall have no children
            # but them.
            warm(settings)
        if mode == "prod":
            _gunicorn()
        development(settings, reload=True)
    except (SettingsError, StartError, ServiceError) as error:
        sys.exit(str(error))
    sys.exit(0)


def serve_here() -> NoReturn:
    """`python -m src.api.app`: Flask's server in this process, reloading when DEBUG is on."""
    try:
        settings = load_settings()
        cores.forbid(settings)
        if not _is_reloaded():
            _check(settings)
        development(settings, reload=settings.debug)
    except (SettingsError, StartError, ServiceError) as error:
        sys.exit(str(error))
    sys.exit(0)


def development(settings: Settings, reload: bool) -> None:
    """Serve with Flask's own server.

    Args:
        settings: the owner's settings.
        reload: whether a change of the code starts the gateway again; engines stay loaded.
    """
    from werkzeug.serving import run_simple

    from vllm_obtain.announce import announce
    from vllm_obtain.api.app import OWNER_VARIABLE, create_app
    from vllm_obtain.api.services import EXTENSION

    if reload:
        settings = settings.model_copy(update={"debug": True})
        os.environ["DEBUG"] = "true"
        if not _is_reloaded():
            # The first process only watches files; its children come and go, so it is the owner.
            os.environ[OWNER_VARIABLE] = str(os.getpid())
            runtime.begin_service(settings.port)
            run_simple(settings.host, settings.port, _nothing, use_reloader=True)
            return
    if not reload:
        runtime.begin_service(settings.port)
    encryption = tls.context(settings)
    app = create_app(settings)
    weak.warn(settings, Path(".env"))
    made = app.extensions[EXTENSION]
    threading.Thread(target=announce, args=(made,), daemon=True).start()
    run_simple(
        settings.host,
        settings.port,
        app,
        threaded=True,
        use_reloader=reload,
        ssl_context=encryption,
    )


def require_free(host: str, port: int) -> None:
    """Check that nobody listens where the service will.

    Raises:
        StartError: somebody does, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"Cannot listen on {host}:{port}: {error.strerror or error}. "
                "Stop what uses it, or set another PORT or HOST."
            ) from error


def _check(settings: Settings) -> None:
    """Find what would stop the service, before anything is fetched or started."""
    tls.context(settings)
    require_keys(settings, [settings.host])
    require_free(settings.host, settings.port)


def _gunicorn() -> NoReturn:
    command = ["gunicorn", "-c", "python:vllm_obtain.gunicorn_conf"]
    os.execv(  # noqa: S606 - our own interpreter, no shell
        sys.executable, [sys.executable, "-m", *command, "vllm_obtain.api.app:create_app()"]
    )


def _is_reloaded() -> bool:
    return os.environ.get("WERKZEUG_RUN_MAIN") == "true"


def _nothing(*_: object) -> list[bytes]:
    return []
