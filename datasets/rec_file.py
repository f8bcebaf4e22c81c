"""Images and labels of MXNet's .rec files, as im2rec writes and ImageRecordIter reads them."""
import contextlib
import os
import struct
from collections import Counter
from pathlib import Path

from common.cli import InputError
from common.files import open_regular_file
from common.mx_compat import mx
from datasets.label_table import Place
from datasets.text_sources import ListRow, clean_list, read_error, samples_of_lists
from reading.image_header import BadImage, read_header


def read_rec(flags, bad_input):
    """Write the images of a .rec into the folder `flags.path_root`; their labels are the Source.

    Images keep their bytes and are called by their IDs. A label that is no array is the number of a
    class; an array is multi-hot or has such numbers, as `samples_of_lists` finds out. `flags` are
    those of `make_lst.py rec`. An InputError names a file that is damaged, and an image that is
    there already with other content.
    """
    rows, of_id = [], Counter()
    for number, record in enumerate(_records(flags.file)):
        where = Place(f"{flags.file}: record {number}")
        try:
            header, image = mx.recordio.unpack(record)
            values = (clean_list(header.label.tolist()) if header.flag
                      else list(map(str, clean_list([float(header.label)]) or [])))
            ending = read_header(image).format.lower().replace("jpeg", "jpg")
        except (BadImage, ValueError, struct.error) as error:
            bad_input.reject(where, str(error))
            continue
        again = f"_{of_id[header.id]}" * (header.id in of_id)
        of_id[header.id] += 1
        name = f"{header.id}{again}.{ending}"
        _write(Path(flags.path_root, name), image)
        rows.append(ListRow(where, name, values or [], not values))
    return samples_of_lists(rows, flags, bad_input)


def _records(path):
    """Yield the records of a .rec file, bytes."""
    try:
        open_regular_file(path).close()
    except OSError as error:
        raise read_error(path, error) from None
    reader, number = mx.recordio.MXRecordIO(path, "r"), 0
    try:
        for record in iter(reader.read, None):
            yield record
            number += 1
    except mx.MXNetError:
        raise InputError(f"not a .rec file, damaged or cut short: record {number} cannot be read",
                         file=path) from None
    finally:
        reader.close()


def _write(path, data):
    """Write a file, unless it is there with these bytes."""
    temporary = path.with_name(f".{path.name}~")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path):
            if not path.is_file() or path.read_bytes() != data:
                raise InputError("is there already, with other content", file=str(path))
            return
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(f"cannot be written: {error.strerror.lower()}", file=str(path)) from None
