"""Update downloaded models, for cron. The same as `vllm-obtain update`.

python scripts/update_models.py --check
"""

from __future__ import annotations

import typer

from vllm_obtain.cli.models import update

if __name__ == "__main__":
    typer.run(update)
