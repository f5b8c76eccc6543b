#!/usr/bin/env bash
# Find pictures for sentences: of a folder, for a text file with a sentence a line, or for one sentence. Ends with a page to open.
#   bash scripts/find.bash --model openai/clip-vit-base-patch32 --images photos --texts lines.txt
#   bash scripts/find.bash --images photos --texts "a dog on the beach"
# --model: a CLIP or SigLIP model (hub id or folder), open_clip:MODEL/PRETRAINED or a trained matcher, openai/clip-vit-base-patch32 by default
# --topk 5: pictures a sentence    --device, --precision: as for search    --output outputs/find: folder of all that is written
# What is made goes by the pictures, the text and the model: the same command again makes only what has changed, as pictures that are new.
# Precision is auto by default, bf16 where the device has units for it, as for xvoken search, with which it shares what is encoded.
CALLED_FROM=$PWD # relative names are looked for there
source "$(dirname "$0")/common.bash"
(($#)) || usage_error "--images FOLDER and --texts FILE_OR_SENTENCE are missing"

# MODEL, IMAGES, OUTPUT, DEVICE, PRECISION, TOPK, TITLE, PAGE; SET and TEXT, names that change with the pictures and the text; TOKENIZER
INPUTS=$(ROOT=$PWD && cd "$CALLED_FROM" && python "$ROOT/scripts/find_inputs.py" "$@")
eval "$INPUTS"
COMPUTE=(--device "$DEVICE" --precision "$PRECISION")

# $OUTPUT/keys: the pictures in order, and their vectors; only pictures that are new or changed are encoded
python scripts/find_keys.py --load "$MODEL" --images "$IMAGES" --image-set "$SET" --keys-dir "$OUTPUT/keys" "${COMPUTE[@]}"

# All pictures where there are fewer than TOPK.
THERE=$(wc -l < "$OUTPUT/keys/$SET.ids")
TOPK=$((TOPK < THERE ? TOPK : THERE))
VOKENS=$OUTPUT/vokens/top$TOPK

# $OUTPUT/texts: the sentences and their tokens
python tokenization/tokenize_dataset.py "$OUTPUT/texts" "$TEXT" "$TOKENIZER"

# $OUTPUT/vokens: the pictures of every sentence
python vokenization/vokenize_corpus_mp.py --load "$MODEL" --corpus "$OUTPUT/texts/$TEXT" --tokenizer-name "$TOKENIZER" \
    --image-sets "$SET" --keys-dir "$OUTPUT/keys" --output "$VOKENS" --topk "$TOPK" "${COMPUTE[@]}"

# $OUTPUT/$PAGE: all of it, to look at
python vokenization/page.py --load "$MODEL" --corpus "$OUTPUT/texts/$TEXT" --image-sets "$SET" --vokens-dir "$VOKENS" \
    --keys-dir "$OUTPUT/keys" --title "$TITLE" --output "$OUTPUT/$PAGE"
