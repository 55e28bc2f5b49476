"""Admission: which request runs next, on which slot, and which ones wait or are rejected."""
