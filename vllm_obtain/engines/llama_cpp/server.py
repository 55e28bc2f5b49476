"""The llama.cpp engine process: imports only the standard library and xllamacpp.

Started by its guard as `python server.py '{"model": …, "socket": …}'`; serves until it is killed.
`Server()` holds the GIL while it loads, so nothing else can run in this process.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

# Minimum number of repeated tokens before the tokens that followed them are drafted.
_SAME_TOKENS = 4


def parameters(config: dict[str, Any]) -> Any:
    """Translate the adapter's configuration to llama.cpp's parameters."""
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
    # Threads that spin while waiting take CPU time from the gateway and from each other.
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
        # A quantized KV cache requires flash attention, which otherwise depends on the device.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    _set_speculation(params, config)
    if config.get("lora"):
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = config["lora"], 1.0
        params.lora_adapters = [adapter]
    # The gateway renders prompts. The model's own template is a program, which llama.cpp would run
    # while it loads, without limits.
    params.chat_template = "chatml"
    params.ui = False
    params.endpoint_metrics = True
    params.endpoint_slots = True
    # llama.cpp's own keep-alive lines would look like progress of a stalled engine.
    params.sse_ping_interval = -1
    return params


def _set_speculation(params: Any, config: dict[str, Any]) -> None:
    """Set up speculative decoding by a draft model or by n-grams of the text so far."""
    import xllamacpp

    kinds, speculative = xllamacpp.common_speculative_type, params.speculative
    speculative.draft.n_max = config.get("drafted") or speculative.draft.n_max
    if config.get("draft_model"):
        speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        speculative.draft.mparams.path = config["draft_model"]
        speculative.draft.n_gpu_layers = config["n_gpu_layers"]
        speculative.draft.cpuparams.n_threads = config["threads"]
        speculative.draft.cpuparams_batch.n_threads = config["threads_batch"]
        speculative.draft.cpuparams.poll = speculative.draft.cpuparams_batch.poll = 0
    elif config.get("drafted"):
        speculative.types = [kinds.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        speculative.ngram_simple.size_n = _SAME_TOKENS
        speculative.ngram_simple.size_m = config.get("drafted")


def _cache_type(name: str) -> Any:
    import xllamacpp

    return xllamacpp.ggml_type[f"GGML_TYPE_{name.upper()}"]


def main() -> None:
    """Load the model and serve until killed."""
    import xllamacpp

    # The variable keeps the server alive: it stops when it is garbage-collected.
    server = xllamacpp.Server(parameters(json.loads(sys.argv[1])))
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main()
