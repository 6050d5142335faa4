"""A small convolutional model for pictures of a camera, as the owner of a device registers it.

MobileNet halves its pictures again and again: after three tenths of the work the tensor on the way is smaller than the
picture, after four tenths it is a fifth of it. So, unlike in a ViT, a cut in the middle is the best where the link is
slow and the device is not too slow.
"""

import timm
from torch import nn

from swarm.models import register

SIDE = 448


@register("camera-net", input_shape=(3, SIDE, SIDE), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
def camera_net() -> nn.Module:
    model: nn.Module = timm.create_model("mobilenetv3_large_100", pretrained=False)
    return model
