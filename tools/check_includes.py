#!/usr/bin/env python3
"""Checks who includes whom: folders may include only those below them, and each outside library only where it belongs."""
import re
import subprocess
import sys

# folder -> project folders it may include besides itself (the longest matching prefix of a file's path decides)
ALLOWED = {
    "common": [],
    "kernels": ["common"],
    "model": ["common", "kernels"],
    "text": ["common", "model"],
    "worker/comm": ["common", "kernels"],
    "worker/forward": ["common", "kernels", "model", "worker/comm"],
    "worker/engine": ["common", "kernels", "model", "worker/comm", "worker/forward"],
    "worker/verify": ["common", "kernels", "model", "worker"],
    "worker": ["common", "kernels", "model", "alphecca/v1"],
    "coordinator": ["common", "kernels", "model", "text", "alphecca/v1", "google/rpc"],
    "cli": ["common", "kernels", "model", "text", "worker", "coordinator", "alphecca/v1", "google/rpc"],
}
# pattern of an include -> folders or files that may have it
OUTSIDE = {
    r"grpcpp/|grpc/|\.grpc\.pb\.h": ["worker/rpc", "worker/main.cc", "coordinator/rpc", "coordinator/api",
                                     "coordinator/main.cc", "cli"],
    r"gloo/": ["worker/comm/gloo"],
    r"nccl": ["worker/comm/nccl"],
    r"prometheus/": ["common/metrics.cc"],
    r"cuda": ["kernels/cuda", "worker/comm/nccl"],
    r"spdlog/": ["common/log"],
}
INCLUDE = re.compile(r'^\s*#include\s+["<]([^">]+)[">]', re.M)


def main():
    files = subprocess.run(["git", "ls-files", "*.h", "*.cc", "*.cu"], capture_output=True, text=True, check=True).stdout.split()
    bad = []
    for path in files:
        owner = max((f for f in ALLOWED if path.startswith(f + "/")), key=len, default=None)
        if owner is None:
            continue  # tests, bench
        for name in INCLUDE.findall(open(path, encoding="utf-8").read()):
            for pattern, places in OUTSIDE.items():
                if re.search(pattern, name) and not any(path.startswith(p) for p in places):
                    bad.append(f"{path}: <{name}> belongs to {', '.join(places)}")
            folder = max((f for f in [*ALLOWED, "alphecca/v1", "google/rpc"] if name.startswith(f + "/")), key=len, default=None)
            if folder is None or folder == owner or owner.startswith(folder + "/") or folder.startswith(owner + "/"):
                continue
            if not any(folder == a or folder.startswith(a + "/") for a in ALLOWED[owner]):
                bad.append(f"{path}: {owner} must not include {name}")
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
