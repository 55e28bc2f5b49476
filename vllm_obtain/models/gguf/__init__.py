"""Readers of GGUF headers."""
