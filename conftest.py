"""For every pytest run of this project: no network, and the options of the sweep."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

# Before anything imports transformers, which would use the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The first has the name of its entry point: if the package is installed, pytest still loads it once.
pytest_plugins = ["splade_bench.pytest_plugin", "splade_bench.pytest_plugin.sweep"]

_LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
_TO_AN_ADDRESS = ("connect", "connect_ex", "sendto")
_LOCAL_NAMES = (None, "", "localhost", socket.gethostname())


class NetworkBlocked(BaseException):
    """A test used the network. No ``except Exception`` of a library hides it."""


def _require_local(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name not in _LOCAL_NAMES and not _is_loopback(name):
        raise NetworkBlocked(f"{name!r}: tests do not use the network")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _block_lookup(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, which Python calls before each lookup of a name, also of libraries."""
    if event in _LOOKUPS:
        _require_local(arguments[0][0] if isinstance(arguments[0], tuple) else arguments[0])


def _local_only(use: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a socket, for addresses of this computer and for sockets of Unix, whose address is a path."""

    def checked(self: socket.socket, *arguments: Any) -> Any:
        if isinstance(arguments[-1], tuple):
            _require_local(arguments[-1][0])
        return use(self, *arguments)

    return checked


sys.addaudithook(_block_lookup)
# Python looks up the name in an address without an audit event.
for _method in _TO_AN_ADDRESS:
    setattr(socket.socket, _method, _local_only(getattr(socket.socket, _method)))
