#!/bin/sh
# Fine-tunes a pretrained network on your images: edit the paths, then
#     sh run_train.sh
# Unedited it sets up its environment and trains the demo. Each variable can also be given from
# outside, and further flags go on to the script:
#     NUM_EPOCH=10 sh run_train.sh --resume

# The paths to change.
SCRIPT=${SCRIPT:-train_multilabel.py}
MODEL=${MODEL:-pretrained/efficientnet_lite0}  # MODEL-symbol.json and MODEL-0000.params
EPOCH=${EPOCH:-0}                              # the number in the .params file's name
DATA_TRAIN=${DATA_TRAIN:-demo/data/train.lst}
IMAGE_TRAIN=${IMAGE_TRAIN:-demo/data/images}   # the folder that the .lst's names start from
DATA_VAL=${DATA_VAL:-demo/data/val.lst}
IMAGE_VAL=${IMAGE_VAL:-demo/data/images}
LABELS=${LABELS:-demo/data/labels.txt}         # class names in column order, one a line
SAVE_RESULT=${SAVE_RESULT:-result}
SAVE_NAME=${SAVE_NAME:-multilabel}

# How to train. auto: the images' own aspect, about 480x320; smaller is faster.
if [ "$DATA_TRAIN" = demo/data/train.lst ]; then IMAGE_SHAPE=${IMAGE_SHAPE:-3,128,128}; fi
IMAGE_SHAPE=${IMAGE_SHAPE:-auto}
BATCH_SIZE=${BATCH_SIZE:-32}
# Epochs of fine-tuning after the new classifier; empty: 3 up to 1000 images, 2 up to 1700, and none
# for more, so that two cores take about five minutes at most for photos of 480x320.
NUM_EPOCH=${NUM_EPOCH:-}
LR=${LR:-0.02}

here=$(cd "$(dirname "$0")" && pwd) || exit 2
cd "$here" || exit 2
. tools/setup_env.sh
setup_env requirements.txt cv2 tqdm matplotlib || exit

if [ "$MODEL" = pretrained/efficientnet_lite0 ] && ! [ -f "$MODEL-0000.params" ]; then
    echo "Getting the pretrained network $MODEL (17 MB) ..."
    "$PYTHON" tools/import_pretrained.py efficientnet_lite0 --prefix "$MODEL" || exit
fi
if [ "$DATA_TRAIN" = demo/data/train.lst ] && ! [ -f "$DATA_TRAIN" ]; then
    echo "Drawing the demo's images ..."
    "$PYTHON" demo/make_demo.py --out demo/data || exit
fi

if [ -z "$NUM_EPOCH" ]; then
    images=$(wc -l <"$DATA_TRAIN")
    if [ "$images" -gt 1700 ]; then
        NUM_EPOCH=0
        echo "$images images: training the new classifier alone; NUM_EPOCH=3 fine-tunes, too."
    elif [ "$images" -gt 1000 ]; then
        NUM_EPOCH=2
    else
        NUM_EPOCH=3
    fi
fi

# The new classifier first, on features that each image gives once; then the network's last
# stages. --squash shows the network the whole image, so that no labelled object is cut away.
"$PYTHON" "$SCRIPT" --model "$MODEL" --epoch "$EPOCH" \
    --data-train "$DATA_TRAIN" --image-train "$IMAGE_TRAIN" \
    --data-val "$DATA_VAL" --image-val "$IMAGE_VAL" --labels "$LABELS" \
    --image-shape "$IMAGE_SHAPE" --squash --batch-size "$BATCH_SIZE" \
    --head auto --warm-head-epochs 5 --warm-head-mirror \
    --freeze-stages auto --num-epoch "$NUM_EPOCH" --lr "$LR" --lr-schedule cosine \
    --save-result "$SAVE_RESULT" --save-name "$SAVE_NAME" "$@" || exit

best=$SAVE_RESULT/$SAVE_NAME-best
"$PYTHON" predict_multilabel.py --model "$best" --epoch 0 \
    --data "$DATA_VAL" --image "$IMAGE_VAL" --out "$SAVE_RESULT/$SAVE_NAME-val.csv" \
    --report "$SAVE_RESULT/report" || exit

reached=$(sed -n 's/.*- Best: checkpoint \([0-9]*\), validation \([^,]*\),.*/\2 after \1 epochs/p' \
    "$SAVE_RESULT/train.log" | tail -n 1)
cat <<END

Done. The network reaches $reached on images that it was not trained on
(mAP: 1 is perfect, and guessing scores about the share of present labels).

  The checkpoint:   $best-symbol.json and $best-0000.params
  The report:       $SAVE_RESULT/report/index.html (open it in a browser)
  The course of it: $SAVE_RESULT/train.log, $SAVE_NAME-history.csv and -history.png

Now your own images: write their .lst files (tools/make_lst.py makes them from CSV, VOC, COCO or
folders), and put the paths at the top of run_train.sh.
END
