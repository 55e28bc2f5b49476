"""Shim for a running 0.1.0, removed in 0.3.0: `engines/llama_cpp/server.py`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parent / "llama_cpp/server.py"), run_name=__name__)
