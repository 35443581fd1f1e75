"""What NCCL chose is read from its log."""

import pytest

from runtime.doctor.nccl import choice_in

INFINIBAND = """
n1:12:30 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [1]mlx5_1:1/IB [RO]; OOB eth0:10.0.0.1<0>
n1:12:30 [0] NCCL INFO Using network IB
n1:12:30 [0] NCCL INFO Channel 00/0 : 7[7] -> 8[0] [receive] via NET/IB/0/GDRDMA
n1:12:30 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM/read
"""
SOCKETS = """
n1:12:30 [0] NCCL INFO NET/IB : No device found.
n1:12:30 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>
n1:12:30 [0] NCCL INFO Using network Socket
n1:12:30 [0] NCCL INFO Channel 00 : 0[0] -> 1[1] via SHM/direct/direct
"""
PLUGIN = "n1:1:2 [0] NCCL INFO Initialized NET plugin IB and assigned it to comm 0x1"


@pytest.mark.parametrize(
    ("log", "choice"),
    [(INFINIBAND, "IB (mlx5_0, mlx5_1), GDRDMA, P2P"), (SOCKETS, "Socket (eth0), SHM"), (PLUGIN, "IB"), ("", "")],
)
def test_the_choice_of_nccl(log: str, choice: str) -> None:
    assert choice_in(log.splitlines()) == choice
