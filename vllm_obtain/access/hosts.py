"""Which names a client may call this service by.

A web page of somebody else's can have its own name lead to this machine once it is loaded (DNS
rebinding): its requests then count as its own to the browser. They still have that name in `Host`.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from vllm_obtain.errors import HostNotAllowed
from vllm_obtain.settings import Settings

# What containers call the machine they run on.
_MACHINE = frozenset(
    {"host.docker.internal", "gateway.docker.internal", "host.containers.internal"}
)
# Nobody can register a name without a dot; Docker gives such names to services.
_WORD = re.compile(r"[\w-]+")
# Judged once each; a client that makes up names shall not fill the memory.
_MOST_KNOWN = 256


class Hosts:
    """The names that are fine: those of this machine, addresses, and ALLOWED_HOSTS.

    Args:
        settings: the owner's settings.
        machine: its own name.
    """

    def __init__(self, settings: Settings, machine: str = "") -> None:
        machine = (machine or socket.gethostname()).lower().rstrip(".")
        self._short = machine.partition(".")[0]
        self._exact = {machine, f"{self._short}.local", *_MACHINE}
        self._ends: tuple[str, ...] = (".localhost",)
        self._all = False
        for name in settings.host_names:
            self._allow(name.lower().strip("[]"))
        self._known: dict[str, bool] = {}

    def check(self, host: str) -> None:
        """Look at the header `Host`; a client that sends none is no browser.

        Raises:
            HostNotAllowed: it names somebody else.
        """
        fine = self._known.get(host)
        if fine is None:
            fine = self._judge(host)
            if len(self._known) < _MOST_KNOWN:
                self._known[host] = fine
        if not fine:
            name = _name(host)
            raise HostNotAllowed(
                f"This service does not answer to the name '{name[:100]}'. If it is right, set "
                f"ALLOWED_HOSTS={name if len(name) <= 100 else '...'} where the service runs."
            )

    def _allow(self, name: str) -> None:
        if name == "*":
            self._all = True
        elif name.startswith(("*.", ".")):
            self._ends += ("." + name.lstrip("*."),)
            self._exact.add(name.lstrip("*."))
        else:
            self._exact.add(name)

    def _judge(self, host: str) -> bool:
        name = _name(host)
        if self._all or not name or name in self._exact or name.endswith(self._ends):
            return True
        # Tailscale calls this machine so, and gives no name below ts.net to anybody else's.
        if name.endswith(".ts.net") and name.partition(".")[0] == self._short:
            return True
        return bool(_WORD.fullmatch(name)) or _is_address(name)


def _name(host: str) -> str:
    """Leave the port away."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        return False
