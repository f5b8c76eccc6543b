#!/usr/bin/env bash
# The whole chain on small real data, from nothing: pictures of OpenMoji, dialogues of ChatterBot.
#   bash scripts/demo.bash
# Every stage is the one that COCO, Open Images and Reddit take; what is done is skipped.
source "$(dirname "$0")/common.bash"
DATA=data/demo
LOAD=snap/xmatching/demo
SETS=openmoji_train,openmoji_valid,openmoji_heldout
ROOTS=(--lxmert-root $DATA/lxmert --image-root $DATA/images)

# .venv with everything in it
install_environment demo

# $DATA/images, lxmert/, raw/: pictures, captions, dialogues
python scripts/demo_data.py $DATA

# $LOAD: train the matcher on what the frozen towers make of pictures and captions
OUTPUT=$LOAD bash scripts/run_xmatching.bash 0 "${ROOTS[@]}" \
    --train-imgs openmoji_train --valid-imgs openmoji_valid --train-langs openmoji --valid-langs openmoji \
    --lang minilm --visn efficientnet_lite2 --recipe best

# $DATA/dialogues/train.pkl.txt, then its tokens
python tokenization/prepare_reddit.py $DATA/raw $DATA/dialogues
python tokenization/tokenize_dataset.py $DATA/dialogues train.pkl.txt minilm

# $DATA/ids: the order of the pictures; $LOAD/keys: their vectors, in the precision of training, whose cache has them
python vokenization/create_image_ids.py --image-sets $SETS --langs openmoji --ids-root $DATA/ids "${ROOTS[@]}"
python vokenization/extract_vision_keys.py --load-dir $LOAD --image-sets $SETS --ids-root $DATA/ids --precision auto "${ROOTS[@]}"

# $LOAD/vokens: the top 5 pictures for every dialogue
python vokenization/vokenize_corpus_mp.py --load $LOAD --corpus $DATA/dialogues/train.pkl.txt --image-sets $SETS

# $LOAD/eval: recall on the pictures that training never saw, in the precision of their keys
python vokenization/evaluate_retrieval.py --load $LOAD --image-sets openmoji_heldout --langs openmoji --precision auto "${ROOTS[@]}"

# $DATA/context: phrases and pictures; outputs/demo: the phrases found for each picture, its five and its nine crops
python scripts/demo_context.py $DATA
python ctx/encode_captions.py --model $LOAD --captions $DATA/context/phrases.txt --exp_name demo --precision auto
python ctx/build_context.py --model $LOAD --images $DATA/context/images --exp_name demo \
    --caption_db outputs/demo/caption_db.hdf5 --precision auto

# $LOAD/page.html
python scripts/demo_page.py --load $LOAD --corpus $DATA/dialogues/train.pkl.txt --image-sets $SETS \
    --eval-set openmoji_heldout --context outputs/demo/txt_ctx.hdf5 --context-images $DATA/context/images --output $LOAD/page.html
