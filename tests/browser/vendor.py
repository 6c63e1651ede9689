"""`make vendor`: gets the scripts of others that the live page has again, by npm."""

import base64
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "python/flask_delay/dashboard/static/vendor"


def main() -> None:
    for package in tomllib.loads((VENDOR / "vendor.toml").read_text())["package"]:
        name = f"{package['name']}@{package['version']}"
        with tempfile.TemporaryDirectory() as folder:
            packed = subprocess.run(
                ["npm", "pack", "--silent", name], cwd=folder, check=True, stdout=subprocess.PIPE
            )
            archive = Path(folder, packed.stdout.decode().split()[-1])
            digest = hashlib.sha512(archive.read_bytes()).digest()
            if package["integrity"] != f"sha512-{base64.b64encode(digest).decode()}":
                sys.exit(f"{name} is not what vendor.toml says")
            with tarfile.open(archive) as opened:
                for path, source in [
                    (package["licence_file"], "LICENSE"),
                    *((file["path"], file["from"]) for file in package["file"]),
                ]:
                    member = opened.extractfile(f"package/{source}")
                    assert member is not None
                    content = member.read()
                    (VENDOR / path).write_bytes(content)
                    print(f"{name}: {path} sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
