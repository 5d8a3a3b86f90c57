"""The tests use no network: what tries to is refused, here and in the processes that tests start."""

import socket
import subprocess
import sys

import pytest

FAR = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"  # an address that is for examples


def test_far_addresses_and_names_are_refused_at_once():
    with pytest.raises(ConnectionRefusedError, match=r"no network.*192\.0\.2\.1"):
        exec(FAR)
    with pytest.raises(ConnectionRefusedError, match="no network.*example.org"):
        socket.getaddrinfo("example.org", 80)


def test_far_addresses_are_refused_in_other_processes_too():
    run = subprocess.run([sys.executable, "-c", FAR], capture_output=True, text=True)
    assert run.returncode == 1 and "The tests use no network" in run.stderr


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, server.getsockname()[1])).close()
