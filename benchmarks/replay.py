"""How far exported configurations land from what was recorded of them: `sweeper export --top N`, then `sweeper train` each.

    python benchmarks/replay.py digits --top 10 -- --workers 1 --width 16
    python benchmarks/replay.py digits --top 10 -- --workers 1 --width 1 --trials 12

What follows `--` is for `sweeper run`. Everything is done by the commands, as a user would, in a folder that is thrown away.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Run the study, export its best, train each again, and print how far they are apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--top", type=int, default=10)
    before, options = sys.argv[1:], list[str]()
    if "--" in before:
        before, options = before[: before.index("--")], before[before.index("--") + 1 :]
    asked = parser.parse_args(before)
    with tempfile.TemporaryDirectory() as folder:

        def sweeper(*words: str) -> str:
            command = [sys.executable, "-m", "sweeper", *words]
            return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout

        sweeper("--quiet", "run", asked.study, "--set", "confirm.top=0", *options)
        name = json.loads(sweeper("list", "--json"))[0]["name"]
        sweeper("export", name, "--top", str(asked.top), "-o", "top.json")
        exported = json.loads((Path(folder) / "top.json").read_text())
        exact = 0
        for number, best in enumerate(exported, start=1):
            replay = json.loads(sweeper("train", "top.json", "--number", str(number), "--json"))
            recorded, reached = replay["recorded_validation_accuracy"], replay["validation_accuracies"][0]
            exact += recorded == reached
            loss = best["hyperparameters"]["loss"]
            print(f"trial {replay['trial']:>4} {loss:<14} recorded {recorded:.4%} reached {reached:.4%} {reached - recorded:+.4%}")
        print(f"{exact} of {len(exported)} bit for bit")


if __name__ == "__main__":
    main()
