"""Keeping a copy of what makes a service one's own: settings, keys, names, logs, models."""
