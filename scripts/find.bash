#!/usr/bin/env bash
# Find pictures for sentences: of a folder, for a text file with a sentence a line, or for one sentence. Ends with a page to open.
#   bash scripts/find.bash --model openai/clip-vit-base-patch32 --images photos --texts lines.txt
#   bash scripts/find.bash --images photos --texts "a dog on the beach"
# --model: a CLIP or SigLIP model (hub id or folder) or a trained matcher, openai/clip-vit-base-patch32 by default
# --topk 5: pictures a sentence    --device, --precision: as for the stages    --output outputs/find: folder of all that is written
# What is made goes by the pictures, the text and the model: the same command again makes only what has changed.
CALLED_FROM=$PWD # relative names are looked for there
source "$(dirname "$0")/common.bash"
(($#)) || usage_error "--images FOLDER and --texts FILE_OR_SENTENCE are missing"

# MODEL, IMAGES, OUTPUT, DEVICE, PRECISION, TOPK; SET and TEXT, names that change with the pictures and the text; TOKENIZER
INPUTS=$(ROOT=$PWD && cd "$CALLED_FROM" && python "$ROOT/scripts/find_inputs.py" "$@")
eval "$INPUTS"
COMPUTE=(--device "$DEVICE" --precision "$PRECISION")

# $OUTPUT/ids, keys: the order of the pictures, and their vectors
python vokenization/create_image_ids.py --image-sets "$SET=$IMAGES" --ids-root "$OUTPUT/ids"
python vokenization/extract_vision_keys.py --load "$MODEL" --image-sets "$SET" --ids-root "$OUTPUT/ids" \
    --output-dir "$OUTPUT/keys" --cache "$OUTPUT/cache/$SET" "${COMPUTE[@]}"

# All pictures where there are fewer than TOPK.
THERE=$(wc -l < "$OUTPUT/keys/$SET.ids")
TOPK=$((TOPK < THERE ? TOPK : THERE))
VOKENS=$OUTPUT/vokens/top$TOPK

# $OUTPUT/texts: the sentences and their tokens
python tokenization/tokenize_dataset.py "$OUTPUT/texts" "$TEXT" "$TOKENIZER"

# $OUTPUT/vokens: the pictures of every sentence
python vokenization/vokenize_corpus_mp.py --load "$MODEL" --corpus "$OUTPUT/texts/$TEXT" --tokenizer-name "$TOKENIZER" \
    --image-sets "$SET" --keys-dir "$OUTPUT/keys" --output "$VOKENS" --topk "$TOPK" "${COMPUTE[@]}"

# $OUTPUT/page.html: all of it, to look at
python vokenization/page.py --load "$MODEL" --corpus "$OUTPUT/texts/$TEXT" --image-sets "$SET" --vokens-dir "$VOKENS" \
    --keys-dir "$OUTPUT/keys" --output "$OUTPUT/page.html"
