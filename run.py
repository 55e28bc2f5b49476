"""`python run.py --mode dev|prod`: start the service."""

import argparse

from vllm_obtain.server.launch import launch

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Start vllm-obtain.")
    parser.add_argument(
        "--mode",
        choices=("dev", "prod"),
        default="prod",
        help="prod: gunicorn with gevent (default); dev: Flask's server, reloads on code changes",
    )
    parser.add_argument(
        "--no-fetch",
        action="store_true",
        help="do not download a small model if MODELS_DIR is empty",
    )
    arguments = parser.parse_args()
    launch(arguments.mode, fetch=not arguments.no_fetch)
