"""One OpenAI-compatible service over MLX, vLLM and llama.cpp."""

__version__ = "0.2.0"
