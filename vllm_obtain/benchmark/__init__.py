"""Load test of a running service over HTTP. Imports nothing of the service."""
