"""The one error of a conversion."""

from __future__ import annotations


class ConversionError(Exception):
    """The model can't be converted; the message is a sentence that says why and what to do."""
