"""What the daemons of a cluster are told, and why. Standard library only."""

from __future__ import annotations

import os
import pwd
import random
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

SLURM_CONF = """
ClusterName={cluster}
SlurmctldHost={host}({address})
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits cred_expire + 1 seconds (default: 121) before it may start again.
AuthInfo=socket={dir}/munge.socket,cred_expire=5

StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd-%n.log
# Random, so that neither files nor ports derived from a job id meet those of another cluster.
FirstJobId={first_job}

# Nothing that needs cgroups, an MPI or real hardware; config_overrides believes the nodes' lines below.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu

# Without these three parameters a job waits up to a minute.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
# A busy machine must neither lose its nodes nor kill jobs that are still saving.
SlurmdTimeout={patience}
MessageTimeout={patience}
TCPTimeout=1
KillWait=60
ReturnToService=2

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{options}
{node_lines}
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 GraceTime={grace} MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""

ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={address}
AccountingStoragePort={dbd_port}
# AuthInfo does not hold for the connection to slurmdbd; it would look for the system's munged.
AccountingStoragePass={dir}/munge.socket
AccountingStorageTRES=gres/gpu
"""

SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={dir}/munge.socket
DbdHost=localhost
DbdPort={dbd_port}
SlurmUser={user}
PidFile={dir}/slurmdbd.pid
LogFile={dir}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct
"""


PATIENCE, IMPATIENCE = 60, 5
"""Seconds until a silent node counts as lost; the latter while a test hurts one, which is then noticed in 9 to 16 s."""


def user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def slurm_version() -> tuple[int, ...]:
    """Year and month of the release."""
    said = subprocess.run(["slurmctld", "-V"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0, 0)


def free_ports(count: int) -> list[int]:
    """Ports below the ephemeral ones, which outgoing connections could take before these are used."""
    ports: list[int] = []
    for port in random.sample(range(12_000, 32_000), 20_000):
        if len(ports) == count:
            break
        with socket.socket() as trial:
            try:
                trial.bind(("", port))
            except OSError:
                continue
            ports.append(port)
    return ports


def configure(folder: Path, options: dict[str, Any], address: str, nodes: dict[str, str]) -> dict[str, int]:
    """Write all configuration files of a cluster whose controllers have this address; the ports of its services.

    Args:
        folder: where the cluster lives.
        options: those of SlurmCluster.
        address: where Slurm's controllers listen.
        nodes: name → address.
    """
    version, gpus = slurm_version(), options["gpus"]
    ports = dict(zip(["slurmctld", "slurmdbd", *nodes], free_ports(2 + len(nodes)), strict=True))
    values = {
        "cluster": "test" + folder.name[-8:].lower().replace("_", "0"),
        "host": socket.gethostname().split(".")[0],  # has to be this machine's own name; the address is free
        "address": address,
        "user": user(),
        "dir": folder,
        "ctld_port": ports["slurmctld"],
        "dbd_port": ports["slurmdbd"],
        "first_job": random.randrange(10_000, 9_000_000),
        "grace": options["grace"],
        "patience": PATIENCE,
    }
    extra = []
    if options["user_signal"]:
        preempt = "PreemptParameters=" if version >= (23, 2) else "SlurmctldParameters=preempt_"
        extra.append(f"{preempt}send_user_signal")
    if options["max_array_size"] is not None:
        extra.append(f"MaxArraySize={options['max_array_size']}")
    if options["accounting"]:
        extra.append(ACCOUNTING.format(**values))
    hardware = f"CPUs={options['cpus']} RealMemory=1000000" + (f" Gres=gpu:{gpus}" if gpus else "")
    values["options"] = "\n".join(extra)
    values["node_lines"] = "\n".join(
        f"NodeName={name} NodeAddr={place} Port={ports[name]} {hardware}" for name, place in nodes.items()
    )

    names = ["127.0.0.1 localhost", *(f"{place} {name}" for name, place in nodes.items())]
    write(folder / "hosts", "\n".join(names) + "\n")
    write(folder / "slurm.conf", SLURM_CONF.format(**values))
    write(folder / "slurmdbd.conf", SLURMDBD_CONF.format(**values), secret=True)
    write(folder / "cgroup.conf", "CgroupPlugin=disabled\n" if version >= (23, 11) else "")
    write(folder / "gres.conf", f"Name=gpu File={folder}/dev/gpu[0-{gpus - 1}]\n" if gpus else "")
    write(folder / "munge.key", random.randbytes(128).hex(), secret=True)
    for index in range(gpus):
        (folder / "dev" / f"gpu{index}").symlink_to("/dev/null")
    return ports


def set_patience(folder: Path, seconds: int) -> None:
    """Change the file; who reads it is to be asked to read it again."""
    path = folder / "slurm.conf"
    text = re.sub(r"^(SlurmdTimeout|MessageTimeout)=\d+$", rf"\1={seconds}", path.read_text(), flags=re.MULTILINE)
    write(path.with_suffix(".new"), text)
    path.with_suffix(".new").rename(path)


def write(path: Path, text: str, secret: bool = False) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600 if secret else 0o644)
    path.write_text(text)
