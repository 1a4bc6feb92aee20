"""Two machines on one: each with a network address, a Ray node and a disk of its own, joined by a cable.

Network namespaces are the machines, a veth pair is the cable, and each hides the other's folder under a mount of its
own. Needs Linux, root and iproute2.
"""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.mtrl.processes import ROOT, wait_until

PORT, S3_PORT = 6379, 5000
PATIENCE = 300.0  # seconds; a busy machine takes a minute to start a node
# Given, so that a node waits for fewer of its agents before it starts.
_PORTS = {
    "dashboard-agent-grpc": 6390,
    "dashboard-agent-listen": 6391,
    "runtime-env-agent": 6392,
    "metrics-export": 6393,
}
_STORE = 80 * 2**20
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "OMP_NUM_THREADS": "1",
}


def why_not() -> str | None:
    """Why there can be no second machine here; None where there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2 (ip)"
    name = f"mtrl-{uuid.uuid4().hex[:6]}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None if done.returncode == 0 else f"no network namespace can be made here: {done.stderr.strip()}"


def ip(*arguments: str) -> None:
    """Run iproute2."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass
class Machine:
    """One of the two.

    :param namespace: of the network
    :param address: of the network
    :param folder: its disk
    :param hidden: the disk of the other
    :param processes: that run there
    :param places: folders of Ray's own
    """

    namespace: str
    address: str
    folder: Path
    hidden: Path
    processes: list["subprocess.Popen[str]"] = field(default_factory=list)
    places: list[Path] = field(default_factory=list)

    def start(
        self, command: list[str], environment: Mapping[str, str] | None = None, **options: object
    ) -> "subprocess.Popen[str]":
        """Start a process there."""
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        isolated = f'mount -t tmpfs none "{self.hidden}" && exec "$@"'
        whole = ["ip", "netns", "exec", self.namespace, "sh", "-c", isolated, "sh", *command]
        environment = {
            **os.environ, **_QUIET, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "TMPDIR": str(self.folder / "tmp"), **(environment or {}),
        }  # fmt: skip
        process = subprocess.Popen(whole, cwd=ROOT, env=environment, text=True, **options)  # type: ignore[call-overload]
        self.processes.append(process)
        return process

    def start_node(self, *arguments: str) -> None:
        """Start a Ray node with one core."""
        place = Path(tempfile.mkdtemp(prefix="mtrl-ray-"))  # a short path: sockets lie in it
        self.places.append(place)
        common = [f"--node-ip-address={self.address}", "--num-cpus=1", f"--object-store-memory={_STORE}", "--block"]
        common += [f"--{name}-port={port}" for name, port in _PORTS.items()]
        place_option = [f"--temp-dir={place}"] if "--head" in arguments else []
        with (self.folder / "ray.log").open("w") as log:
            command = [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments, *common, *place_option]
            # Ray gives up on an agent that has not started within 15 seconds, which on a busy machine is soon.
            process = self.start(["nice", "-n", "-15", *command], stdout=log, stderr=log)
        started = self.folder / "ray.log"
        wait_until(lambda: "Ray runtime started" in started.read_text() or process.poll() is not None, PATIENCE)
        assert process.poll() is None, started.read_text()[-2000:]
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.nice(0)

    def kill(self, process: "subprocess.Popen[str] | None" = None) -> None:
        """Kill a process with all that it started; without one, all of the machine's."""
        for parent in [process] if process is not None else self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = psutil.Process(parent.pid).children(recursive=True)
                for child in [*family, psutil.Process(parent.pid)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.kill()
            parent.wait()
        self.processes = [one for one in self.processes if one.poll() is None]


class TwoMachines:
    """The head, the other machine, and what both reach.

    :param folder: for the disks of both
    """

    def __init__(self, folder: Path) -> None:
        tag = uuid.uuid4().hex[:6]
        places = [folder / name for name in ("head", "other")]
        for place in places:
            place.mkdir(parents=True)
        self.head = Machine(f"mtrl-{tag}-a", "10.77.0.1", places[0], places[1])
        self.other = Machine(f"mtrl-{tag}-b", "10.77.0.2", places[1], places[0])
        self.cable = f"mtrl{tag}a"
        self.folder = folder
        self._s3: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        """Of the head."""
        return f"{self.head.address}:{PORT}"

    @property
    def storage(self) -> str:
        """A bucket on the head's network, where the stand-in for S3 is installed; else a folder that both see."""
        if self._s3 is None:
            return str(self.folder / "shared")
        query = f"endpoint_override={self.head.address}:{S3_PORT}&scheme=http&allow_bucket_creation=true"
        return f"s3://key:secret@runs/here?{query}"

    def join(self) -> None:
        """Lay the cable."""
        for machine in (self.head, self.other):
            ip("netns", "add", machine.namespace)
            ip("-n", machine.namespace, "link", "set", "lo", "up")
        peer = ("type", "veth", "peer", "name", f"{self.cable}b", "netns", self.other.namespace)
        ip("link", "add", self.cable, "netns", self.head.namespace, *peer)
        for machine, end in ((self.head, self.cable), (self.other, f"{self.cable}b")):
            ip("-n", machine.namespace, "addr", "add", f"{machine.address}/24", "dev", end)
            ip("-n", machine.namespace, "link", "set", end, "up")
        if importlib.util.find_spec("moto") is not None:
            code = (
                "from moto.server import ThreadedMotoServer as S; import boto3, time; "
                f"s = S('{self.head.address}', port={S3_PORT}, verbose=False); s.start(); "
                f"boto3.client('s3', endpoint_url='http://{self.head.address}:{S3_PORT}', region_name='us-east-1', "
                "aws_access_key_id='key', aws_secret_access_key='secret').create_bucket(Bucket='runs'); "
                "print('ready', flush=True); time.sleep(1e9)"
            )
            self._s3 = self.head.start([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert self._s3.stdout is not None and self._s3.stdout.readline() == "ready\n"
            self.head.processes.remove(self._s3)  # the bucket outlives the head

    def start_ray(self) -> None:
        """Start both nodes, and wait until the head knows both."""
        self.head.start_node("--head", f"--port={PORT}", "--include-dashboard=false")
        self.other.start_node(f"--address={self.address}")

    @contextlib.contextmanager
    def cut(self, seconds: float) -> Iterator[None]:
        """Context in which the cable is cut, for so long at least."""
        began = time.monotonic()
        ip("-n", self.head.namespace, "link", "set", self.cable, "down")
        try:
            yield
            time.sleep(max(seconds - (time.monotonic() - began), 0.0))
        finally:
            ip("-n", self.head.namespace, "link", "set", self.cable, "up")

    def close(self) -> None:
        """End everything."""
        for machine in (self.head, self.other):
            machine.kill()
        if self._s3 is not None:
            self.head.kill(self._s3)
        for machine in (self.head, self.other):
            subprocess.run(["ip", "netns", "del", machine.namespace], capture_output=True, check=False)
            for place in machine.places:
                shutil.rmtree(place, ignore_errors=True)
