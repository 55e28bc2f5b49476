"""Shim for a running 0.1.0, removed in 0.3.0: `vllm_obtain.download.bundled_model`."""

import sys

from vllm_obtain.download.bundled_model import main

if __name__ == "__main__":
    main(sys.argv[1:])
