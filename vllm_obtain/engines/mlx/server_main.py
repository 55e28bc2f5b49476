"""The MLX engine process: imports the folder `server/` beside this file as a package and runs it.

Started as `python -P server_main.py '{"model": …, "socket": …}'`, possibly by a Python that has
only MLX installed. So the folder is imported under a name of its own and `sys.path` is unchanged.
With our folders on it, `import mlx` would find our `mlx/` instead of Apple's. With the gateway's
packages on it (`PYTHONPATH`, `-m`), a separate Python for the engine would have no effect.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGE = "vllm_obtain_mlx"


def main() -> None:
    """Serve until killed."""
    folder = Path(__file__).with_name("server")
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None  # noqa: S101 - the file is ours
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    importlib.import_module(f"{PACKAGE}.main").main()


if __name__ == "__main__":
    main()
