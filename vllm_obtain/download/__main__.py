"""The download process: `python -m vllm_obtain.download MODEL [--name N] [--format F] [--force]`.

`--task update` downloads the latest revision of MODEL and stages it beside the installed one.
`--task look` compares models with their sources, `--task verify` with their manifests.
Progress is printed as JSON lines. The exit status is 0 on success and 1 after a `failed` line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from vllm_obtain.config.settings import Settings, load_settings
from vllm_obtain.download.download import PullRequest, download_model
from vllm_obtain.download.update import CURRENT, stage
from vllm_obtain.download.update_check import check_updates
from vllm_obtain.download.verify import verify_models
from vllm_obtain.errors import InternalError, SettingsError
from vllm_obtain.models.progress import Progress, print_progress, run_task


def main(arguments: Sequence[str]) -> int:
    """Run one task and report its progress on standard output.

    Args:
        arguments: the command line without the program name.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="python -m vllm_obtain.download")
    parser.add_argument("models", nargs="*")
    parser.add_argument("--task", default="pull", choices=list(_TASKS))
    parser.add_argument("--name", default="")
    parser.add_argument("--format", default="")
    parser.add_argument("--force", action="store_true")
    options = parser.parse_args(arguments)
    return run_task(lambda: _run(options))


def _run(options: argparse.Namespace) -> Progress:
    try:
        return _TASKS[options.task](options, load_settings())
    except SettingsError as error:
        raise InternalError(str(error)) from error


def _pull(options: argparse.Namespace, settings: Settings) -> Progress:
    # The request may come over HTTP from another machine, so local paths are not accepted.
    models = " ".join(options.models)
    request = PullRequest(models, options.name, options.format, options.force, allow_paths=False)
    folder = download_model(request, settings, print_progress)
    return Progress("done", folder.name, path=str(folder))


def _update(options: argparse.Namespace, settings: Settings) -> Progress:
    (name,) = options.models
    folder = stage(name, settings, print_progress)
    if folder is None:
        return Progress("done", name, detail=CURRENT)
    return Progress("staged", name, path=str(folder))


def _check_updates(options: argparse.Namespace, settings: Settings) -> Progress:
    return Progress("done", report=check_updates(settings, options.models))


def _verify(options: argparse.Namespace, settings: Settings) -> Progress:
    return Progress("done", report=verify_models(settings.models_dir, options.models))


_TASKS: dict[str, Callable[[argparse.Namespace, Settings], Progress]] = {
    "pull": _pull,
    "update": _update,
    "look": _check_updates,
    "verify": _verify,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
