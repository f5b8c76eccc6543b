"""Find pictures for sentences and pictures: ask the keys of image sets, or a folder. See xvoken/cli/search.py and docs/ask.md.

    python vokenization/search.py --load snap/xmatching/NAME --image-sets album "a dog on the beach"

reads   snap/xmatching/NAME and its keys/{IMAGE_SET}.hdf5, .ids, .path; with --images FOLDER the pictures that are new in it
prints  of each query the best pictures' ranks, scores and paths; with --json an object a line: query, results with rank, score, id, path
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from xvoken.cli.main import run_main
from xvoken.cli.search import main

if __name__ == "__main__":
    run_main(main)
