import pytest

from vllm_obtain.logs import setup


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "logs"
    setup.clear()
    setup.close()
