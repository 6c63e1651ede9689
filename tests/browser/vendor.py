"""`make vendor`: gets the scripts of others that the live page has again, by npm.

It writes the bill of materials of them, too, which becomes a part of each wheel.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parents[2] / "python/flask_delay/dashboard/static/vendor"
BILL = VENDOR / "vendor.cdx.json"


def packages() -> list[dict[str, Any]]:
    """What `vendor.toml` says."""
    found: list[dict[str, Any]] = tomllib.loads((VENDOR / "vendor.toml").read_text())["package"]
    return found


def bill() -> str:
    """The same as CycloneDX."""
    components = []
    for package in packages():
        purl = f"pkg:npm/{package['name']}@{package['version']}"
        digest = base64.b64decode(package["integrity"].removeprefix("sha512-"))
        files = [
            {
                "type": "file",
                "name": f"flask_delay/dashboard/static/vendor/{file['path']}",
                "hashes": [{"alg": "SHA-256", "content": file["sha256"]}],
            }
            for file in package["file"]
        ]
        components.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": package["name"],
                "version": package["version"],
                "hashes": [{"alg": "SHA-512", "content": digest.hex()}],
                "licenses": [{"license": {"id": package["licence"]}}],
                "purl": purl,
                "components": files,
            }
        )
    told = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}
    return json.dumps(told, indent=2) + "\n"


def main() -> None:
    for package in packages():
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
    BILL.write_text(bill())


if __name__ == "__main__":
    main()
