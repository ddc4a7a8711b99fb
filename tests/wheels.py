"""Builds the wheel of this checkout, as tests install it and look into it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build_wheel(folder: Path) -> Path:
    """The wheel, built in an empty `folder` from a copy of what git knows or would add."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():  # git knows a file that has been removed, too
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    # An isolated build would need a package registry; setuptools is here already.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder / "dist")]
    subprocess.run([*command, str(folder / "source")], check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("concord_bert-*.whl")
    return wheel
