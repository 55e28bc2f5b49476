"""Converts GGUF models to MLX and Hugging Face folders, and BERT folders to GGUF.

`python -m vllm_obtain.models.convert` runs a conversion in a process of its own and imports
numpy, gguf and tokenizers. This module does not import them, so the supervisor can plan
conversions.
"""

from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.plan import ConversionPlan, plan
from vllm_obtain.models.convert.tensor_jobs import Target

__all__ = ["ConversionError", "ConversionPlan", "Target", "plan"]
