#!/usr/bin/env bash
# Tokenize the three Reddit files; what is done is skipped.
#   bash tokenization/tokenize_reddit_bert.bash [flags of tokenization/tokenize_dataset.py]
# DATA_DIR=: the folder of the three, data/reddit by default; TOKENIZER=: what training's --lang was, BERT by default.
source "$(dirname "$0")/../scripts/common.bash"
DATA_DIR=${DATA_DIR:-data/reddit}
TOKENIZER=${TOKENIZER:-bert-base-uncased}

for FILE in valid.pkl.txt test.pkl.txt train.pkl.txt; do
    python tokenization/tokenize_dataset.py "$DATA_DIR" "$FILE" "$TOKENIZER" "$@"
done
