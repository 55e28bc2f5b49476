"""Log setup, formats and files."""

import sys

# structlog imports rich, for tracebacks that are not used here: a third of what this package costs
# at the start of each process, and 80 modules in its memory.
if "structlog" not in sys.modules and "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401 - without rich
    finally:
        del sys.modules["rich"]
