"""Whether an installed wheel leaves its neighbours alone: python -m tests.neighbours [--keep DIR].

Beside Hugging Face's `kernels`, `transformers` and `sentence-transformers` in a fresh virtual environment: everything
can be imported, the command works from a folder that holds a user's own train.py and bert.py, and once Concord is
uninstalled every file of the others is as it was. Takes minutes and a package index, which is why it is no test.
"""

import argparse
import base64
import csv
import hashlib
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.wheels import build_wheel

TORCH = "torch==2.13.0"
NEIGHBOURS = ("kernels", "transformers", "sentence-transformers")
IMPORTS = "import kernels, transformers, sentence_transformers; print(kernels.__file__)"
OWN = "raise SystemExit('a module of the user was imported in place of Concord')\n"
RUN = ("run", "--model", "tiny", "--surgery", "pcgrad", "--max-steps", "2", "--dev-examples", "20", "--out", "first")


class Environment:
    """A virtual environment in a folder, whose commands are printed and must succeed."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        self.folder = folder
        self.programs = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        # The checkout must not be found, and neither must caches of earlier runs.
        hidden = ("PYTHONPATH", "PYTHONHOME", "CONCORD_MINILM")
        self.variables = {key: value for key, value in os.environ.items() if key not in hidden}
        self.variables |= {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        self.site = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip())

    def call(self, program: str, *arguments: str) -> str:
        """What a program of the environment prints, started in the user's folder. SystemExit where it fails."""
        print("$", program, *arguments, flush=True)
        user = self.folder / "user"
        user.mkdir(exist_ok=True)
        command = [str(self.programs / program), *arguments]
        found = subprocess.run(command, cwd=user, env=self.variables, capture_output=True, text=True)
        if found.returncode:
            raise SystemExit(f"{found.stdout}{found.stderr}exit code {found.returncode}")
        return found.stdout

    def pip(self, *arguments: str) -> str:
        """What pip prints. It keeps its cache, which the other commands are not to see."""
        return self.call("python", "-m", "pip", *arguments)

    def python(self, code: str) -> str:
        """What Python prints, isolated from the current folder."""
        return self.call("python", "-I", "-c", code)

    def names(self) -> set[str]:
        """The names at the top of what is installed, without compiled files."""
        return {path.name for path in self.site.iterdir()} - {"__pycache__"}


def recorded(site: Path) -> dict[str, str]:
    """Every file that an installed distribution's RECORD has a digest of -> the digest that the file has now."""
    digests = {}
    for record in sorted(site.glob("*.dist-info/RECORD")):
        with record.open(encoding="utf-8", newline="") as lines:
            for name, written, _ in csv.reader(lines):
                if not written:
                    continue
                digest = hashlib.sha256((site / name).read_bytes()).digest()
                digests[name] = "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                if digests[name] != written:
                    raise SystemExit(f"{record}: {name} is not what was installed")
    return digests


def check(folder: Path) -> None:
    """Install, use and uninstall, in an empty folder. SystemExit where anything is amiss."""
    wheel = build_wheel(folder / "built")
    environment = Environment(folder)
    environment.pip("install", "--quiet", TORCH)
    environment.pip("install", "--quiet", *NEIGHBOURS)
    before, names = recorded(environment.site), environment.names()
    print(f"{len(before)} files of {len(list(environment.site.glob('*.dist-info')))} distributions are recorded")
    alone = environment.python(IMPORTS)

    environment.pip("install", "--quiet", str(wheel))
    print(environment.pip("check"), end="")
    together = environment.python(f"import concord, concord.kernels, concord.bert, concord.train; {IMPORTS}")
    expect(together == alone, f"kernels is {together}, and was {alone}")
    expect(not {"bert", "train"} & environment.names(), "a room lies at the top")
    with_concord = recorded(environment.site)
    expect(before.items() <= with_concord.items(), "installing has changed files of the others")
    for module in ("train", "bert"):
        (folder / "user" / f"{module}.py").write_text(OWN, encoding="utf-8")
    print(environment.call("concord", "--help").splitlines()[0])
    print(environment.call("concord", *RUN), end="")

    environment.pip("uninstall", "--quiet", "--yes", "concord-bert")
    expect(not {name for name in environment.names() if "concord" in name}, "uninstalling has left files")
    after = recorded(environment.site)
    expect(before.items() <= after.items(), "uninstalling has changed files of the others")
    expect(names <= environment.names(), f"uninstalling has removed {names - environment.names()}")
    print(environment.pip("check"), end="")
    expect(environment.python(IMPORTS) == alone, "kernels lies elsewhere")
    print(f"all {len(before)} files of the others are as they were")


def expect(holds: bool, otherwise: str) -> None:
    """SystemExit that says `otherwise` where it does not hold."""
    if not holds:
        raise SystemExit(otherwise)


def main() -> None:
    """Check in a folder that is removed afterwards, or in the one that is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.neighbours", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", metavar="DIR", type=Path, help="empty or new folder to work in, which is kept")
    keep = parser.parse_args().keep
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        check(keep.resolve())
        return
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
