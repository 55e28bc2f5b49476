"""Shim for a running 0.1.0, removed in 0.3.0: `vllm_obtain.gateway.app`."""

from vllm_obtain.gateway.app import create_app

__all__ = ["create_app"]
