from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.helpers import is_alive, settings_for
from vllm_obtain.config.settings import Settings
from vllm_obtain.control import runtime_dir as module
from vllm_obtain.errors import StartError


@pytest.fixture
def base(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(module, "BASE", runtime)
    yield runtime
    for left in runtime.iterdir():
        shutil.rmtree(left)


def process(*arguments: str) -> subprocess.Popen[bytes]:
    """A process with arguments, in a group of its own, as an engine is."""
    command = [sys.executable, "-ISc", "import time; time.sleep(600)", *arguments]
    return subprocess.Popen(command, process_group=0)


def test_the_folder_is_private_and_short(base: Path) -> None:
    made = module.prepare(65535)
    assert made == module.folder(65535) == module.prepare(65535)
    assert [level.stat().st_mode & 0o777 for level in (made, made.parent)] == [0o700, 0o700]
    assert len("/tmp/" + str(made.relative_to(base) / "e4194304-1000000.sock")) < 104


def test_cleaners_of_old_files_find_none(base: Path) -> None:
    made = module.prepare(65535)
    old = 1_000_000_000
    used = [made / module.SERVICE, made.with_suffix(module.START_LOCK), made / "e1-0.pid"]
    for file in (*used, made / module.CONTROL):
        file.touch()
        os.utime(file, (old, old))
    module.stay(made)
    assert all(file.stat().st_mtime > old for file in used)
    assert (made / module.CONTROL).stat().st_mtime == old, "it tells one socket from another"
    made.with_suffix(module.START_LOCK).unlink()


def test_a_folder_open_to_others_is_closed(base: Path) -> None:
    module.folder(1).mkdir(parents=True)
    module.folder(1).chmod(0o777)
    assert module.prepare(1).stat().st_mode & 0o777 == 0o700


def test_a_place_that_is_taken(base: Path) -> None:
    module.folder(1).parent.symlink_to(base)
    with pytest.raises(StartError, match="belongs to another user"):
        module.prepare(1)
    module.folder(1).parent.unlink()
    module.folder(1).parent.write_text("")
    with pytest.raises(StartError):
        module.prepare(1)
    module.folder(1).parent.unlink()


def write_pid(base: Path) -> Path:
    """Write the pid file of this process as the service of port 1, as another user could."""
    file = module.folder(1) / module.SERVICE
    module.begin_service(1)
    return file


def test_the_pid_file_of_another_user_is_ignored(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_pid(base)
    assert module.service(1) == os.getpid()
    own, folder = os.getuid(), module.folder(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: own + 1)
        assert module.service_pid(folder) is None
        assert module.read(file) == ""
    for level in (file, folder, folder.parent):
        mode = level.stat().st_mode & 0o777
        level.chmod(mode | 0o020)
        assert module.service(1) is None, f"others may write to {level.name}"
        level.chmod(mode)
    assert module.service(1) == os.getpid()


def test_what_is_no_file_is_no_pid_file(base: Path) -> None:
    file = write_pid(base)
    content = file.read_text()
    file.unlink()
    os.mkfifo(file, 0o600)
    assert module.service(1) is None, "and nothing waits for a writer of the FIFO"
    assert module.read(file) == ""
    file.unlink()
    elsewhere = file.with_name("elsewhere")
    elsewhere.write_text(content)
    file.symlink_to(elsewhere)
    assert module.service(1) is None


def test_the_sweep_ends_what_was_left_and_nobody_else(runtime: Path) -> None:
    mine, other = f"{runtime}/e5-1.sock", f"{runtime}0/e5-1.sock"
    engine, innocent, neighbour, sibling = (
        process(argument) for argument in (mine, "unrelated", other, f"{runtime}/e5-11.sock")
    )
    try:
        for number, each in enumerate((engine, innocent, neighbour, sibling), start=1):
            # All four pids stand in files of the engine's own name or of one that was reused.
            (runtime / f"e5-{number}.pid").write_text(str(each.pid))
        (runtime / "e5-1.sock").touch()
        (runtime / "e5-9.pid").write_text("no number")
        (runtime / "e5-8.pid").write_text(str(2**22 + 1))
        (runtime / "e5-7.pid.new").write_text("")
        module.sweep(runtime)
        assert engine.wait(5) == -signal.SIGKILL
        assert is_alive(innocent.pid)
        assert is_alive(neighbour.pid)
        assert is_alive(sibling.pid)
        assert not list(runtime.iterdir())
    finally:
        for each in (engine, innocent, neighbour, sibling):
            each.kill()
            each.wait()


def test_the_sweep_of_a_port_spares_a_longer_one(runtime: Path) -> None:
    """Port 800's folder is the beginning of port 8001's."""
    (runtime / "800").mkdir()
    neighbour = process(f"{runtime}/8001/e5-1.sock")
    try:
        (runtime / "800" / "e5-1.pid").write_text(str(neighbour.pid))
        module.sweep(runtime / "800")
        assert neighbour.poll() is None
    finally:
        neighbour.kill()
        neighbour.wait()
        shutil.rmtree(runtime / "800")


def test_removing_leaves_what_is_a_successors(base: Path) -> None:
    folder = module.prepare(1)
    (folder / module.CONTROL).touch()
    (folder / f"{module.prefix()}1.sock").touch()
    (folder / "e999999-1.sock").touch()
    control = module.control_identity(folder)
    os.utime(folder / module.CONTROL, ns=(1, 1))  # another file, with the inode of the first
    module.remove(folder, control)
    assert sorted(each.name for each in folder.iterdir()) == [module.CONTROL, "e999999-1.sock"]
    (folder / "e999999-1.sock").unlink()
    module.remove(folder, module.control_identity(folder))
    assert not folder.exists()
    assert not folder.parent.exists()


def test_the_version_tells_settings_that_matter(tmp_path: Path) -> None:
    base = module.version(settings_for(tmp_path))
    assert base == module.version(settings_for(tmp_path, workers=7, request_timeout=5))
    assert base != module.version(settings_for(tmp_path, max_concurrent_models=7))
    assert base != module.version(settings_for(tmp_path / "other"))


def test_the_version_survives_the_way_through_the_environment(tmp_path: Path) -> None:
    given = settings_for(tmp_path, load_timeout=0.25, debug=True, default_model="a b")
    passed = {name.upper(): str(value) for name, value in given}
    assert Settings.load(passed) == given
    assert module.version(Settings.load(passed)) == module.version(given)


def test_a_change_in_whatever_the_supervisor_runs_is_another_version() -> None:
    """Else a reload would leave the old code running."""
    ask = (
        "import sys, vllm_obtain.supervisor.__main__, vllm_obtain.supervisor.main\n"
        "import vllm_obtain.download.__main__, vllm_obtain.models.convert.__main__\n"
        "ours = [m for n, m in sys.modules.items() if n.startswith('vllm_obtain')]\n"
        "print('\\n'.join(m.__file__ for m in ours if m.__file__))"
    )
    result = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    runs = {Path(line).resolve() for line in result.stdout.splitlines()}
    packages = {path for path in runs if path.name == "__init__.py"}
    assert len(runs) > 50
    assert runs - packages <= {path.resolve() for path in module.sources()}
