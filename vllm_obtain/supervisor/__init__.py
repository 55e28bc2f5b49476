"""The process that owns every engine: starts, watches, restarts and evicts them, and counts."""
