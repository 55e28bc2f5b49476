"""Shims for a running 0.1.0, removed in 0.3.0."""
