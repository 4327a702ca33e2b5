"""The image towers that are a CLIP's own: weights of CLIP fit them, and they embed whole images, too."""

from __future__ import annotations

from cora.errors import ModelError
from cora.towers.convnext_tower import ConvNeXtTower
from cora.towers.image_tower import ImageTower
from cora.towers.resnet_tower import ResNetTower

ClipTower = ResNetTower | ConvNeXtTower


def clip_tower_of(tower: ImageTower, purpose: str) -> ClipTower:
    """The tower, for work that embeds whole images (`encode_image`).

    Args:
        tower: of any kind.
        purpose: what is to be done, as the message says it.

    Raises:
        ModelError: it is of another kind.
    """
    if not isinstance(tower, ClipTower):
        raise ModelError(
            f"{purpose}: expected a model whose image tower is a CLIP's and embeds whole images, got another kind; "
            "name such a model (cora models), for example RN50-quickgelu"
        )
    return tower
