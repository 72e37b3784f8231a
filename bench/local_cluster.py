"""A coordinator and workers of this host for benchmarks: started, watched, asked, stopped."""
import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.path.join(ROOT, "build/release/bin")
GIB = 1 << 30
WORKERS_JOIN_SECONDS = 60


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def await_port(port, seconds=30):
    """Until somebody listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def metrics(address):
    """All of a process's metrics by series, 'name' or 'name{label="value",...}', from its monitoring port."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as r:
        lines = r.read().decode().splitlines()
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines if line and line[0] != "#")}


def metric(address, name):
    """Sum of a metric over its labels."""
    return sum(value for series, value in metrics(address).items() if series.partition("{")[0] == name)


def smaps(pid, field):
    """Bytes of a process's memory: Pss, Pss_Anon, Rss."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return int(re.search(rf"^{field}:\s+(\d+) kB", f.read(), re.M).group(1)) * 1024


class Failure(SystemExit):
    """Something could not be measured. Ends a script with its message, unless caught."""


def started(process, command, log):
    """The addresses in a process's first line on stdout."""
    line = process.stdout.readline()
    if not line.strip():
        raise Failure(f"{os.path.basename(command[0])} ended with status {process.wait()}: {tail(log)}")
    return json.loads(line)


def tail(log, characters=1500):
    log.seek(0)
    return log.read()[-characters:].strip()


class Worker:
    def __init__(self, binary, coordinator, threads, flags=()):
        command = [binary, "--coordinator", coordinator, "--threads", str(threads), "--metrics", "127.0.0.1:0", *flags]
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.metrics_address = started(self.process, command, self.log)["metrics"]

    def smaps(self, field):
        return smaps(self.process.pid, field)

    def peak(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as f:
            return int(re.search(r"^VmHWM:\s+(\d+) kB", f.read(), re.M).group(1)) * 1024

    def read_bytes(self):
        """From storage: 0 where the page cache has the file."""
        with open(f"/proc/{self.process.pid}/io", encoding="ascii") as f:
            return int(re.search(r"^read_bytes: (\d+)", f.read(), re.M).group(1))

    def metric(self, name):
        return metric(self.metrics_address, name)


class Cluster:
    """One model on as many workers as its split has ranks. Use in a with statement."""

    def __init__(self, model, tp=1, ep=0, threads=0, flags=(), worker_flags=(), binaries=BIN):
        self.bin = binaries
        ranks = max(tp, ep or 1)
        threads = threads or max(1, os.cpu_count() // ranks)
        self.address = f"127.0.0.1:{free_port()}"
        self.coordinator = None
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self.workers = []
        # Workers look for a coordinator until there is one: so they can be measured before it starts.
        try:
            for _ in range(ranks):
                self.workers.append(Worker(f"{self.bin}/alphecca-worker", self.address, threads, worker_flags))
        except BaseException:
            self.__exit__()
            raise
        self.command = [f"{self.bin}/alphecca-coordinator", "--listen", self.address, "--metrics", "127.0.0.1:0",
                        "--model", f"m={model}", "--tp", str(tp), "--ep", str(ep), *flags]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        processes = [w.process for w in self.workers] + ([self.coordinator] if self.coordinator else [])
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()
            process.stdout.close()
        for log in [self.log, *(w.log for w in self.workers)]:
            log.close()

    def start(self):
        """Seconds from the coordinator's start until the model is ready."""
        began = time.monotonic()
        self.coordinator = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.metrics_address = started(self.coordinator, self.command, self.log)["metrics"]
        while True:
            group = self.status()["models"][0]["groups"][0]
            if group["state"] == "ready":
                return time.monotonic() - began
            waits = group["state"] == "waiting" and time.monotonic() - began > WORKERS_JOIN_SECONDS
            if group["state"] == "failed" or waits:
                raise Failure(f"{self.command}: {group['message']}")
            for worker in self.workers:
                if worker.process.poll() is not None:
                    raise Failure(f"a worker ended with status {worker.process.returncode}: {tail(worker.log)}")
            time.sleep(0.1)

    def status(self):
        out = subprocess.run([f"{self.bin}/alphecca", "status", "--connect", self.address, "--json"], capture_output=True,
                             text=True)
        if out.returncode != 0:
            raise Failure(f"alphecca status: {out.stderr.strip()}")
        return json.loads(out.stdout)

    def generate(self, prompt_ids, tokens):
        """Greedy, past end tokens; the CLI's JSON, whose timings are the client's."""
        return self.generate_many([prompt_ids], tokens)[0]

    def generate_many(self, prompts, tokens):
        """Several requests at once."""
        asks = [subprocess.Popen([f"{self.bin}/alphecca", "generate", "--json", "--connect", self.address, "--model", "m", "--ids",
                                  ",".join(map(str, ids)), "--max-tokens", str(tokens), "--temperature", "0", "--ignore-eos"],
                                 stdout=subprocess.PIPE, text=True) for ids in prompts]
        answers = [ask.communicate()[0] for ask in asks]
        if any(ask.returncode != 0 for ask in asks):
            raise Failure(f"generate failed: {answers}")
        return [json.loads(answer.strip().splitlines()[-1]) for answer in answers]
