"""tools/release: what is in the archive, and that it comes out the same twice. (Building twice is `tools/release --verify`.)"""
import hashlib
import json
import os
import shutil
import struct
import subprocess
import tarfile
import unittest

from harness import ENGINE, HERE, Case, main
from sanitized import SANITIZED

RELEASE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "release")


@unittest.skipUnless(shutil.which("dpkg-query") and os.path.isdir("/usr/share/common-licenses"), "not on Debian: licences of packages are not to be had")
class Release(Case):
    @classmethod
    def setUpClass(cls):
        # Two programs of the same bytes in different places, at different times.
        cls.archives = []
        for folder in ("first", "second-place"):
            place = os.path.join(HERE, folder)
            os.makedirs(place)
            program = shutil.copy(ENGINE, os.path.join(place, "program"))
            done = subprocess.run([RELEASE, "--pack", program, "--out", place], capture_output=True, text=True,
                                  env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
            if done.returncode != 0:
                raise AssertionError(done.stderr)
            cls.archives += [os.path.join(place, name) for name in os.listdir(place) if name.endswith(".tar.gz")]
        with tarfile.open(cls.archives[0]) as tar:
            cls.members = tar.getmembers()
            cls.top = cls.members[0].name
            cls.files = {m.name[len(cls.top) + 1:]: tar.extractfile(m).read() for m in cls.members if m.isfile()}

    def test_same_bytes(self):
        first, second = (open(path, "rb").read() for path in self.archives)
        self.assertEqual(hashlib.sha256(first).hexdigest(), hashlib.sha256(second).hexdigest())
        with open(self.archives[0] + ".sha256") as file:
            self.assertEqual(file.read().split()[0], hashlib.sha256(first).hexdigest())
        self.assertEqual({(m.mtime, m.uid, m.gid) for m in self.members}, {(1700000000, 0, 0)})
        self.assertEqual([m.name for m in self.members], sorted(m.name for m in self.members))

    def test_contents(self):
        for name in ("engine", "LICENSE", "README.md", "THIRD_PARTY.md", "engine.1", "completions/engine.bash", "completions/_engine",
                     "completions/engine.fish", "SHA256SUMS", "sbom.spdx.json", "licenses/LGPL-2.1.txt", "licenses/GNU-C-library.txt"):
            self.assertTrue(self.files.get(name), name)
        with open(ENGINE, "rb") as file:
            self.assertEqual(self.files["engine"], file.read())
        self.assertEqual([m.mode for m in self.members if m.name == self.top + "/engine"], [0o755])
        for line in self.files["SHA256SUMS"].decode().splitlines():
            digest, name = line.split("  ")
            self.assertEqual(digest, hashlib.sha256(self.files[name]).hexdigest())
        self.assertEqual(len(self.files["SHA256SUMS"].splitlines()), len(self.files) - 1)

    def test_bill_of_materials(self):
        bill = json.loads(self.files["sbom.spdx.json"])
        self.assertEqual(bill["spdxVersion"], "SPDX-2.3")
        self.assertEqual(bill["creationInfo"]["created"], "2023-11-14T22:13:20Z")
        ids = {package["SPDXID"] for package in bill["packages"]}
        self.assertEqual(len(ids), len(bill["packages"]))
        linked = {r["relatedSpdxElement"] for r in bill["relationships"] if r["relationshipType"] == "STATIC_LINK"}
        self.assertEqual(linked | {"SPDXRef-engine"}, ids)
        # Every library of THIRD_PARTY.md, with a licence's text beside it.
        table = [line.split("|")[1:3] for line in self.files["THIRD_PARTY.md"].decode().splitlines() if line.startswith("| ")][1:]
        names = {package["name"] for package in bill["packages"]}
        tls = json.loads(subprocess.run([ENGINE, "version", "--json"], capture_output=True).stdout)["tls"]
        for library, _ in table:
            library = library.split("(")[0].strip()
            if library == "mbedTLS" and not tls:
                continue
            self.assertIn(library, names)
        for package in bill["packages"]:
            self.assertTrue(package["versionInfo"] and package["licenseConcluded"], package)

    @unittest.skipIf(SANITIZED, "it has line numbers, with names of files")
    def test_no_place_of_building(self):
        for name in ("/home/", os.path.abspath(os.path.join(os.path.dirname(RELEASE), "..")) + "/"):
            self.assertNotIn(name.encode(), self.files["engine"])

    @unittest.skipIf(SANITIZED, "a sanitizer is a large part of its program")
    def test_size(self):
        # Of what is loaded: symbols for debuggers, which a release has not, do not count. The limit is for all parts, TLS and the demo model too.
        program = self.files["engine"]
        (first,), (size, count) = struct.unpack_from("<Q", program, 32), struct.unpack_from("<HH", program, 54)
        segments = [struct.unpack_from("<IIQQQQQQ", program, first + i * size) for i in range(count)]
        self.assertLess(sum(n_bytes for kind, _, _, _, _, n_bytes, _, _ in segments if kind == 1), 7_800_000)

    def test_command_line(self):
        done = subprocess.run([RELEASE, "sparc"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("x86_64", done.stderr)


main()
