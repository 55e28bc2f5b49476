"""Which models there are and where they come from. Knows files only: no engine, no HTTP."""

from vllm_obtain.catalogue.catalogue import Catalogue
from vllm_obtain.catalogue.model import Model

__all__ = ["Catalogue", "Model"]
