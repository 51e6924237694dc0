"""Counts lines and words of the files that are listed in a file, as a program of its own.

python counting.py PATHS OUTPUT CHUNKSIZE
manyhands map counting.py:count PATHS --output OUTPUT --on process
"""

from __future__ import annotations

import sys
from pathlib import Path


def count(path: str) -> tuple[int, int]:
    text = Path(path).read_bytes()
    return text.count(b"\n"), len(text.split())


def main(paths: str, output: str, chunk: str) -> None:
    # Here, for `count` needs neither, and workers of others import it with this file.
    import json
    from concurrent.futures import ProcessPoolExecutor

    listed = Path(paths).read_text().splitlines()
    with ProcessPoolExecutor(2) as pool, Path(output).open("w") as results:
        for counted in pool.map(count, listed, chunksize=int(chunk)):
            results.write(json.dumps(counted) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
