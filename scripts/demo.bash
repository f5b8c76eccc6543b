#!/usr/bin/env bash
# Run the whole chain on small real data: install, make the data (photos of scikit-image, drawings of OpenMoji, dialogues of ChatterBot),
# retrieve without any training, train, retrieve, and write a page with the results.
#   bash scripts/demo.bash
# The stages are the same as for COCO, Open Images and Reddit; finished stages are skipped.
source "$(dirname "$0")/common.bash"
DATA=data/demo
LOAD=snap/xmatching/demo
ZEROSHOT=snap/xmatching/demo_zeroshot
SETS=openmoji_train,openmoji_valid,openmoji_heldout
ROOTS=(--lxmert-root $DATA/lxmert --image-root $DATA/images)

# .venv: the Python environment
install_environment demo openvino

# $DATA/images, lxmert/, raw/: drawings, captions, dialogues; photos/, sentences/: photos, and sentences about them
python scripts/demo_data.py $DATA

# $DATA/dialogues: train.pkl.txt, one dialogue per line, and its tokens; $DATA/sentences: the sentences' tokens
python tokenization/prepare_reddit.py $DATA/raw $DATA/dialogues
python tokenization/tokenize_dataset.py $DATA/dialogues train.pkl.txt minilm
python tokenization/tokenize_dataset.py $DATA/sentences everyday.txt minilm

# $DATA/ids: the order of the pictures
python vokenization/create_image_ids.py --image-sets $SETS,photos=$DATA/photos --langs openmoji --ids-root $DATA/ids "${ROOTS[@]}"

# $ZEROSHOT: a matcher without training; its keys, the photos for every sentence and dialogue, and its recall on drawings, to compare with
OUTPUT=$ZEROSHOT bash scripts/run_xmatching.bash cpu --lang minilm --visn efficientnet_lite2 --recipe zeroshot
python vokenization/extract_vision_keys.py --load-dir $ZEROSHOT --image-sets photos,openmoji_heldout --ids-root $DATA/ids --precision auto "${ROOTS[@]}"
python vokenization/vokenize_corpus_mp.py --load $ZEROSHOT --corpus $DATA/sentences/everyday.txt --image-sets photos
python vokenization/vokenize_corpus_mp.py --load $ZEROSHOT --corpus $DATA/dialogues/train.pkl.txt --image-sets photos
python vokenization/evaluate_retrieval.py --load $ZEROSHOT --image-sets openmoji_heldout --langs openmoji --precision auto "${ROOTS[@]}"

# $LOAD: train the matcher on the frozen towers' outputs for drawings and captions
OUTPUT=$LOAD bash scripts/run_xmatching.bash 0 "${ROOTS[@]}" \
    --train-imgs openmoji_train --valid-imgs openmoji_valid --train-langs openmoji --valid-langs openmoji \
    --lang minilm --visn efficientnet_lite2 --recipe best

# $LOAD/keys: the pictures' vectors, in training's precision, so that its cache is used again
python vokenization/extract_vision_keys.py --load-dir $LOAD --image-sets $SETS,photos --ids-root $DATA/ids --precision auto "${ROOTS[@]}"

# $LOAD/vokens: the top 5 drawings for every dialogue, and the top 5 photos for every sentence
python vokenization/vokenize_corpus_mp.py --load $LOAD --corpus $DATA/dialogues/train.pkl.txt --image-sets $SETS
python vokenization/vokenize_corpus_mp.py --load $LOAD --corpus $DATA/sentences/everyday.txt --image-sets photos

# $LOAD/eval: recall on drawings that training never saw; captions in the same precision as the keys
python vokenization/evaluate_retrieval.py --load $LOAD --image-sets openmoji_heldout --langs openmoji --precision auto "${ROOTS[@]}"

# $DATA/context: phrases and pictures; outputs/demo: the phrases retrieved for each picture, for its five and its nine crops
python scripts/demo_context.py $DATA
python ctx/encode_captions.py --model $LOAD --captions $DATA/context/phrases.txt --exp_name demo --precision auto
python ctx/build_context.py --model $LOAD --images $DATA/context/images --exp_name demo \
    --caption_db outputs/demo/caption_db.hdf5 --precision auto

# Pages of all lines and of all crops, beside the files that they show
for load in $ZEROSHOT $LOAD; do
    python vokenization/page.py --load $load --corpus $DATA/sentences/everyday.txt --image-sets photos
done
python vokenization/page.py --load $ZEROSHOT --corpus $DATA/dialogues/train.pkl.txt --image-sets photos
python vokenization/page.py --load $LOAD --corpus $DATA/dialogues/train.pkl.txt --image-sets $SETS
python ctx/page.py --context outputs/demo/txt_ctx.hdf5 --images $DATA/context/images

# $LOAD/page.html: a choice of the results as a page, with links to the others
python scripts/demo_page.py --load $LOAD --corpus $DATA/dialogues/train.pkl.txt --image-sets $SETS \
    --eval-set openmoji_heldout --zeroshot $ZEROSHOT --sentences $DATA/sentences/everyday.txt --photo-set photos \
    --context outputs/demo/txt_ctx.hdf5 --context-images $DATA/context/images --output $LOAD/page.html
