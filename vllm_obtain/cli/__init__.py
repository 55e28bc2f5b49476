"""The `vllm-obtain` command. What a command needs is imported when it runs."""

from vllm_obtain.cli.app import app

__all__ = ["app"]
