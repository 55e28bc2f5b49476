"""Check of the `Host` header against DNS rebinding.

A malicious web page can point its own host name at this machine after it was loaded. The browser
then treats requests to this service as same-origin. Their `Host` header still has that name.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import HostNotAllowed

# Names that containers use for their host machine.
_CONTAINER_HOSTS = frozenset(
    {"host.docker.internal", "gateway.docker.internal", "host.containers.internal"}
)
# A name without a dot, such as the name of a Docker service. Few can be registered, but the DNS
# server of a network can answer with any of them.
_SINGLE_LABEL = re.compile(r"[\w-]+")
# Size of the cache of results, so that made-up names do not fill the memory.
_MAX_RESULTS = 256


class AllowedHosts:
    """The allowed host names: those of this machine, IP addresses, and ALLOWED_HOSTS.

    Args:
        settings: the service's settings.
        machine: host name of this machine; empty for the one that the system reports.
    """

    def __init__(self, settings: Settings, machine: str = "") -> None:
        machine = (machine or socket.gethostname()).lower().rstrip(".")
        self._short = machine.partition(".")[0]
        self._exact = {"localhost", machine, self._short, f"{self._short}.local", *_CONTAINER_HOSTS}
        self._suffixes: tuple[str, ...] = (".localhost",)
        self._all = False
        for name in settings.host_names:
            self._allow(name.lower().strip("[]"))
        self._results: dict[str, bool] = {}

    def check(self, host: str, keyed: bool = False) -> None:
        """Check a `Host` header. An empty one is allowed, since browsers always send it.

        Args:
            host: value of the header.
            keyed: whether requests need an API key. Then any name without a dot is allowed: a page
                that gives its own name to this machine does not have a key.

        Raises:
            HostNotAllowed: the name is not allowed.
        """
        allowed = self._results.get(host)
        if allowed is None:
            allowed = self._is_allowed(host)
            if len(self._results) < _MAX_RESULTS:
                self._results[host] = allowed
        if not allowed and not (keyed and _SINGLE_LABEL.fullmatch(_name(host))):
            name = _name(host)
            raise HostNotAllowed(
                f"Host '{name[:100]}' is not allowed. To allow it, set "
                f"ALLOWED_HOSTS={name if len(name) <= 100 else '...'} and restart the service."
            )

    def _allow(self, name: str) -> None:
        if name == "*":
            self._all = True
        elif name.startswith(("*.", ".")):
            self._suffixes += ("." + name.lstrip("*."),)
            self._exact.add(name.lstrip("*."))
        else:
            self._exact.add(name)

    def _is_allowed(self, host: str) -> bool:
        name = _name(host)
        if self._all or not name or name in self._exact or name.endswith(self._suffixes):
            return True
        # Tailscale's name of this machine. Names below ts.net cannot be registered by others.
        if name.endswith(".ts.net") and name.partition(".")[0] == self._short:
            return True
        return _is_address(name)


def _name(host: str) -> str:
    """Return the host name without the port, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        return False
