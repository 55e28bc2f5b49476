"""What counts as a new version at each kind of source."""

from __future__ import annotations

import base64
import hashlib
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.download.conftest import MakeSettings
from tests.download.hubs import Hub
from tests.download.test_download import FILE, REPO, get
from tests.download.updates import check_update, publish, run_update, version
from vllm_obtain.config.settings import Settings
from vllm_obtain.download.update_check import check_updates
from vllm_obtain.errors import (
    FetchFailed,
)


def test_a_hub_that_does_not_answer_is_told_of_and_the_others_are_asked(
    settings: Settings, huggingface: Hub, modelscope: Hub
) -> None:
    publish(huggingface, 1)
    publish(modelscope, 1)
    get(settings, name="one")
    get(settings, name="two")
    get(settings, f"modelscope:{REPO}", name="three")
    publish(modelscope, 2)
    huggingface.faults.status = 503
    changes = {each.name: each for each in check_updates(settings)}
    assert {name: each.state for name, each in changes.items()} == {
        "one": "failed",
        "two": "failed",
        "three": "update",
    }
    assert "unreachable" in changes["one"].error
    with pytest.raises(FetchFailed, match="'one' is unchanged"):
        run_update(settings, "one")
    huggingface.faults.status = 0
    del huggingface.repositories[REPO]
    assert "not found" in check_updates(settings, ["one"])[0].error


def test_a_file_at_an_address_by_its_etag(settings: Settings, huggingface: Hub) -> None:
    publish(huggingface, 1)
    url = f"{huggingface.url}/{REPO}/resolve/main/{FILE}"
    folder = get(settings, url)
    assert check_update(settings).state == "current"
    publish(huggingface, 2)
    assert check_update(settings).state == "update"
    assert run_update(settings, folder.name)
    assert (folder / FILE).read_bytes() == version(2)
    assert check_update(settings).state == "current"


def test_a_copy_of_what_is_on_this_machine(settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / FILE
    source.write_bytes(version(1))
    folder = get(settings, str(source))
    assert check_update(settings).state == "current"
    source.write_bytes(version(2))
    assert check_update(settings).state == "update"
    assert run_update(settings, folder.name)
    assert (folder / FILE).read_bytes() == version(2)
    source.unlink()
    assert check_update(settings).state == "failed"


def test_a_name_is_compared_with_where_it_came_from_until_it_means_another(
    make_settings: MakeSettings, huggingface: Hub, modelscope: Hub
) -> None:
    settings = make_settings()
    settings.models_dir.mkdir(parents=True)
    names = settings.models_dir / "catalogue.toml"
    text = (
        '[models.mine]\nabout = "x"\nkind = "chat"\nparameters = 1.0\nlicence = "MIT"\n'
        f'family = "chatml"\ncontext = 2048\n[models.mine.gguf]\nhuggingface = "{REPO}"\n'
        f'modelscope = "{REPO}"\nfile = "{FILE}"\nsize = 1000\n'
    )
    names.write_text(text)
    huggingface.faults.status = 503
    publish(modelscope, 1)
    get(settings, "mine")
    # Hugging Face answers again, and has something else: that is no update of this one.
    huggingface.faults.status = 0
    publish(huggingface, 7)
    assert (check_update(settings).source, check_update(settings).state) == (
        f"modelscope:{REPO}:{FILE}",
        "current",
    )
    names.write_text(text.replace(f'modelscope = "{REPO}"\n', ""))
    assert (check_update(settings).source, check_update(settings).state) == (
        f"hf:{REPO}:{FILE}",
        "update",
    )
    assert run_update(settings, "mine")
    assert (settings.models_dir / "mine" / FILE).read_bytes() == version(7)


@pytest.mark.slow
def test_a_package_without_a_version_has_the_newest(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    wheel(index, "1.0", version(1))
    folder = get(settings, "pypi:tiny-model")
    get(settings, "pypi:tiny-model==1.0", name="pinned")
    assert {each.state for each in check_updates(settings)} == {"current"}
    wheel(index, "1.1", version(2))
    pinned, free = check_updates(settings)
    assert (pinned.state, free.state, free.download) == ("current", "update", None)
    assert free.there == "tiny_model-1.1"
    assert run_update(settings, "tiny-model")
    assert (folder / FILE).read_bytes() == version(2)
    assert check_updates(settings, ["tiny-model"])[0].state == "current"
    shutil.rmtree(index)
    assert [each.state for each in check_updates(settings)] == ["current", "failed"]


def wheel(index: Path, number: str, model: bytes) -> None:
    info = f"tiny_model-{number}.dist-info"
    files = {
        f"tiny_model/{FILE}": model,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: %s\n"
        % number.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(data)}")
    with zipfile.ZipFile(index / f"tiny_model-{number}-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]))
