"""Slurm on this machine alone, for a test: its daemons, from configuration files in a folder."""

import getpass
import platform
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "scancel", "squeue")
SETTINGS = """
ClusterName=test
SlurmctldHost={host}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={control}
SlurmdPort={node}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


def lacks() -> str:
    """Return why Slurm cannot run here, "" where it can."""
    missing = [name for name in NEEDED if shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    if missing:
        return f"{', '.join(missing)} are not installed: apt-get install munge slurmctld slurmd slurm-client"
    if getpass.getuser() != "root":
        return f"its daemons start jobs as root, and this is {getpass.getuser()}"
    return ""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def slurm(folder: Path, cores: int, memory: int):
    """Have the daemons running, and yield what the environment of Slurm's commands must hold."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)  # munged refuses a socket that others may not reach
    settings = folder / "slurm.conf"
    settings.write_text(
        SETTINGS.format(
            host=platform.node().split(".")[0], user=getpass.getuser(), folder=folder, control=free_port(),
            node=free_port(), cores=cores, memory=memory,
        )
    )  # fmt: skip
    environment = {"SLURM_CONF": str(settings), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    key = folder / "munge.key"
    key.write_bytes(bytes(range(256)) * 4)
    key.chmod(0o400)
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={key}",
         f"--log-file={folder}/munged.log", f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed"],
        ["slurmctld", "-D", "-f", str(settings)],
        ["slurmd", "-D", "-f", str(settings)],
    )  # fmt: skip
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as log:
                running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        _await(environment, folder)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _await(environment: dict[str, str], folder: Path) -> None:
    """Wait until the node is idle."""
    for _ in range(60):
        said = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True, check=False)
        if said.stdout.strip() in ("idle", "mix"):
            return
        time.sleep(0.5)
    logs = "\n".join(f"{log.name}: {log.read_text()[-500:]}" for log in folder.glob("*.out"))
    raise RuntimeError(f"Slurm does not come up: {said.stdout}{said.stderr}\n{logs}")
