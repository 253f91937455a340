"""What systems and programs leave among images: hidden names, thumbnails, trash."""

# Beside names that begin with a dot: macOS's archives, thumbnails and trash of Synology and QNAP,
# Windows' trash and indices, what file systems and Python make.
LITTER = frozenset(
    {
        "__macosx",
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "@tmp",
        "network trash folder",
        "temporary items",
        "$recycle.bin",
        "recycler",
        "recycled",
        "system volume information",
        "lost+found",
        "__pycache__",
    }
)


def is_litter(name: str) -> bool:
    """Whether nobody means a file or folder of this name as data."""
    return name.startswith(".") or name.casefold() in LITTER
