#!/usr/bin/env bash
# Tokenize the three files of the English Wikipedia as Vokenization does, into lines and sentences; finished files are skipped.
#   bash tokenization/tokenize_wiki_bert.bash [flags of tokenization/tokenize_dataset.py]
# DATA_DIR=: folder of the three files, data/wiki-cased by default; TOKENIZER=: bert-base-uncased by default. Splitting into sentences
# needs spaCy: pip install -e '.[sentences]' -c constraints.txt; --no-sentences does without.
source "$(dirname "$0")/../scripts/common.bash"
DATA_DIR=${DATA_DIR:-data/wiki-cased}
TOKENIZER=${TOKENIZER:-bert-base-uncased}

for FILE in en.valid.raw en.test.raw en.train.raw; do
    python tokenization/tokenize_dataset.py "$DATA_DIR" "$FILE" "$TOKENIZER" --filter wiki --sentences "$@"
done
