"""Shim for a running 0.1.0, removed in 0.3.0: `vllm_obtain.models.convert`."""

import sys

from vllm_obtain.models.convert.__main__ import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
