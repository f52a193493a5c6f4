"""When TensorRT-RTX compiles kernels that are made for a shape, network by network.

A plan has kernels for every shape that it accepts; better ones for one shape are compiled on the device.

* ``EAGER``: before the first execution of a shape, which is what captured graphs need. What comes next time comes from
  the same kernels, so the same request gives the same pixels.
* ``NONE``: never. For a network that meets a new shape in many requests.
* ``LAZY``, TensorRT-RTX's own choice, is used for none: the first executions of a shape take the general kernels and
  later ones the compiled kernels, whose sums are rounded in another order.
"""

from __future__ import annotations

from typing import Literal

Specialization = Literal["EAGER", "NONE"]

SPECIALIZATION: dict[str, Specialization] = {
    "face_detector": "EAGER",  # one shape
    "face_encoder": "EAGER",  # as many as there are numbers of faces, at most four
    "text_encoder": "EAGER",  # one: texts are encoded one by one
    "text_encoder_2": "EAGER",
    "image_projection": "EAGER",  # one
    "control_embedding": "EAGER",  # a picture size each
    "time_embedding": "NONE",  # a number of steps each, up to 199; one short execution a request
    "cross_attention": "EAGER",  # guidance off and on
    "identitynet": "EAGER",  # one in each captured graph
    "unet": "EAGER",
    "vae_decoder": "EAGER",  # slots and picture size
}
