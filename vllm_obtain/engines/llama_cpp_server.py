"""The llama.cpp engine process: imports only the standard library and xllamacpp.

Started by its guard as `python llama_cpp_server.py '{"model": …, "socket": …}'`; serves until it
is killed. `Server()` holds the GIL while it loads, so nothing else may live in this process.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any


def parameters(config: dict[str, Any]) -> Any:
    """Fill llama.cpp's parameters from the adapter's plan."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = config["model"]
    params.hostnames = [config["socket"]]
    for name in ("n_parallel", "n_ctx", "n_batch", "n_ubatch", "n_threads_http", "n_gpu_layers"):
        setattr(params, name, config[name])
    params.cache_ram_mib = config["cache_ram_mib"]
    params.cpuparams.n_threads = config["threads"]
    params.cpuparams_batch.n_threads = config["threads_batch"]
    # Threads that wait by spinning starve the gateway, and each other when cores are few.
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.kv_unified = True
    params.ui = False
    params.endpoint_metrics = True
    params.endpoint_slots = True
    # Its own keep-alive lines would count as bytes from the engine while nothing happens.
    params.sse_ping_interval = -1
    return params


def main() -> None:
    """Load the model, serve, wait for the end."""
    import xllamacpp

    # The name keeps the server alive: it stops when it is collected.
    server = xllamacpp.Server(parameters(json.loads(sys.argv[1])))
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main()
