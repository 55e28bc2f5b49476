"""The MLX engine: its adapter, and our OpenAI-compatible server."""
