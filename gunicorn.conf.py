"""gunicorn loads this file from its working directory. The configuration is in the package."""

from vllm_obtain.server.gunicorn_conf import *  # noqa: F403 - gunicorn reads module attributes
