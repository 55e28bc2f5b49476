"""Settings and per-model settings, read once at the start."""
