#!/usr/bin/env bash
# Tokenize the three Reddit files; finished files are skipped.
#   bash tokenization/tokenize_reddit_bert.bash [flags of tokenization/tokenize_dataset.py]
# DATA_DIR=: folder of the three files, data/reddit by default; TOKENIZER=: the text tower given to training as --lang, BERT by default.
source "$(dirname "$0")/../scripts/common.bash"
DATA_DIR=${DATA_DIR:-data/reddit}
TOKENIZER=${TOKENIZER:-bert-base-uncased}

for FILE in valid.pkl.txt test.pkl.txt train.pkl.txt; do
    python tokenization/tokenize_dataset.py "$DATA_DIR" "$FILE" "$TOKENIZER" "$@"
done
