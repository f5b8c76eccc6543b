"""Check files that stages wrote: read them whole, compare them with each other, and describe their content. See xvoken/cli/check.py.

python scripts/check.py snap/xmatching/NAME snap/xmatching/NAME/keys/open_images.hdf5 data/reddit/valid.pkl.txt.bert-base-uncased.hdf5
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from xvoken.cli.check import main
from xvoken.cli.main import run_main

if __name__ == "__main__":
    run_main(main)
