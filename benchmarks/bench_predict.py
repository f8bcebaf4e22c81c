"""How near prediction from image files comes to the network's own speed.

    python benchmarks/bench_predict.py --model result/multilabel-best
    python benchmarks/bench_predict.py --model result/multilabel-best --photos photos --turns 9

One side is the whole of prediction: setting up, reading and decoding, the network, the rows of the
table. The other is the bare network: a Module's forward pass over one batch that lies in memory, as
many times, without setting up. They take turns in one process, and the median of the turns' ratios
is printed, because other programs' load moves speeds far more than anything here does. So is the
median ratio of the processor time that the two take, which feels that load less.
"""
import contextlib
import io
import statistics
import tempfile
import time

from turns import make_photos

from common.cli import ArgumentParser, HelpFormatter, InputError, run
from common.mx_compat import choose_devices, mx
from evaluation.classifier import Classifier
from evaluation.predictions_file import PredictionsFile
from network.fine_tune import without_loss
from reading.image_list import ImageList


def predict_all(classifier, batches, devices, images):
    """Predict every image, and write its row; returns the number of images."""
    text = io.StringIO()
    out = PredictionsFile(text, classifier.class_names, classifier.thresholds)
    for batch, prob in classifier.predict(batches, devices):
        for row, values in zip(batch.index, prob):
            out.write(images.name(row), values)
    batches.reset()
    return len(images)


def bare_forward(classifier, batches, devices):
    """A function that runs the network on one batch in memory, once for each of the batches."""
    module = mx.mod.Module(without_loss(classifier.symbol), label_names=None, context=devices)
    module.bind(batches.provide_data, for_training=False)
    module.set_params(classifier.arg_params, classifier.aux_params, allow_extra=True)
    batch = mx.io.DataBatch(batches.next().data)
    batches.seek(0, 0)

    def forward():
        waiting = None
        for _ in range(batches.num_batches):
            module.forward(batch, is_train=False)
            output = module.get_outputs()[0].copy()
            if waiting is not None:
                waiting.asnumpy()
            waiting = output
        waiting.asnumpy()
        return batches.num_batches * batches.batch_size

    return forward


def timed(side):
    """Images per second, and seconds of processor time per image."""
    start, start_busy = time.perf_counter(), time.process_time()
    count = side()
    return count / (time.perf_counter() - start), (time.process_time() - start_busy) / count


def main(argv=None):
    """Print both speeds and their ratio, turn by turn."""
    parser = ArgumentParser(description=__doc__.splitlines()[0],
                            formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, metavar="PREFIX", help="fine-tuned checkpoint")
    parser.add_argument("--epoch", type=int, default=0, metavar="N",
                        help="number of its .params file")
    parser.add_argument("--photos", metavar="DIR", help="images (default: makes its own)")
    parser.add_argument("--num-photos", type=int, default=576, metavar="N",
                        help="how many of them, a multiple of --batch-size at best")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="images per batch")
    parser.add_argument("--turns", type=int, default=7, metavar="N", help="turns of each side")
    parser.add_argument("--gpus", metavar="LIST", help="as in predict_multilabel.py")
    args = parser.parse_args(argv)
    if min(args.num_photos, args.batch_size, args.turns) < 1:
        raise InputError("--num-photos, --batch-size and --turns must be 1 or more")

    devices = choose_devices(args.gpus)
    classifier = Classifier(args.model, args.epoch)
    with contextlib.ExitStack() as stack:
        folder = args.photos
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            make_photos(folder, args.num_photos)
        names = ImageList([folder], 1)
        images = ImageList([names.name(row) for row in range(len(names))][:args.num_photos],
                           len(classifier.class_names))
        batches = stack.enter_context(classifier.open(images, batch_size=args.batch_size))
        sides = (lambda: predict_all(classifier, batches, devices, images),
                 bare_forward(classifier, batches, devices))
        for side in sides:
            side()  # the first time allocates
        ratios, busy = [], []
        for turn in range(args.turns):
            # Each side goes first in every other turn.
            times = [timed(side) for side in (sides if turn % 2 else sides[::-1])]
            (predicting, mine), (forward, its) = times if turn % 2 else times[::-1]
            ratios.append(predicting / forward)
            busy.append(its / mine)
            print(f"turn {turn + 1}: predicting {predicting:7.1f} images/s, forward "
                  f"{forward:7.1f}, ratio {ratios[-1]:.3f}, of processor time {busy[-1]:.3f}",
                  flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}, of processor time "
          f"{statistics.median(busy):.3f} ({len(images)} images of {folder}, "
          f"batches of {batches.batch_size}, MXNet {mx.__version__})")


if __name__ == "__main__":
    run(main)
