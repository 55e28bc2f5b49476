"""The supervisor process: it starts, monitors, restarts and evicts engines, and counts metrics."""
