from __future__ import annotations

import subprocess
import sys

import pytest

from vllm_obtain.images.ssrf import is_public


@pytest.mark.parametrize(
    "address",
    "8.8.8.8 2606:4700::1111 64:ff9b::808:808 2002:808:808:: ::ffff:8.8.8.8".split(),
)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *"127.0.0.1 127.9.9.9 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254".split(),
        *"100.64.0.1 192.0.0.8 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255".split(),
        *":: ::1 fe80::1%lo fc00::1 fd00:ec2::254 fec0::1 ff02::1 2001:db8::1".split(),
        *"::ffff:127.0.0.1 ::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::7f00:1".split(),
        *"64:ff9b:1::a00:1 2002:7f00:1:: 2001:0:4136:e378:8000:63bf:3fff:fdd2".split(),
    ],
)
def test_private(address: str) -> None:
    assert not is_public(address)


SLOW_LOOKUPS = """
import gevent.monkey
gevent.monkey.patch_all()
import _socket, time, gevent
from vllm_obtain import gevent_compat
from vllm_obtain.images.ssrf import resolve

sleep = gevent.monkey.get_original("time", "sleep")
slow = _socket.getaddrinfo
def getaddrinfo(host, *more):
    sleep(2)
    return slow(host, *more)
_socket.getaddrinfo = getaddrinfo

lookups = [gevent.spawn(resolve, "127.0.0.1", 80) for _ in range(14)]
gevent.sleep(0.1)
with gevent.Timeout(1):
    assert gevent_compat.run_in_threadpool(lambda: 1) == 1
assert [lookup.get(timeout=20) for lookup in lookups] == [["127.0.0.1"]] * 14
"""


def test_slow_lookups_do_not_delay_other_threads() -> None:
    subprocess.run([sys.executable, "-c", SLOW_LOOKUPS], check=True, timeout=60)
