import pytest

from vllm_obtain.hardware import machine as hardware
from vllm_obtain.hardware import nvidia


@pytest.fixture(autouse=True)
def fresh():
    hardware.describe.cache_clear()
    nvidia._open.cache_clear()
    yield
    hardware.describe.cache_clear()
    nvidia._open.cache_clear()
