"""Write a page of a voken file: all lines of a corpus with the pictures that were found for them.

    python vokenization/page.py --vokens snap/xmatching/NAME/vokens/CORPUS.IMAGE_SET
    python vokenization/page.py --load snap/xmatching/NAME --corpus text/lines.txt --image-sets album   # the same, in retrieval's words

reads   the voken file, the text, keys/{IMAGE_SET}.ids and .path, the pictures; of a trained matcher metrics.jsonl and eval/
writes  {corpus}.{IMAGE_SET}.page.html and the folder {corpus}.{IMAGE_SET}.page/ beside the voken file; docs/pages.md
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from xvoken.cli.main import run_main
from xvoken.cli.page import main

if __name__ == "__main__":
    run_main(main)
