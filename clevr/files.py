"""Errors about files, and reading and writing them."""

import codecs
import json
import os
from contextlib import contextmanager
from uuid import uuid4

import ijson


class DataError(Exception):
    """What is wrong with the user's files or arguments, in one line."""


def read_json(file, prefix):
    """Streams what an open (binary) JSON file holds under a prefix, such as "info" or
    "questions.item", in constant memory. Raises DataError if the file is not JSON."""
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    try:
        yield from ijson.items(file, prefix, use_float=True)
    except ijson.JSONError:
        raise DataError(
            f"{file.name}: truncated or not JSON in UTF-8: fetch or make it again"
        ) from None


@contextmanager
def atomic_write(path):
    """Gives a temporary path of its own, which is renamed to `path` if all went well,
    and removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def claim(path, job, files):
    """Writes the dict `job` to the JSON file `path`, by which a later call knows what
    its folder holds. If it is there already, removes what a killed call was writing.

    Raises DataError if it is not, but there are `files`."""
    text = json.dumps(job, indent=1) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        for partial in path.parent.rglob(".*.part"):
            partial.unlink(missing_ok=True)
        return
    for file in files:
        raise DataError(
            f"{path.parent} holds files of something else ({file.name}): empty it, or "
            "name another folder"
        )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
