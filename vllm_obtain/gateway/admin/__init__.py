"""Management routes: models, downloads, updates, keys, quarantine, status."""
