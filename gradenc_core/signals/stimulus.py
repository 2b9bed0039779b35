"""Stimuli as the passes take them: preprocessed images, and what objectives need beside them.

Views and masks are drawn from a stimulus's content and the study's seed, so a stimulus gives the
same features in every shard and run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from gradenc_core.models.model import VisionModel
from gradenc_core.signals.views import teacher_views


@dataclass(frozen=True)
class Stimuli:
    """A batch of stimuli: preprocessed images, and what some objectives need beside them.

    Attributes
    ----------
    images : torch.Tensor, (n_stimuli, 3, image_size, image_size)
        Preprocessed.
    labels : torch.Tensor, (n_stimuli,) int64, optional
        True classes, for `classification`.
    digests : sequence of str, (n_stimuli,), optional
        SHA-256 of each stimulus's content, for objectives with views, bank or masks.
    views : torch.Tensor, (n_stimuli, n_views, 3, image_size, image_size), optional
        Teacher views (`gradenc_core.signals.views`), for objectives that need them.
    masks : torch.Tensor, (n_stimuli, 2, n_patches) bool, optional
        Patches that masked passes hide; by default they are drawn from the seed
        (`gradenc_core.signals.masks`).
    """

    images: torch.Tensor
    labels: torch.Tensor | None = None
    digests: Sequence[str] | None = None
    views: torch.Tensor | None = None
    masks: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: torch.Tensor) -> "Stimuli":
        """Return the stimuli of these positions, (n,) int64."""
        return Stimuli(
            self.images[index],
            None if self.labels is None else self.labels[index],
            None if self.digests is None else [self.digests[i] for i in index.tolist()],
            None if self.views is None else self.views[index],
            None if self.masks is None else self.masks[index],
        )

    @classmethod
    def joined(cls, parts: Sequence["Stimuli"]) -> "Stimuli":
        """Return the stimuli of all parts; all or none have labels, digests, views, masks."""
        labels = [part.labels for part in parts if part.labels is not None]
        views = [part.views for part in parts if part.views is not None]
        masks = [part.masks for part in parts if part.masks is not None]
        digests = [digest for part in parts for digest in part.digests or ()]
        return cls(
            torch.cat([part.images for part in parts]),
            torch.cat(labels) if labels else None,
            digests or None,
            torch.cat(views) if views else None,
            torch.cat(masks) if masks else None,
        )


def stimulus(
    model: VisionModel, image: Image.Image, digest: str, views_seed: int | None, label: int | None
) -> Stimuli:
    """Return one decoded image as a network's input, with its teacher views where asked for.

    Parameters
    ----------
    model : VisionModel
    image : PIL.Image.Image
    digest : str
        SHA-256 of the stimulus's content, which keys the views.
    views_seed : int or None
        Seed of the teacher views; None leaves them out.
    label : int or None
        True class.

    Returns
    -------
    Stimuli
        One stimulus.
    """
    labels = None if label is None else torch.tensor([label])
    views = None if views_seed is None else teacher_views(model, image, digest, views_seed)[None]
    return Stimuli(model.preprocessing.apply(image)[None], labels, [digest], views)
