"""The vLLM engine: its adapter and its server process."""
