"""Errors of conversions."""

from __future__ import annotations


class ConversionError(Exception):
    """The model cannot be converted; the message states the reason and the remedy."""
