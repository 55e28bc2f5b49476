"""The llama.cpp engine: its adapter and its server process."""
