"""llama.cpp as the peer of our benchmarks: its programs, the model files that both sides run, and what its programs measure.

A folder of peer and files is laid out as
  llama.cpp/build/bin/{llama-bench,llama-batched-bench,llama-server}
  gemma3-270m.gguf  e2b-q4_0.gguf  26b-a4b-q4_0.gguf
"""
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request

import random_gguf
from local_cluster import ROOT, Failure, free_port, tail

# The release of llama-cpp-python whose source distribution brings llama.cpp along, and its SHA-256.
SDIST, VERSION = "llama-cpp-python", "0.3.36"
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
PROGRAMS = ("llama-bench", "llama-batched-bench", "llama-server")
FILES = {"270m": "gemma3-270m.gguf", "e2b": "e2b-q4_0.gguf", "26b-a4b": "26b-a4b-q4_0.gguf"}
RUN_SECONDS = 1800  # one run of a program


def cache_folder():
    """Where the peer and the files that nobody brought are kept."""
    return os.path.join(os.environ.get("ALPHECCA_CACHE") or os.path.expanduser("~/.cache/alphecca"), "bench-peer")


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, **more):
    """A step of preparation; what it prints goes to stderr."""
    try:
        subprocess.run(command, stdout=sys.stderr, check=True, **more)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failure(f"{os.path.basename(command[0])}: {error}") from None


# ---- Getting hold of them ------------------------------------------------------------------------------------------------------

def programs(peers):
    """The folder of the peer's programs: that of `peers`, else one that is built here."""
    folder = os.path.join(peers or cache_folder(), "llama.cpp/build/bin")
    missing = [name for name in PROGRAMS if not os.access(os.path.join(folder, name), os.X_OK)]
    if missing and not peers:
        build(cache_folder())
    return folder


def build(folder):
    """llama.cpp from its pinned source, for this processor."""
    source = os.path.join(folder, "llama.cpp")
    if not os.path.isdir(source):
        fetch(source)
    keep_tile_shapes(source)
    say(f"Building llama.cpp in {source}; this takes some minutes")
    run(["cmake", "-S", source, "-B", f"{source}/build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF",
         "-DGGML_NATIVE=ON", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"])
    run(["cmake", "--build", f"{source}/build", "-j", str(os.cpu_count()), "--target", *PROGRAMS])


def keep_tile_shapes(source):
    """GCC 12's header says that loading shapes of AMX tiles reads 8 bytes of 64; the compiler then drops the others, and llama.cpp dies
    of an illegal instruction on processors with AMX. One more operand keeps them."""
    path = os.path.join(source, "ggml/src/ggml-cpu/amx/mmq.cpp")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    call, kept = "    _tile_loadconfig(&tc);", '    asm volatile("" : : "m"(tc)); _tile_loadconfig(&tc);'
    if call in text:
        with open(path, "w", encoding="utf-8") as f:
            f.write(text.replace(call, kept))


def fetch(source):
    """The source distribution, checked by pip against its hash, and llama.cpp out of it."""
    os.makedirs(os.path.dirname(source), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(source)) as folder:
        pin = os.path.join(folder, "pin.txt")
        with open(pin, "w", encoding="utf-8") as f:
            f.write(f"{SDIST}=={VERSION} --hash=sha256:{SDIST_SHA256}\n")
        say(f"Downloading {SDIST} {VERSION}")
        run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:",
             "--require-hashes", "-r", pin, "-d", folder])
        name = f"{SDIST.replace('-', '_')}-{VERSION}"
        with tarfile.open(os.path.join(folder, f"{name}.tar.gz")) as archive:
            vendored = f"{name}/vendor/llama.cpp"
            archive.extractall(folder, [m for m in archive.getmembers() if m.name.startswith(vendored + "/")], filter="data")
        os.replace(os.path.join(folder, vendored), source)


def model_file(name, peers):
    """Path of a model of FILES: in `peers`, else in the cache, else made there now."""
    for folder in filter(None, (peers, cache_folder())):
        path = os.path.join(folder, FILES[name])
        if os.path.exists(path):
            return path
    if name == "270m":
        done = subprocess.run([sys.executable, os.path.join(ROOT, "models/gemma3-270m/fetch.py")], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Failure("gemma3-270m could not be fetched")
        return done.stdout.strip()
    tokenizer = model_file("270m", peers)
    os.makedirs(cache_folder(), exist_ok=True)
    say(f"Writing {path}: the shape of {name}, random weights")
    try:
        random_gguf.make(name, tokenizer, path)
    except (OSError, ValueError) as error:
        raise Failure(f"{FILES[name]}: {error}") from None
    return path


# ---- What its programs measure ---------------------------------------------------------------------------------------------------

class Peer:
    """The programs in a folder, run with so many threads. Methods raise Failure with what a program said last."""

    def __init__(self, folder, threads):
        self.folder = folder
        self.threads = threads

    def _program(self, name):
        path = os.path.join(self.folder, name)
        if not os.access(path, os.X_OK):
            raise Failure(f"no program {name} in {self.folder}")
        return path

    def _run(self, name, *flags):
        try:
            done = subprocess.run([self._program(name), *flags], capture_output=True, text=True, errors="replace", timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"{name} took more than {RUN_SECONDS} s") from None
        if done.returncode != 0:
            raise Failure(f"{name} ended with status {done.returncode}: {done.stderr.strip()[-800:]}")
        return done.stdout

    def bench(self, model, prompt, tokens, *flags, repeat=1):
        """llama-bench: tokens a second by "prefill" and "decode", means of `repeat`; 0 tokens: not that one."""
        out = self._run("llama-bench", "-m", model, "-t", str(self.threads), "-p", str(prompt), "-n", str(tokens), "-r", str(repeat),
                        "-o", "json", *flags)
        try:
            return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in json.loads(out)}
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(f"llama-bench printed no result ({error!r}): {out[-300:]}") from None

    def decode_streams(self, model, streams, prompt, tokens):
        """llama-batched-bench: tokens a second of all streams together while they decode."""
        out = self._run("llama-batched-bench", "-m", model, "-t", str(self.threads), "-tb", str(self.threads), "-c",
                        str(streams * (prompt + tokens)), "-b", "2048", "-ub", "512", "-npp", str(prompt), "-ntg", str(tokens),
                        "-npl", str(streams), "--output-format", "jsonl")
        for line in out.splitlines():
            if line.startswith("{"):
                return json.loads(line)["speed_tg"]
        raise Failure(f"llama-batched-bench printed no result: {out[-300:]}")

    @contextlib.contextmanager
    def server(self, model, slots, context):
        """llama-server with so many slots of `context` tokens each: its address once it is healthy."""
        port = free_port()
        command = [self._program("llama-server"), "-m", model, "-t", str(self.threads), "-tb", str(self.threads), "-c",
                   str(slots * context), "-np", str(slots), "--cache-ram", "0", "--host", "127.0.0.1", "--port", str(port)]
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                _await_health(process, port, log)
                yield f"127.0.0.1:{port}"
            finally:
                process.terminate()
                process.wait()


def _await_health(process, port, log, seconds=300):
    end = time.monotonic() + seconds
    while True:
        if process.poll() is not None:
            raise Failure(f"llama-server ended with status {process.returncode}: {tail(log, 800)}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except (OSError, urllib.error.HTTPError):  # not listening, or 503: still loading
            if time.monotonic() > end:
                raise Failure(f"llama-server was not healthy within {seconds} s") from None
        time.sleep(0.1)
