"""The model catalog and the formats of model files; independent of engines and HTTP."""

from vllm_obtain.models.catalog import ModelCatalog
from vllm_obtain.models.model import Model

__all__ = ["Model", "ModelCatalog"]
