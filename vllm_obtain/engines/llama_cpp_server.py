"""The llama.cpp engine process: imports only the standard library and xllamacpp.

Started by its guard as `python llama_cpp_server.py '{"model": …, "socket": …}'`; serves until it
is killed. `Server()` holds the GIL while it loads, so nothing else may live in this process.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

# So many tokens as before have to come again before what followed them is guessed.
_SAME_TOKENS = 4


def parameters(config: dict[str, Any]) -> Any:
    """Fill llama.cpp's parameters from the adapter's plan."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = config["model"]
    if config.get("projector"):
        params.mmproj.path = config["projector"]
    params.hostnames = [config["socket"]]
    for name in ("n_parallel", "n_ctx", "n_batch", "n_ubatch", "n_threads_http", "n_gpu_layers"):
        setattr(params, name, config[name])
    params.cache_ram_mib = config["cache_ram_mib"]
    params.cpuparams.n_threads = config["threads"]
    params.cpuparams_batch.n_threads = config["threads_batch"]
    # Threads that wait by spinning starve the gateway, and each other when cores are few.
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.kv_unified = True
    if config.get("embedding"):
        params.embedding = True
        if (pooling := config.get("pooling")) is not None:
            params.pooling_type = xllamacpp.llama_pooling_type(pooling)
    params.kv_unified_per_slot = config.get("context", 0)
    cache_type = config.get("cache_type", "f16")
    params.cache_type_k = params.cache_type_v = _cache_type(cache_type)
    if cache_type != "f16":
        # A cache of quantised values needs it, and it is chosen by the device otherwise.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    _guess_ahead(params, config)
    if config.get("lora"):
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = config["lora"], 1.0
        params.lora_adapters = [adapter]
    params.ui = False
    params.endpoint_metrics = True
    params.endpoint_slots = True
    # Its own keep-alive lines would count as bytes from the engine while nothing happens.
    params.sse_ping_interval = -1
    return params


def _guess_ahead(params: Any, config: dict[str, Any]) -> None:
    """Have tokens guessed by a smaller model, or found in the text so far."""
    import xllamacpp

    kinds, guesses = xllamacpp.common_speculative_type, params.speculative
    guesses.draft.n_max = config.get("drafted") or guesses.draft.n_max
    if config.get("draft_model"):
        guesses.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        guesses.draft.mparams.path = config["draft_model"]
        guesses.draft.n_gpu_layers = config["n_gpu_layers"]
        guesses.draft.cpuparams.n_threads = config["threads"]
        guesses.draft.cpuparams_batch.n_threads = config["threads_batch"]
        guesses.draft.cpuparams.poll = guesses.draft.cpuparams_batch.poll = 0
    elif config.get("drafted"):
        guesses.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        guesses.ngram_simple.size_n = _SAME_TOKENS
        guesses.ngram_simple.size_m = config.get("drafted")


def _cache_type(name: str) -> Any:
    import xllamacpp

    return xllamacpp.ggml_type[f"GGML_TYPE_{name.upper()}"]


def main() -> None:
    """Load the model, serve, wait for the end."""
    import xllamacpp

    # The name keeps the server alive: it stops when it is collected.
    server = xllamacpp.Server(parameters(json.loads(sys.argv[1])))
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main()
