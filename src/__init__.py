"""Kept so that `src.api.app` is this folder, whatever else is installed under the name."""
