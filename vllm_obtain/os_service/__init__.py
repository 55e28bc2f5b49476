"""Installs vllm-obtain as a systemd or launchd service."""
