"""Where models are downloaded from: Hugging Face, ModelScope, PyPI, URLs, local files."""
