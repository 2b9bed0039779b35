"""The key `unrecorded_images` of a study: a folder, or how many images to draw."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from hpc.config.fields import Count, Section, Text


class Generated(Section):
    """Images that the shipped generator draws."""

    generated: Count
    """how many images are drawn"""


def _folder_or_generated(images: Any) -> Any:
    number = images.get("generated") if isinstance(images, dict) and len(images) == 1 else None
    is_number = type(number) is int and number > 0
    if is_number or images is None or (isinstance(images, str | Generated) and images):
        return images
    raise ValueError("a folder of images, or {generated: N}, N how many are drawn; or null")


Unrecorded = Annotated[Text | Generated | None, BeforeValidator(_folder_or_generated)]
