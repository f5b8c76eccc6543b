#!/usr/bin/env bash
# Run the whole chain on small real data: install, make the data (pictures of OpenMoji, dialogues of ChatterBot), train, retrieve,
# and write a page with the results.
#   bash scripts/demo.bash
# The stages are the same as for COCO, Open Images and Reddit; finished stages are skipped.
source "$(dirname "$0")/common.bash"
DATA=data/demo
LOAD=snap/xmatching/demo
SETS=openmoji_train,openmoji_valid,openmoji_heldout
ROOTS=(--lxmert-root $DATA/lxmert --image-root $DATA/images)

# .venv: the Python environment
install_environment demo

# $DATA/images, lxmert/, raw/: pictures, captions, dialogues
python scripts/demo_data.py $DATA

# $LOAD: train the matcher on the frozen towers' outputs for pictures and captions
OUTPUT=$LOAD bash scripts/run_xmatching.bash 0 "${ROOTS[@]}" \
    --train-imgs openmoji_train --valid-imgs openmoji_valid --train-langs openmoji --valid-langs openmoji \
    --lang minilm --visn efficientnet_lite2 --recipe best

# $DATA/dialogues: train.pkl.txt, one dialogue per line, and its tokens
python tokenization/prepare_reddit.py $DATA/raw $DATA/dialogues
python tokenization/tokenize_dataset.py $DATA/dialogues train.pkl.txt minilm

# $DATA/ids: the order of the pictures; $LOAD/keys: their vectors, in training's precision, so that its cache is used again
python vokenization/create_image_ids.py --image-sets $SETS --langs openmoji --ids-root $DATA/ids "${ROOTS[@]}"
python vokenization/extract_vision_keys.py --load-dir $LOAD --image-sets $SETS --ids-root $DATA/ids --precision auto "${ROOTS[@]}"

# $LOAD/vokens: the top 5 pictures for every dialogue
python vokenization/vokenize_corpus_mp.py --load $LOAD --corpus $DATA/dialogues/train.pkl.txt --image-sets $SETS

# $LOAD/eval: recall on pictures that training never saw; captions in the same precision as the keys
python vokenization/evaluate_retrieval.py --load $LOAD --image-sets openmoji_heldout --langs openmoji --precision auto "${ROOTS[@]}"

# $DATA/context: phrases and pictures; outputs/demo: the phrases retrieved for each picture, for its five and its nine crops
python scripts/demo_context.py $DATA
python ctx/encode_captions.py --model $LOAD --captions $DATA/context/phrases.txt --exp_name demo --precision auto
python ctx/build_context.py --model $LOAD --images $DATA/context/images --exp_name demo \
    --caption_db outputs/demo/caption_db.hdf5 --precision auto

# $LOAD/page.html: the results as a page
python scripts/demo_page.py --load $LOAD --corpus $DATA/dialogues/train.pkl.txt --image-sets $SETS \
    --eval-set openmoji_heldout --context outputs/demo/txt_ctx.hdf5 --context-images $DATA/context/images --output $LOAD/page.html
