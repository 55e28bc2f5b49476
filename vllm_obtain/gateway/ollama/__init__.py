"""The Ollama API: translates requests to OpenAI's format, and renders events in Ollama's.

Source: docs/api.md and api/types.go of github.com/ollama/ollama.
"""
