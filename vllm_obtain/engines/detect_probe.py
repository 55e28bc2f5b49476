"""Shim for a running 0.1.0, removed in 0.3.0: `engines/detection/probe.py`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parent / "detection/probe.py"), run_name=__name__)
