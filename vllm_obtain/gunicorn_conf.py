"""Shim for a running 0.1.0, removed in 0.3.0: `vllm_obtain.server.gunicorn_conf`."""

from vllm_obtain.server.gunicorn_conf import *  # noqa: F403 - gunicorn reads module attributes
