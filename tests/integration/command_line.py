"""The `alphecca` command as a script uses it: filters, generate, a cluster that `up` starts."""
import contextlib
import json
import re
import signal
import subprocess


class CommandLine:
    def __init__(self, binary):
        self.binary = binary

    def run(self, *args, **kw):
        return subprocess.run([self.binary, *args], capture_output=True, text=True, timeout=120, **kw)

    def filter(self, requests, *args):
        """One JSON object a line in, one out."""
        done = self.run(*args, input="".join(json.dumps(r) + "\n" for r in requests))
        if done.returncode:
            raise AssertionError(f"{args[0]}: exit {done.returncode}: {done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def generate(self, *args):
        done = self.run("generate", "--json", *args)
        if done.returncode:
            raise AssertionError(f"exit {done.returncode}: {done.stderr}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    @contextlib.contextmanager
    def up(self, *args):
        """(address, what it printed) of a cluster that has answered its first prompt; Ctrl-C must end it with status 0."""
        up = subprocess.Popen([self.binary, "up", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *args],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            lines = []
            for line in up.stdout:
                lines.append(line)
                if "Ctrl-C" in line:
                    break
            said = "".join(lines)
            served = re.search(r"served at (\S+)", said)
            if not served:
                raise AssertionError(f"up did not come up: {said} {up.stderr.read()}")
            yield served.group(1), said
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=30)
        if up.returncode != 0:
            raise AssertionError(f"up ended with status {up.returncode}")
