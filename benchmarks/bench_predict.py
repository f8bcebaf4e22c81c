"""Speed of prediction from image files, beside the bare network and onnxruntime.

    python benchmarks/bench_predict.py --model result/multilabel-best
    python benchmarks/bench_predict.py --model result/multilabel-best --photos photos

One side is the whole of prediction: setting up, reading and decoding, the network, the rows of the
table; the second does the same in int8. The others compute one batch that lies in memory, as many
times, without setting up: a Module of MXNet's, and onnxruntime if it is installed. All take turns
in one process.
"""
import contextlib
import io

from turns import photos, print_speeds, take_turns

from common.cli import ArgumentParser, InputError, at_least, run
from common.machine import physical_cores
from common.mx_compat import choose_devices, mx
from evaluation.classifier import Classifier
from evaluation.predictions_file import PredictionsFile
from network.forward_pass import without_loss
from reading.image_list import ImageList


def predict_all(classifier, batches, devices, images):
    """Predict every image, and write its row."""
    out = PredictionsFile(io.StringIO(), classifier.class_names, classifier.thresholds)
    for batch, prob, _ in classifier.predict(batches, devices):
        for row, values in zip(batch.index, prob):
            out.write(images.name(row), values)
    batches.reset()


def forward_all(classifier, network, batch, num_batches, devices):
    """A function that runs a Module on one batch in memory, once for each of the batches."""
    module = mx.mod.Module(network, label_names=None, context=devices)
    module.bind([("data", batch.shape)], for_training=False)
    module.set_params(classifier.arg_params, classifier.aux_params, allow_extra=True)

    def forward():
        for _ in range(num_batches):
            module.forward(mx.io.DataBatch([batch]), is_train=False)
        mx.nd.waitall()

    return forward


def main(argv=None):
    """Print the speed of each side."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="PREFIX", help="fine-tuned checkpoint")
    parser.add_argument("--epoch", type=int, default=0, metavar="N",
                        help="number of its .params file")
    parser.add_argument("--photos", metavar="DIR", help="images (default: makes its own)")
    parser.add_argument("--batch-size", type=at_least(1), default=32, metavar="N",
                        help="images per batch")
    args = parser.parse_args(argv)

    devices = choose_devices(None)
    classifier, in_int8 = (Classifier(args.model, args.epoch, precision)
                           for precision in ("float32", "int8"))
    network = without_loss(classifier.symbol)
    with photos(args.photos, 576) as folder:
        images = ImageList([folder], len(classifier.class_names))
        batches = classifier.open(images, batch_size=args.batch_size)
        batch, num_batches = batches.next().data[0], batches.num_batches
        batches.seek(0, 0)
        sides = {"prediction from files":
                 lambda: predict_all(classifier, batches, devices, images),
                 "the same in int8":
                 lambda: predict_all(in_int8, batches, devices, images),
                 "MXNet's Module, in memory":
                 forward_all(classifier, network, batch, num_batches, devices)}
        with contextlib.suppress(ImportError, InputError):  # onnx or onnxruntime is not installed
            from convert.onnx.exporter import onnx_predictor, to_onnx

            model = to_onnx(network, classifier.arg_params, classifier.aux_params)
            predict, pixels = onnx_predictor(model.SerializeToString()), batch.asnumpy()
            sides["onnxruntime, in memory"] = lambda: [
                predict(pixels) for _ in range(num_batches)]
        seconds = take_turns(sides, warm_up=1)
        batches.close()
    print(f"{len(images)} images of {folder}, batches of {batches.batch_size}, "
          f"{physical_cores()} cores")
    print_speeds(seconds, num_batches * batches.batch_size)


if __name__ == "__main__":
    run(main)
