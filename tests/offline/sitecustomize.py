"""Refuses every connection and every name look-up but those of this machine.

Python runs this file at its start where its folder is on PYTHONPATH. conftest.py runs it, and puts the folder there, so that
it holds in the tests and in the processes that they start; not where CNNZOO_TESTS_ONLINE is set, as for pip.
"""

import ipaddress
import os
import socket


def _is_near(host) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refusing(function, host_of):
    def checked(*args, **kwargs):
        host = host_of(*args)
        if not _is_near(host):
            raise ConnectionRefusedError(f"The tests use no network, and something tried to reach {host}.")
        return function(*args, **kwargs)

    return checked


def _host_of_address(sock, address) -> str | None:
    return address[0] if isinstance(address, tuple) else None  # else a Unix socket


if not os.environ.get("CNNZOO_TESTS_ONLINE"):
    for _name in ("connect", "connect_ex"):
        setattr(socket.socket, _name, _refusing(getattr(socket.socket, _name), _host_of_address))
    socket.getaddrinfo = _refusing(socket.getaddrinfo, lambda host, *_: host)
