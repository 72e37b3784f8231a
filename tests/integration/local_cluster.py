"""Real processes of a cluster on free loopback ports, and a client of generated stubs. Every wait has a deadline."""
import glob
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its GOAWAY lines are no news when a process is stopped

import grpc  # noqa: E402
from grpc_tools import protoc  # noqa: E402


def make_stubs(proto_folder, google_folder, out):
    """Compiles the contracts into `out` and makes them importable."""
    os.makedirs(out, exist_ok=True)
    files = sorted(glob.glob(os.path.join(proto_folder, "alphecca/v1/*.proto")))
    code = protoc.main(["protoc", f"-I{proto_folder}", f"-I{google_folder}", f"--python_out={out}", f"--grpc_python_out={out}",
                        *files])
    if code != 0:
        raise RuntimeError(f"protoc failed: {code}")
    sys.path.insert(0, out)


def wait_until(what, condition, seconds=60.0):
    """Asks `condition` until it gives something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Process:
    """A binary that says where it listens in its first line on stdout. Its log goes to a file, shown when a test fails."""

    def __init__(self, folder, name, arguments):
        self.name = name
        self.log_path = os.path.join(folder, f"{name}-{time.monotonic_ns()}.log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log)
        line = []
        reader = threading.Thread(target=lambda: line.append(self.process.stdout.readline()), daemon=True)
        reader.start()
        reader.join(60)
        if not line or not line[0].strip():
            self.kill()
            raise AssertionError(f"{name} did not start: {self.log()}")
        self.addresses = json.loads(line[0])

    def log(self):
        with open(self.log_path, "r", encoding="utf-8", errors="replace") as log:
            return log.read()[-6000:]

    def cpu_seconds(self):
        """CPU time that its threads have taken, to the nanosecond (utime and stime of its stat come in ticks of 10 ms)."""
        spent = 0
        for path in glob.glob(f"/proc/{self.process.pid}/task/*/schedstat"):
            with open(path, encoding="ascii") as stat:
                spent += int(stat.read().split()[0])
        return spent / 1e9

    def kill(self):
        self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()

    def stop(self, seconds=30):
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
            self.process.stdout.close()
            return code
        except subprocess.TimeoutExpired:
            self.kill()
            return None


class Host:
    """Where a process runs: its address there, and a command to put before its own ("nsenter ...")."""

    def __init__(self, address="127.0.0.1", prefix=()):
        self.address = address
        self.prefix = list(prefix)


class Cluster:
    """A coordinator and as many workers as the model's ranks.

    model None: the flags say which. hosts: of the workers, by index, where they are not all here. memory_gib: what each may use.
    threads: of each worker.
    """

    def __init__(self, binaries, model=None, name="tiny", workers=2, flags=(), address="127.0.0.1", hosts=(), memory_gib=None,
                 threads=1):
        self.binaries = binaries
        self.hosts = {f"w{index}": host for index, host in enumerate(hosts)}
        self.folder = tempfile.TemporaryDirectory(prefix="alphecca-e2e-")
        self.workers = {}
        self.memory_gib = memory_gib
        self.threads = threads
        self.coordinator = Process(self.folder.name, "coordinator",
                                   [os.path.join(binaries, "alphecca-coordinator"), "--listen", f"{address}:0", "--metrics",
                                    "127.0.0.1:0", "--drain", "20", *(["--model", f"{name}={model}"] if model else []), *flags])
        self.address = self.coordinator.addresses["listen"]
        try:
            for index in range(workers):
                self.start_worker(f"w{index}")
        except BaseException:
            self.stop()
            raise
        self.channel = grpc.insecure_channel(self.address)

    def start_worker(self, name):
        host = self.hosts.get(name, Host())
        memory = ["--memory", str(self.memory_gib)] if self.memory_gib else []
        self.workers[name] = Process(self.folder.name, name,
                                     [*host.prefix, os.path.join(self.binaries, "alphecca-worker"), "--coordinator", self.address,
                                      "--listen", f"{host.address}:0", "--metrics", "127.0.0.1:0", "--name", name, "--threads",
                                      str(self.threads), *memory])

    def stop(self):
        for worker in self.workers.values():
            worker.stop()
        code = self.coordinator.stop()
        self.folder.cleanup()
        return code

    def logs(self):
        return "\n".join(f"--- {p.name}\n{p.log()}" for p in [self.coordinator, *self.workers.values()])

    def healthy(self, service=""):
        """The standard health service's answer, decoded by hand: True if SERVING."""
        check = self.channel.unary_unary("/grpc.health.v1.Health/Check", request_serializer=lambda b: b,
                                         response_deserializer=lambda b: b)
        name = service.encode()
        try:
            return check(b"\x0a" + bytes([len(name)]) + name if name else b"", timeout=5) == b"\x08\x01"
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                return False
            raise

    def wait_ready(self, seconds=120.0):
        wait_until("health SERVING", self.healthy, seconds)

    def page(self, path):
        """Status code and body of a page of the monitoring port."""
        try:
            with urllib.request.urlopen(f"http://{self.coordinator.addresses['metrics']}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name, **labels):
        """The sum of a metric's series that have these labels."""
        total = 0.0
        for line in self.page("/metrics")[1].splitlines():
            series, _, value = line.rpartition(" ")
            if (series == name or series.startswith(name + "{")) and all(f'{k}="{v}"' in series for k, v in labels.items()):
                total += float(value)
        return total
