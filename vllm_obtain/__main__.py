"""`python -m vllm_obtain`: the same as the `vllm-obtain` command."""

from vllm_obtain.cli import app

if __name__ == "__main__":
    app(prog_name="vllm-obtain")
