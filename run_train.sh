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
DATA_VAL=${DATA_VAL-demo/data/val.lst}         # empty: no validation, and no report
IMAGE_VAL=${IMAGE_VAL:-demo/data/images}
LABELS=${LABELS:-}     # class names in column order, one per line; empty: labels.txt beside
                       # train.lst, PREFIX_labels.txt beside PREFIX_train.lst
LABEL_FORMAT=${LABEL_FORMAT:-multi-hot}        # indices: the lists have numbers of classes
SAVE_RESULT=${SAVE_RESULT:-result}
SAVE_NAME=${SAVE_NAME:-multilabel}

# Flags that have a variable here set it, as --flag VALUE or --flag=VALUE; others go on.
trains=yes
left=$#
while [ "$left" -gt 0 ]; do
    left=$((left - 1))
    flag=${1%%=*} variable=
    case $flag in
    --model | --epoch | --data-train | --image-train | --data-val | --image-val | --labels | \
        --label-format | --save-result | --save-name | --image-shape | --batch-size | \
        --num-epoch | --lr)
        variable=$(echo "${flag#--}" | tr 'a-z-' 'A-Z_') ;;
    -h | --help | --version | --test-io) trains=no ;;
    esac
    if [ "$variable" ] && [ "$flag" != "$1" ]; then
        eval "$variable=\${1#*=}"
    elif [ "$variable" ] && [ "$left" -gt 0 ]; then
        eval "$variable=\$2"
        left=$((left - 1))
        shift
    else
        set -- "$@" "$1"
    fi
    shift
done

# How to train. auto: the images' own aspect, about 480x320; smaller is faster.
if [ "$DATA_TRAIN" = demo/data/train.lst ]; then IMAGE_SHAPE=${IMAGE_SHAPE:-3,128,128}; fi
IMAGE_SHAPE=${IMAGE_SHAPE:-auto}
BATCH_SIZE=${BATCH_SIZE:-32}
# Epochs of fine-tuning after the new classifier; empty: 3 up to 1000 images, 2 for more, which take
# about as long as the passes of all images before them. 0: none.
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
    if [ "$images" -gt 1000 ]; then
        NUM_EPOCH=2
        echo "$images images: 2 epochs of fine-tuning; NUM_EPOCH=0 trains the new classifier alone."
    else
        NUM_EPOCH=3
    fi
fi

names=${DATA_TRAIN%train.lst}labels.txt
if [ -z "$LABELS" ] && [ "$names" != "${DATA_TRAIN}labels.txt" ] && [ -f "$names" ]; then
    LABELS=$names
fi
if [ -n "$LABELS" ]; then set -- --labels "$LABELS" "$@"; fi
if [ -n "$DATA_VAL" ]; then set -- --data-val "$DATA_VAL" --image-val "$IMAGE_VAL" "$@"; fi

# The new classifier first, on features that each image gives once; then the network's last
# stages. --squash shows the network the whole image, so that no labelled object is cut away.
"$PYTHON" "$SCRIPT" --model "$MODEL" --epoch "$EPOCH" \
    --data-train "$DATA_TRAIN" --image-train "$IMAGE_TRAIN" \
    --image-shape "$IMAGE_SHAPE" --squash --batch-size "$BATCH_SIZE" \
    --head auto --warm-head-epochs 5 --warm-head-mirror \
    --freeze-stages auto --num-epoch "$NUM_EPOCH" --lr "$LR" --lr-schedule cosine \
    --label-format "$LABEL_FORMAT" \
    --save-result "$SAVE_RESULT" --save-name "$SAVE_NAME" "$@" || exit
[ "$trains" = yes ] || exit 0

# The checkpoint, the number of its file, and what it reaches.
{ read -r checkpoint && read -r epoch && read -r reached; } <<END
$("$PYTHON" -c '
import json, sys
result = json.load(open(sys.argv[1], encoding="utf-8"))
best = result["best"]
if best:
    reached = "{metric} {value:.4f} on the validation images (checkpoint {number})".format(**best)
    if best["baseline"] is not None:
        reached += "; 1 is perfect, {baseline_is} {baseline:.4f}".format(**best)
print(result["checkpoint"], result["epoch"], reached if best else "not measured", sep="\n")
' "$SAVE_RESULT/$SAVE_NAME-result.json")
END
conclusions=

if [ -n "$DATA_VAL" ]; then
    "$PYTHON" predict_multilabel.py --model "$checkpoint" --epoch "$epoch" \
        --data "$DATA_VAL" --image "$IMAGE_VAL" --label-format "$LABEL_FORMAT" \
        --out "$SAVE_RESULT/$SAVE_NAME-val.csv" --report "$SAVE_RESULT/report" || exit
    report="$SAVE_RESULT/report/index.html (open it in a browser)"
    conclusions=$("$PYTHON" -c '
import json, sys
for line in json.load(open(sys.argv[1], encoding="utf-8"))["conclusions"]:
    print("  " + line.encode("ascii", "backslashreplace").decode())
' "$SAVE_RESULT/report/measures.json")
else
    report="none without validation images (DATA_VAL)"
fi

cat <<END

Done. What it reaches: $reached
$conclusions

  The checkpoint:   $checkpoint-symbol.json, $(printf %s-%04d.params "$checkpoint" "$epoch")
  The report:       $report
  The course of it: $SAVE_RESULT/train.log, $SAVE_NAME-history.csv and -history.png
END
if [ "$DATA_TRAIN" = demo/data/train.lst ]; then
    cat <<END

Now your own images: write their .lst files (tools/make_lst.py makes them from CSV, VOC, COCO or
folders), and put the paths at the top of run_train.sh.
END
fi
