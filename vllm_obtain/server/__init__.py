"""The HTTP server: gunicorn configuration, start, draining and in-place upgrade."""
