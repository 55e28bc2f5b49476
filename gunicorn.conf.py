"""Found by gunicorn in its working directory; the configuration itself is in the package."""

from vllm_obtain.gunicorn_conf import *  # noqa: F403 - gunicorn reads module attributes
