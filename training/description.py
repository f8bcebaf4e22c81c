"""What a checkpoint says of how it was trained, for people: an attribute of its input `data`."""
import os

from common.text import printable


def describe_training(args, data):
    """The attribute `training`: texts by what they describe; files are named without folders."""
    def listed(lst):
        name = printable(os.path.basename(lst.lst.path))
        return f"{name}, {lst.num_rows:,} images"

    fit = "padded" if args.pad_square else "squashed" if args.squash else "cropped"
    head = f"attention ({args.attention:g})" if args.head == "attention" else args.head
    frozen = f"{args.freeze_stages} stages" if args.freeze_stages else args.freeze
    steps = [f"{args.warm_head_epochs} epochs of the new classifier alone"
             + ", with mirror images" * args.warm_head_mirror] * bool(args.warm_head_epochs)
    if args.num_epoch:
        steps.append(f"{args.num_epoch} epochs of fine-tuning by {args.optimizer}, learning rate "
                     f"{args.lr:g} ({args.lr_schedule}), frozen: {frozen}")
    says = {"pretrained network": printable(os.path.basename(args.model)),
            "image size": f"{args.image_shape[1]}x{args.image_shape[2]}, {fit}",
            "recipe": f"{head} head; {'; '.join(steps)}; loss {args.loss}, batches of "
                      f"{args.batch_size}",
            "training list": listed(data.train_lst)}
    return {**says, "validation list": listed(data.val_lst)} if data.val_lst else says
