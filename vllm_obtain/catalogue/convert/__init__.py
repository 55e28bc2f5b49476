"""Makes MLX and Hugging Face folders from GGUF files, and GGUF files from folders with encoders.

`plan` and the reading of progress are for our own processes and import nothing heavy. The work is
done by a child process, `python -m vllm_obtain.catalogue.convert`, which imports numpy, gguf and
tokenizers.
"""

from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.jobs import Target
from vllm_obtain.catalogue.convert.plan import Plan, plan
from vllm_obtain.catalogue.convert.progress import Progress, read_line

__all__ = ["ConversionError", "Plan", "Progress", "Target", "plan", "read_line"]
