#!/bin/sh
# Fine-tunes a pretrained network on your images: edit the paths, then
#     sh run_train.sh
# Unedited it sets up its environment and trains the demo. Each variable can also be given from
# outside, and further flags go on to the script:
#     NUM_EPOCH=10 sh run_train.sh --optimizer adam

# The paths to change.
SCRIPT=${SCRIPT:-train_multilabel.py}
MODEL=${MODEL:-pretrained/efficientnet_lite0}  # MODEL-symbol.json and MODEL-0000.params
EPOCH=${EPOCH:-0}
DATA_TRAIN=${DATA_TRAIN:-demo/data/train.lst}
IMAGE_TRAIN=${IMAGE_TRAIN:-demo/data/images}
DATA_VAL=${DATA_VAL:-demo/data/val.lst}
IMAGE_VAL=${IMAGE_VAL:-demo/data/images}
LABELS=${LABELS:-demo/data/labels.txt}         # class names, one a line
SAVE_RESULT=${SAVE_RESULT:-result}
SAVE_NAME=${SAVE_NAME:-multilabel}

# How to train. 3,128,128 makes the demo quick on a CPU; take 3,224,224 for photos.
IMAGE_SHAPE=${IMAGE_SHAPE:-3,128,128}
BATCH_SIZE=${BATCH_SIZE:-32}
NUM_EPOCH=${NUM_EPOCH:-4}
LR=${LR:-0.03}

here=$(cd "$(dirname "$0")" && pwd) || exit 2
cd "$here" || exit 2
. tools/setup_env.sh
setup_env requirements.txt cv2 tqdm || exit

if [ "$MODEL" = pretrained/efficientnet_lite0 ] && ! [ -f "$MODEL-0000.params" ]; then
    echo "Getting the pretrained network $MODEL (17 MB) ..."
    "$PYTHON" tools/import_pretrained.py efficientnet_lite0 --prefix "$MODEL" || exit
fi
if [ "$DATA_TRAIN" = demo/data/train.lst ] && ! [ -f "$DATA_TRAIN" ]; then
    echo "Drawing the demo's images ..."
    "$PYTHON" demo/make_demo.py --out demo/data || exit
fi

"$PYTHON" "$SCRIPT" --model "$MODEL" --epoch "$EPOCH" \
    --data-train "$DATA_TRAIN" --image-train "$IMAGE_TRAIN" \
    --data-val "$DATA_VAL" --image-val "$IMAGE_VAL" --labels "$LABELS" \
    --save-result "$SAVE_RESULT" --save-name "$SAVE_NAME" \
    --image-shape "$IMAGE_SHAPE" --batch-size "$BATCH_SIZE" --num-epoch "$NUM_EPOCH" \
    --lr "$LR" "$@" || exit
