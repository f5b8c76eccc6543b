"""A page in the browser to search in pictures by sentences and pictures, and the same as JSON.

    python vokenization/serve.py --load snap/xmatching/NAME --image-sets album

reads   snap/xmatching/NAME and its keys/{IMAGE_SET}.hdf5; the pictures that they name; with --phrases a caption_db.hdf5
writes  nothing; docs/serve.md has the routes, and what is refused
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from xvoken.cli.main import run_main
from xvoken.cli.serve import main

if __name__ == "__main__":
    run_main(main)
