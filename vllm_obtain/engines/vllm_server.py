"""Shim for a running 0.1.0, removed in 0.3.0: `engines/vllm/server.py`."""

import runpy
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):
    runpy.run_path(str(Path(__file__).parent / "vllm/server.py"), run_name=__name__)
