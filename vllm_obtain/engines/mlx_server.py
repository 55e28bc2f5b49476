"""The MLX engine process: makes the folder `mlx/` beside this file a package and runs it.

Started as `python -P mlx_server.py '{"model": …, "socket": …}'`, possibly by a Python that has
only MLX installed. So the folder is loaded under a name of its own, and `sys.path` stays as it
is: with our folders on it, `import mlx` would find `mlx/` here instead of Apple's, and with the
gateway's packages on it (`PYTHONPATH`, `-m`) the engine's own Python would be pointless.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

PACKAGE = "vllm_obtain_mlx"


def main() -> None:
    """Serve until killed."""
    folder = Path(__file__).with_name("mlx")
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None  # noqa: S101 - the file is ours
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    importlib.import_module(f"{PACKAGE}.server").main()


if __name__ == "__main__":
    main()
