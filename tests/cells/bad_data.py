"""Follows the notebook's 1a in a copy: what it says of each folder beside DATA_DIR."""

messages = {}
for folder in sorted(Path(DATA_DIR).parent.iterdir()):
    DATA_DIR = str(folder)
    try:
        for split in ("train", "val"):
            read_split(split)
    except (ValueError, FileNotFoundError) as error:
        messages[folder.name] = str(error)
print("messages:", json.dumps(messages))
