"""The VAE's decoder, to finished pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from instantrt_export.networks.attention import FeatureAttention


class VAEDecoderNetwork(nn.Module):
    """The contract ``vae_decoder``: latents to u8 RGB pictures.

    Args:
        vae: diffusers' ``AutoencoderKL``, whose attention processors it replaces. Decodes in its own dtype: to be
            loaded in fp32 if it overflows in fp16.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, vae: Any) -> None:
        super().__init__()
        for attn in vae.decoder.mid_block.attentions:
            if attn is not None:
                attn.set_processor(FeatureAttention())
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv
        config = vae.config
        scaling = torch.tensor(config.scaling_factor, dtype=torch.float32)
        whitened = config.latents_mean is not None and config.latents_std is not None
        mean, std = (config.latents_mean, config.latents_std) if whitened else (0.0, 1.0)
        self.register_buffer("scale", (torch.tensor(std) / scaling).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents f32 [B, 4, h, w] to pictures u8 [B, H, W, 3] and their magnitude f32 [B].

        The magnitude is the mean absolute value of what was decoded. It is not finite if any value is not, of which the
        pictures show nothing but black and white: bytes have no place for it.
        """
        x = (latents * self.scale + self.shift).to(self.decoder.conv_in.weight.dtype)
        x = x if self.post_quant_conv is None else self.post_quant_conv(x)
        decoded: Tensor = self.decoder(x).float()
        pixels = (decoded / 2 + 0.5).clamp(0, 1)
        # Cast last: TensorRT gives u8 as an output and nowhere else.
        images = (pixels * 255).round().permute(0, 2, 3, 1).to(torch.uint8)
        return images, decoded.abs().mean(dim=(1, 2, 3))
