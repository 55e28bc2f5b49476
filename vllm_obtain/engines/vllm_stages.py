"""How far vLLM's start has come, read from what it prints. Pure; each line stands for itself."""

from __future__ import annotations

import re

# In the order of a start. The words are vLLM's own, as 0.24 (GPU) and 0.32 (CPU) print them.
_SIGNS = (
    ("importing", r"version \d+\.\d+\S*\s*$|Resolved architecture|Initializing a V1 LLM engine"),
    ("loading weights", r"Starting to load model|Loading \S+ checkpoint shards"),
    (
        # Compiling is part of it: the first step is compiled, run, and its memory measured.
        "profiling memory",
        r"Loading weights took|Model loading took|Dynamo bytecode transform|Compiling a graph for"
        r"|torch\.compile took|Explicitly set .* for KV cache|Profiling CUDA graph memory"
        r"|Available KV cache memory",
    ),
    (
        "warming up",
        r"KV cache size: |Capturing CUDA graphs|Graph capturing finished|init engine \(",
    ),
    ("serving", r"Starting vLLM (API )?server|Application startup complete"),
)
_STAGES = [(name, re.compile(pattern)) for name, pattern in _SIGNS]


def stage(line: str) -> str | None:
    """Name the part of the start that a line of output belongs to.

    Returns:
        importing, loading weights, profiling memory, warming up or serving; None when the line
        says nothing about it.
    """
    return next((name for name, pattern in _STAGES if pattern.search(line)), None)
