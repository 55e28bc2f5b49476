"""The path of an inference request, the same for all APIs; start at `handler.py`."""
