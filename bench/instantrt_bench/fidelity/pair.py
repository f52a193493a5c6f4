"""One request through the runtime and through the reference, and how far apart the results are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from instantrt import GenerateRequest, GenerateResult, InstantID, Prepared
from instantrt_bench.reference.pipeline import Reference, ReferenceInputs, ReferenceResult
from instantrt_bench.results.metrics import psnr_db, relative_error, ssim


@dataclass(frozen=True)
class Comparison:
    """Both results of one request, and their distance.

    Args:
        runtime: what the runtime gave.
        reference: what the reference gave.
        latents_error: ||runtime - reference|| / ||reference|| of the final latents.
        psnr_db: of the pictures, all samples together.
        ssim: mean over the samples.
    """

    runtime: GenerateResult
    reference: ReferenceResult
    latents_error: float
    psnr_db: float
    ssim: float

    @property
    def seed(self) -> int:
        """The seed of both."""
        return self.runtime.seed


def reference_inputs(prepared: Prepared) -> ReferenceInputs:
    """The reference's inputs from where the runtime's own path begins: after photos, style and seed are decided."""
    request = prepared.request
    return ReferenceInputs(
        prompt=prepared.prompt,
        negative_prompt=prepared.negative_prompt,
        face_embedding=prepared.identity.embedding,
        control_image=prepared.identity.control_image,
        region_mask=prepared.identity.region if request.enhance_face_region else None,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        sampler=request.sampler,
        seed=prepared.seed,
        samples=request.samples,
        identity_strength=request.identity_strength,
        adapter_strength=request.adapter_strength,
        control_guidance_start=request.control_guidance_start,
        control_guidance_end=request.control_guidance_end,
    )


def compare(runtime: InstantID, reference: Reference, request: GenerateRequest) -> Comparison:
    """Run one request through both. A drawn seed is drawn once."""
    prepared = runtime.prepare(request)
    ours = runtime.run(replace(request, seed=prepared.seed))
    theirs = reference.generate(reference_inputs(prepared))
    return Comparison(
        ours,
        theirs,
        relative_error(ours.latents, theirs.latents),
        psnr_db(ours.pixels, theirs.images),
        ssim(ours.pixels, theirs.images),
    )
