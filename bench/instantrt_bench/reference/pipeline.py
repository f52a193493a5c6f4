"""The reference: InstantID on diffusers' own modules and schedulers, in eager torch, as a diffusers user runs it.

The runtime's pictures are held against this pipeline. It follows the base pipeline of InstantID
(``pipeline_stable_diffusion_xl_instantid.py``) with the region mask of its full one, and is usable by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, StableDiffusionXLPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import CLIPTokenizer

from instantrt.request import GenerateRequest
from instantrt_bench.reference.attention import FaceAttention, install_face_attention, set_face_control
from instantrt_bench.reference.clock import Clock
from instantrt_bench.reference.projection import image_projection_from
from instantrt_bench.reference.schedulers import scheduler_for

if TYPE_CHECKING:
    from instantrt_export.checkpoint import Checkpoint


@dataclass(frozen=True)
class ReferenceInputs:
    """One request, with the face stage's results in place of photos.

    ``control_image`` sets the size of the picture. Without ``region_mask`` identity control acts everywhere.
    IdentityNet is off at network call i of n if ``i/n < control_guidance_start`` or ``(i+1)/n > control_guidance_end``.
    """

    prompt: str
    face_embedding: npt.NDArray[np.float32]  # [face embedding width], not normalised
    control_image: npt.NDArray[np.uint8]  # [H, W, 3], the keypoint picture
    negative_prompt: str | None = None  # None and "" differ where the checkpoint forces zeros for no prompt
    region_mask: npt.NDArray[np.float32] | None = None  # [H, W]
    steps: int = GenerateRequest.steps
    guidance_scale: float = GenerateRequest.guidance_scale
    sampler: str = GenerateRequest.sampler
    seed: int = 0
    samples: int = GenerateRequest.samples
    identity_strength: float = GenerateRequest.identity_strength
    adapter_strength: float = GenerateRequest.adapter_strength
    control_guidance_start: float = GenerateRequest.control_guidance_start
    control_guidance_end: float = GenerateRequest.control_guidance_end

    def __post_init__(self) -> None:
        size = self.control_image.shape[:2]
        if self.control_image.dtype != np.uint8 or self.control_image.shape != (*size, 3):
            raise ValueError(
                f"control_image is uint8 [H,W,3], not {self.control_image.dtype} {self.control_image.shape}"
            )
        if self.region_mask is not None and self.region_mask.shape != size:
            raise ValueError(f"region_mask has shape {self.region_mask.shape}, the control image {size}")

    @property
    def guided(self) -> bool:
        """Whether there is classifier-free guidance: two rows in the guidance batch."""
        return self.guidance_scale > 1.0


@dataclass(frozen=True)
class ReferenceResult:
    """What one request gave."""

    images: npt.NDArray[np.uint8]  # [n, H, W, 3]
    latents: npt.NDArray[np.float32]  # [n, 4, H/8, W/8]
    latents_per_call: npt.NDArray[np.float32] | None  # [network calls, n, 4, H/8, W/8], if asked for
    timings_ms: dict[str, float]  # per stage
    call_ms: float  # median time of a network call's step
    overhead_us_per_call: float  # median of the host's time in it outside UNet and IdentityNet
    peak_device_bytes: int | None = None  # most memory of the GPU's that tensors took; None on a CPU


@dataclass(frozen=True)
class _Conditions:
    """What the denoising loop is given, one row per row of the guidance batch and sample, negative rows first."""

    text_tokens: torch.Tensor  # [N, 77, token width]
    face_tokens: torch.Tensor  # [N, face tokens, token width]
    added: dict[str, torch.Tensor]  # text_embeds [N, pooled width], time_ids [N, 6]
    control_image: torch.Tensor  # [N, 3, H, W], 0 to 1
    mask: torch.Tensor | None  # [H, W]


class Reference:
    """InstantID as diffusers runs it. Stateless between requests; not thread-safe.

    Args:
        pipeline: the base model; brings text encoding, UNet and VAE. Its UNet has been given ``face_attention``.
        identitynet: the ControlNet that is fed with face tokens.
        image_projection: face embedding ``[R, 1, width]`` to face tokens ``[R, 16, token width]``.
        face_attention: the UNet's face-attention processors.
        scheduler_config: the checkpoint's ``scheduler_config.json``, from which every sampler's scheduler is made.
        device: where all of them are, and where scheduler and guidance compute.
    """

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        identitynet: ControlNetModel,
        image_projection: IPAdapterPlusImageProjection,
        face_attention: Sequence[FaceAttention],
        scheduler_config: Mapping[str, Any],
        device: torch.device | str = "cpu",
    ) -> None:
        self.pipeline = pipeline
        self.unet = pipeline.unet
        self.vae = pipeline.vae
        self.identitynet = identitynet
        self.image_projection = image_projection
        self.face_attention = tuple(face_attention)
        self.scheduler_config = scheduler_config
        self.device = torch.device(device)
        self.dtype: torch.dtype = self.unet.dtype

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        threads: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Reference:
        """Build the reference from a checkpoint.

        Args:
            checkpoint: opened.
            threads: torch's intra-op threads for the whole process; None leaves them as they are.
            device: where it runs.
            dtype: of all networks, but a VAE that says it overflows in fp16 stays in fp32, as in diffusers.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        unet = checkpoint.unet(dtype)
        face_weights = checkpoint.face_attention_weights(dtype)
        face_attention = install_face_attention(unet, face_weights, checkpoint.dims.face_tokens)
        overflows = dtype == torch.float16 and bool(checkpoint.vae_config.get("force_upcast", True))
        pipeline = StableDiffusionXLPipeline(
            vae=checkpoint.vae(torch.float32 if overflows else dtype),
            text_encoder=checkpoint.text_encoder(dtype),
            text_encoder_2=checkpoint.text_encoder_2(dtype),
            tokenizer=CLIPTokenizer.from_pretrained(checkpoint.tokenizer_dir),
            tokenizer_2=CLIPTokenizer.from_pretrained(checkpoint.tokenizer_2_dir),
            unet=unet,
            scheduler=scheduler_for("euler", 1, checkpoint.scheduler_config),
            force_zeros_for_empty_prompt=checkpoint.model_index.get("force_zeros_for_empty_prompt", True),
            add_watermarker=False,
        )
        projection = image_projection_from(checkpoint.resampler(dtype).state_dict()).to(device, dtype)
        identitynet = checkpoint.identitynet(dtype).to(device)
        return cls(pipeline.to(device), identitynet, projection, face_attention, checkpoint.scheduler_config, device)

    def compile(self) -> None:
        """Put the networks that run per step, and the VAE's decoder, under ``torch.compile``, in place.

        With symbolic shapes: one compilation, which takes minutes, serves all sizes and numbers of samples. Only a
        batch of one is apart, as torch makes a constant of it.
        """
        for network in (self.unet, self.identitynet, self.vae.decoder):
            network.compile(dynamic=True)

    @torch.no_grad()
    def generate(self, inputs: ReferenceInputs, *, keep_latents: bool = False) -> ReferenceResult:
        """Generate ``inputs.samples`` pictures; with ``keep_latents`` also return the latents after every step.

        Raises:
            RequestError: the sampler is unknown.
        """
        clock = Clock(self.device)
        conditions = clock.stage("prepare", lambda: self._prepare(inputs))
        steps = clock.stage("denoise", lambda: self._denoise(inputs, conditions, clock))
        images = clock.stage("decode", lambda: self._decode(steps[-1]))
        return ReferenceResult(
            images=images,
            latents=steps[-1].float().cpu().numpy(),
            latents_per_call=torch.stack(steps).float().cpu().numpy() if keep_latents else None,
            timings_ms=clock.stages_ms,
            call_ms=clock.call_ms,
            overhead_us_per_call=clock.outside_us,
            peak_device_bytes=clock.peak_device_bytes,
        )

    def _prepare(self, inputs: ReferenceInputs) -> _Conditions:
        height, width = inputs.control_image.shape[:2]
        text, pooled = self._encode_text(inputs)
        rows = len(text)
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=text.dtype, device=self.device)
        control = VaeImageProcessor(do_convert_rgb=True, do_normalize=False).preprocess(
            Image.fromarray(inputs.control_image), height=height, width=width
        )
        return _Conditions(
            text_tokens=text,
            face_tokens=self._face_tokens(inputs),
            added={"text_embeds": pooled, "time_ids": time_ids.expand(rows, -1)},
            control_image=control.to(self.device, self.dtype).expand(rows, -1, -1, -1),
            mask=None if inputs.region_mask is None else torch.from_numpy(inputs.region_mask).to(self.device),
        )

    def _encode_text(self, inputs: ReferenceInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Penultimate states of both encoders ``[N, 77, token width]`` and the pooled text ``[N, pooled width]``."""
        positive, negative, pooled, negative_pooled = self.pipeline.encode_prompt(
            inputs.prompt,
            device=self.device,
            num_images_per_prompt=inputs.samples,
            do_classifier_free_guidance=inputs.guided,
            negative_prompt=inputs.negative_prompt,
        )
        if not inputs.guided:
            return positive, pooled
        return torch.cat([negative, positive]), torch.cat([negative_pooled, pooled])

    def _face_tokens(self, inputs: ReferenceInputs) -> torch.Tensor:
        """Face tokens ``[N, face tokens, token width]``; those of the negative row come from a zero embedding."""
        embedding = torch.from_numpy(inputs.face_embedding)[None].to(self.device, self.dtype)
        if inputs.guided:
            embedding = torch.cat([torch.zeros_like(embedding), embedding])
        tokens: torch.Tensor = self.image_projection(embedding[:, None])
        return tokens.repeat_interleave(inputs.samples, dim=0)

    def _denoise(self, inputs: ReferenceInputs, conditions: _Conditions, clock: Clock) -> list[torch.Tensor]:
        """The latents after every network call."""
        set_face_control(self.face_attention, inputs.adapter_strength, conditions.mask)
        scheduler = scheduler_for(inputs.sampler, inputs.steps, self.scheduler_config, self.device)
        generator = torch.Generator("cpu").manual_seed(inputs.seed)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        noise = {"generator": generator} if takes_generator else {}
        latents = self._initial_noise(inputs, generator) * scheduler.init_noise_sigma
        steps: list[torch.Tensor] = []
        for i, timestep in enumerate(scheduler.timesteps):
            scale = inputs.identity_strength * _control_keep(i, len(scheduler.timesteps), inputs)

            def step(x: torch.Tensor = latents, t: torch.Tensor = timestep, scale: float = scale) -> torch.Tensor:
                eps = self._predict(scheduler.scale_model_input(x, t), t, scale, inputs, conditions, clock)
                following: torch.Tensor = scheduler.step(eps, t, x, **noise, return_dict=False)[0]
                return following

            latents = clock.step(step)
            steps.append(latents)
        return steps

    def _initial_noise(self, inputs: ReferenceInputs, generator: torch.Generator) -> torch.Tensor:
        height, width = (side // self.pipeline.vae_scale_factor for side in inputs.control_image.shape[:2])
        shape = (inputs.samples, self.unet.config.in_channels, height, width)
        # In fp32 whatever the networks compute in, so that a seed gives the same numbers.
        noise: torch.Tensor = randn_tensor(shape, generator=generator, dtype=torch.float32)
        return noise.to(self.device, self.dtype)

    def _predict(
        self,
        model_input: torch.Tensor,
        timestep: torch.Tensor,
        control_scale: float,
        inputs: ReferenceInputs,
        conditions: _Conditions,
        clock: Clock,
    ) -> torch.Tensor:
        """The guided noise prediction ``[n, 4, h, w]``."""
        if inputs.guided:
            model_input = torch.cat([model_input] * 2)
        down, mid = clock.network(
            self.identitynet,
            model_input,
            timestep,
            encoder_hidden_states=conditions.face_tokens,
            controlnet_cond=conditions.control_image,
            conditioning_scale=control_scale,
            added_cond_kwargs=conditions.added,
            return_dict=False,
        )
        if conditions.mask is not None:
            down, mid = [_masked(r, conditions.mask) for r in down], _masked(mid, conditions.mask)
        prediction = clock.network(
            self.unet,
            model_input,
            timestep,
            encoder_hidden_states=torch.cat([conditions.text_tokens, conditions.face_tokens], dim=1),
            added_cond_kwargs=conditions.added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        if not inputs.guided:
            return prediction  # type: ignore[no-any-return]
        negative, positive = prediction.chunk(2)
        return negative + inputs.guidance_scale * (positive - negative)  # type: ignore[no-any-return]

    def _decode(self, latents: torch.Tensor) -> npt.NDArray[np.uint8]:
        """Latents ``[n, 4, h, w]`` to pictures ``[n, H, W, 3]``."""
        config = self.vae.config
        latents = latents.to(self.vae.dtype) / config.scaling_factor
        if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
            mean, std = (latents.new_tensor(v).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
            latents = latents * std + mean
        decoded = self.vae.decode(latents, return_dict=False)[0]
        pixels = self.pipeline.image_processor.postprocess(decoded, output_type="np")  # 0 to 1
        return np.asarray((pixels * 255).round(), dtype=np.uint8)


def _control_keep(call: int, calls: int, inputs: ReferenceInputs) -> float:
    """1.0 where IdentityNet is on, else 0.0."""
    start, end = inputs.control_guidance_start, inputs.control_guidance_end
    return 0.0 if call / calls < start or (call + 1) / calls > end else 1.0


def _masked(residual: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``residual`` times the mask at its size, by bilinear interpolation."""
    small = F.interpolate(mask[None, None], size=residual.shape[-2:], mode="bilinear", align_corners=False)
    return residual * small.to(residual.dtype)
