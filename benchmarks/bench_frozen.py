"""Speed of the frozen layers' pass in float32 and in int8, and how near their features are.

    python benchmarks/bench_frozen.py --model pretrained/efficientnet_lite0 --photos photos

Both take turns on batches that lie in memory, in one process. The images that give int8 its ranges
are not among those compared.
"""
import time

from turns import photos, print_speeds, take_turns

from common.cli import ArgumentParser, parse_image_shape, run
from common.mx_compat import mx
from lst_iter import LstIter
from network.fine_tune import get_fine_tune_model, load_pretrained, split_head
from network.forward_pass import ForwardPass, least_cosine, multiplies_exactly
from reading.image_list import ImageList
from reading.read_options import ReadOptions

BATCH_SIZE = 32


def main(argv=None):
    """Print the speed of each, and the cosine of their features."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="PREFIX", help="pretrained checkpoint")
    parser.add_argument("--photos", metavar="DIR", help="images (default: makes its own)")
    parser.add_argument("--image-shape", default="3,480,320", metavar="3,H,W",
                        help="what the network gets")
    args = parser.parse_args(argv)

    symbol, arg_params, aux_params, _ = load_pretrained(args.model, 0)
    symbol, arg_params = get_fine_tune_model(symbol, arg_params, 2)
    network = split_head(symbol)[0], arg_params, aux_params
    with photos(args.photos, 2 * BATCH_SIZE) as folder, LstIter(
            BATCH_SIZE, parse_image_shape(args.image_shape), ImageList([folder], 2), shuffle=True,
            read_options=ReadOptions(fit="squash")) as batches:
        sample, images = (batches.next().data[0] for _ in range(2))
        plain = ForwardPass(*network, batches.provide_data[0], [mx.cpu()])
        began = time.perf_counter()
        int8 = ForwardPass(*network, batches.provide_data[0], [mx.cpu()], sample)
        seconds = time.perf_counter() - began
    print_speeds(take_turns({"int8": lambda: int8(images).values(),
                             "float32": lambda: plain(images).values()}, warm_up=2), BATCH_SIZE)
    print(f"cosine {least_cosine(plain, int8, images):.4f}, "
          f"after {seconds:.1f} s for int8's ranges; its products are "
          f"{'exact' if multiplies_exactly() else 'saturated: this processor lacks VNNI'}")


if __name__ == "__main__":
    run(main)
