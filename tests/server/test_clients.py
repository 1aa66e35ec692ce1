"""Programs that nobody here wrote: npm's `openai` and `ai`, and Chromium. Skipped where node or its packages cannot be had."""
import os
import re
import shutil
import subprocess
import sys

import server as s

SOURCE = os.path.join(s.HERE, "npm")
SKIPPED = 77


def skip(why):
    print(f"SKIPPED: {why}\n0 passed, 0 failed, 1 skipped")
    sys.exit(SKIPPED)


def packages():
    """A folder with the packages of package-lock.json; made once, in $ENGINE_NPM or beside the build."""
    folder = os.environ.get("ENGINE_NPM") or os.path.join(os.getcwd(), "npm")
    lock = os.path.join(SOURCE, "package-lock.json")
    done = os.path.join(folder, "installed-lock.json")
    if not (os.path.exists(done) and open(done).read() == open(lock).read()):
        os.makedirs(folder, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(os.path.join(SOURCE, name), folder)
        result = subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True, timeout=300)
        if result.returncode != 0:
            skip("npm ci: " + (result.stderr.strip().splitlines() or ["failed"])[-1])
        shutil.copy(lock, done)
    for name in os.listdir(SOURCE):
        if name.endswith(".mjs"):
            shutil.copy(os.path.join(SOURCE, name), folder)  # beside node_modules, where node looks for packages
    return folder


def main():
    if not shutil.which("node") or not shutil.which("npm"):
        skip("node and npm are not here")
    program = sys.argv[1]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if program == "page.mjs" and not chromium:
        skip("chromium is not here")
    folder = packages()
    template = os.path.join(s.SCRATCH, "tools.jinja")
    with open(template, "w") as file:
        file.write(s.tiny_model.TOOLS)
    with s.Server(s.alphabet_model(), "--parallel", "4") as server, s.Server(s.roomy_model(), "--chat-template", template) as tools:
        command = ["node", os.path.join(folder, program), server.at]
        if program == "page.mjs":
            shots = os.environ.get("ENGINE_SCREENSHOTS") or os.path.join(s.SCRATCH, "shots")
            os.makedirs(shots, exist_ok=True)
            command += [chromium, shots]
        else:
            command += [tools.at]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    print(result.stdout)
    if not re.search(r"^\d+ passed, \d+ failed$", result.stdout, re.M):
        print("0 passed, 1 failed")
    sys.exit(result.returncode)


main()
