"""Ollama's API: its requests made ours, our events told its way.

The standard is its own reference, docs/api.md and api/types.go of github.com/ollama/ollama.
"""
