"""The images of a request: fetched, looked at, and held to the owner's limits. Never decoded."""
