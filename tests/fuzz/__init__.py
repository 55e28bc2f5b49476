"""Requests made up from the service's own description, by schemathesis: `python -m tests.fuzz`."""
