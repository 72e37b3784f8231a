#!/usr/bin/env python3
"""`alphecca pull` against a local HTTP server that behaves like a model hub: listing, hashes, broken and resumed transfers,
wrong checksums, hostile listings, missing repositories.

  hub_test.py BIN_FOLDER
"""
import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import unittest

BIN = os.path.join(sys.argv[1], "alphecca")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {"config.json": b'{"model_type": "gemma4"}', "model.safetensors": WEIGHTS, "tokenizer.json": b"{}",
         "README.md": b"not needed"}


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository, org/good. The server's attributes plan its faults and count its requests."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, code, body, headers=()):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        hub = self.server
        hub.requests.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        if self.path in ("/api/models/org/good/revision/main", f"/api/models/org/good/revision/{COMMIT}"):
            names = hub.listing if hub.listing is not None else list(FILES)
            body = json.dumps({"sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}).encode()
            return self.answer(200, body)
        prefix = f"/org/good/resolve/{COMMIT}/"
        name = self.path[len(prefix):] if self.path.startswith(prefix) else None
        if name is None or name not in FILES:
            return self.answer(404, b"no such file")
        body = FILES[name]
        if name == "model.safetensors":
            digest = hashlib.sha256(body).hexdigest()
            headers = [("X-Linked-Etag", f'"{digest}"')]
        else:
            digest = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            headers = [("ETag", f'"{digest}"')]
        if hub.corrupt == name:
            body = body[:-1] + b"?"
        start, code = 0, 200
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            code = 206
            headers.append(("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}"))
        if hub.cut == name:
            hub.cut = None
            self.send_response(code)
            self.send_header("Content-Length", str(len(body) - start))
            for key, value in headers:
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body[start:start + 300_000])
            self.wfile.flush()
            self.close_connection = True
            return None
        return self.answer(code, body[start:], headers)


class HubTest(unittest.TestCase):
    def setUp(self):
        self.hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        self.hub.requests, self.hub.cut, self.hub.corrupt, self.hub.listing = [], None, None, None
        threading.Thread(target=self.hub.serve_forever, daemon=True).start()
        self.cache = tempfile.TemporaryDirectory()

    def tearDown(self):
        self.hub.shutdown()
        self.hub.server_close()
        self.cache.cleanup()

    def pull(self, model="hf:org/good", **env):
        env = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{self.hub.server_address[1]}", "ALPHECCA_CACHE": self.cache.name,
               **env}
        return subprocess.run([BIN, "pull", model], env=env, capture_output=True, text=True, timeout=60)

    def folder(self):
        return os.path.join(self.cache.name, "org--good", COMMIT)

    def test_fetches_what_serving_needs(self):
        run = self.pull(HF_TOKEN="secret")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(run.stdout.strip(), self.folder())
        self.assertEqual(sorted(os.listdir(self.folder())), ["config.json", "model.safetensors", "tokenizer.json"])
        with open(os.path.join(self.folder(), "model.safetensors"), "rb") as f:
            self.assertEqual(f.read(), WEIGHTS)
        self.assertTrue(all(auth == "Bearer secret" for _, _, auth in self.hub.requests))

    def test_fetches_nothing_twice(self):
        self.assertEqual(self.pull().returncode, 0)
        self.hub.requests.clear()
        self.assertEqual(self.pull(f"hf:org/good@{COMMIT}").returncode, 0)
        self.assertEqual(len(self.hub.requests), 1)

    def test_resumes_a_broken_transfer(self):
        self.hub.cut = "model.safetensors"
        run = self.pull()
        self.assertEqual(run.returncode, 0, run.stderr)
        ranges = [r for path, r, _ in self.hub.requests if path.endswith("model.safetensors")]
        self.assertEqual(ranges, [None, "bytes=300000-"])
        with open(os.path.join(self.folder(), "model.safetensors"), "rb") as f:
            self.assertEqual(f.read(), WEIGHTS)

    def test_resumes_a_part_of_an_earlier_run(self):
        os.makedirs(self.folder())
        with open(os.path.join(self.folder(), "model.safetensors.part"), "wb") as f:
            f.write(WEIGHTS[:1000])
        self.assertEqual(self.pull().returncode, 0)
        self.assertIn("bytes=1000-", [r for _, r, _ in self.hub.requests])

    def test_replaces_a_stale_part(self):
        os.makedirs(self.folder())
        with open(os.path.join(self.folder(), "model.safetensors.part"), "wb") as f:
            f.write(b"x" * 1000)
        self.assertEqual(self.pull().returncode, 0)
        with open(os.path.join(self.folder(), "model.safetensors"), "rb") as f:
            self.assertEqual(f.read(), WEIGHTS)

    def test_refuses_a_wrong_checksum(self):
        for name in ("config.json", "model.safetensors"):
            self.hub.corrupt = name
            run = self.pull()
            self.assertEqual(run.returncode, 1)
            self.assertIn("checksum", run.stderr)
            self.assertFalse(os.path.exists(os.path.join(self.folder(), name)))

    def test_refuses_a_hostile_listing(self):
        for name in ("../evil.json", "/etc/evil.json", "a/../../evil.json"):
            self.hub.listing = ["config.json", name]
            run = self.pull()
            self.assertEqual(run.returncode, 2)
            self.assertIn("leaves its folder", run.stderr)

    def test_says_what_is_not_there(self):
        run = self.pull("hf:org/none")
        self.assertEqual(run.returncode, 2)
        self.assertIn("404", run.stderr)

    def test_refuses_bad_references(self):
        for model in ("hf:", "hf:one", "hf:a/b/c", "hf:../b", "hf:a/b@", "hf:a/b@x/y"):
            run = self.pull(model)
            self.assertEqual(run.returncode, 2, model)
            self.assertIn("hf:org/repo", run.stderr)
        self.assertEqual(self.hub.requests, [])

    def test_no_server(self):
        run = self.pull(HF_ENDPOINT="http://127.0.0.1:9")
        self.assertEqual(run.returncode, 1)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
