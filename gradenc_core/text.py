"""Text files that a lab wrote: UTF-8, with or without the byte order mark of Excel."""

from pathlib import Path


def read_text(path: Path) -> str:
    """Return the text of a UTF-8 file; line ends stay as they are.

    Raises
    ------
    ValueError
        Naming the file and the byte that is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}); "
            "save it again with the encoding UTF-8"
        ) from error
