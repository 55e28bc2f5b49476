"""Detects the stages of vLLM's startup in its output. Pure; each line is matched alone."""

from __future__ import annotations

import re

# In startup order. The patterns match the output of vLLM 0.24 (GPU) and 0.32 (CPU).
_SIGNS = (
    ("importing", r"version \d+\.\d+\S*\s*$|Resolved architecture|Initializing a V1 LLM engine"),
    ("loading weights", r"Starting to load model|Loading \S+ checkpoint shards"),
    (
        # Includes compilation: the first step is compiled and run, and its memory measured.
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
    """Return the startup stage that a line of output belongs to.

    Returns:
        importing, loading weights, profiling memory, warming up or serving; None for other lines.
    """
    return next((name for name, pattern in _STAGES if pattern.search(line)), None)
