"""``make bench``: every measurement that is there, each in a process of its own.

Needs ``$TLTF_TEST_DATA`` and the weights in ``$KERAS_HOME``; says so and goes on where they
are missing. Results are printed and left as JSON below ``runs/bench``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MEASUREMENTS = ("speed", "quality", "checkpoint")


def main(folder: Path = Path("runs/bench")) -> int:
    """Runs all of them; the exit code is that of the first one that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    worst = 0
    for name in MEASUREMENTS:
        command = ["-m", f"experiments.benchmarks.{name}", f"--workdir={folder / name}"]
        print(f"== python {' '.join(command)}", flush=True)
        worst = worst or subprocess.run([sys.executable, *command], check=False).returncode
    return worst


if __name__ == "__main__":
    sys.exit(main())
