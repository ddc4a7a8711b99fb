"""Result files of several processes of one call as one file, as a single process would have left it."""

import json
from pathlib import Path


def merge_results(folder: Path, target: Path, command: str) -> Path | None:
    """Write the rows of every result file below `folder` to one in `target`, under the first one's name: its path.

    None where there is no file. Device, limits and date are those of the first file; command: what the file is said to
    come from. A file of an earlier merge in `target` is replaced.
    """
    # Files begin with the time at which they were begun.
    paths = sorted(folder.rglob("*.json"), key=lambda path: path.name)
    if not paths:
        return None
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    merged = contents[0] | {"command": command, "rows": [row for content in contents for row in content["rows"]]}
    target.mkdir(parents=True, exist_ok=True)
    found = target / paths[0].name
    beside = found.with_suffix(".part")
    beside.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
    return beside.replace(found)
