"""Where files lie: in a folder with the layout of CLEVR v1.0 (Johnson et al., CVPR
2017, https://cs.stanford.edu/people/jcjohns/clevr/), and in one of TFRecords."""

SPLITS = ("train", "val")  # the official test split has no answers


def image_file(root, split, index):
    """The PNG of image `index`, counted from 0."""
    return root / "images" / split / f"CLEVR_{split}_{index:06d}.png"


def json_file(root, kind, split):
    """The file of a split's "scenes" or "questions", whichever `kind` says."""
    return root / kind / f"CLEVR_{split}_{kind}.json"


def record_files(data, split):
    """The TFRecords of a split, in the order in which they are read."""
    return sorted((data / split).glob("[!.]*tfrecord*"))


def shard_file(data, split, index, count):
    """Our name of the TFRecord file `index` of `count`."""
    return data / split / f"{split}-{index:05d}-of-{count:05d}.tfrecords"
