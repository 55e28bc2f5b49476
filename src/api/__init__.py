"""See `src/__init__.py`."""
