"""What a rank finds missing on its host before it meets the others."""

import resource
import socket

import pytest

from dist_dash.ranks.host import allow_open_files, problem_of_host


@pytest.mark.parametrize(
    ("backend", "variable", "value", "wrong"),
    [
        ("gloo", "GLOO_SOCKET_IFNAME", "lo", ""),
        (
            "gloo",
            "GLOO_SOCKET_IFNAME",
            "lo,ib7",
            "GLOO_SOCKET_IFNAME is 'ib7', but the interfaces of this host",
        ),
        ("gloo", "NCCL_SOCKET_IFNAME", "ib7", ""),
        ("nccl", "NCCL_SOCKET_IFNAME", "eth,ib7", ""),
        ("nccl", "NCCL_SOCKET_IFNAME", "^docker", ""),
        ("nccl", "NCCL_SOCKET_IFNAME", "=eth", "NCCL_SOCKET_IFNAME is '=eth', but "),
        ("nccl", "NCCL_SOCKET_IFNAME", "ib7", "NCCL_SOCKET_IFNAME is 'ib7', but "),
    ],
)
def test_interfaces(backend, variable, value, wrong, monkeypatch):
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv(variable, value)
    found = problem_of_host(backend)
    assert found.startswith(f"environment: {wrong}") if wrong else not found


@pytest.mark.parametrize(
    ("soft", "hard", "set_to"),
    [(1024, 4096, 4096), (1024, resource.RLIM_INFINITY, 65536), (80, 80, None), (resource.RLIM_INFINITY, 10**6, None)],
)
def test_open_files_as_many_as_the_system_lets_us(soft, hard, set_to, monkeypatch):
    found = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: found.append(limits))
    allow_open_files()
    assert found == ([] if set_to is None else [(set_to, hard)])
