#!/usr/bin/env bash
# Tokenize the three files of WikiText-103 as Vokenization does, into lines and sentences; finished files are skipped.
#   bash tokenization/tokenize_wiki103_bert.bash [flags of tokenization/tokenize_dataset.py]
# DATA_DIR=: folder of the three files, data/wiki103-cased by default; TOKENIZER=: bert-base-uncased by default. Splitting into sentences
# needs spaCy: pip install -e '.[sentences]' -c constraints.txt; --no-sentences does without.
source "$(dirname "$0")/../scripts/common.bash"
DATA_DIR=${DATA_DIR:-data/wiki103-cased}
TOKENIZER=${TOKENIZER:-bert-base-uncased}

for FILE in wiki.valid.raw wiki.test.raw wiki.train.raw; do
    python tokenization/tokenize_dataset.py "$DATA_DIR" "$FILE" "$TOKENIZER" --filter wiki103 --sentences "$@"
done
