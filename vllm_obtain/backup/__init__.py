"""Backs up and restores the settings, API keys, catalog, logs and models of a service."""
