"""Shim for a running 0.1.0, removed in 0.3.0: `server/upgrade/pid_holder.py`."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(
        str(Path(__file__).parents[1] / "server/upgrade/pid_holder.py"), run_name=__name__
    )
