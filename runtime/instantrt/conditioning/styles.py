"""Style presets: templates with a place for the prompt, and a negative text that goes before the user's own."""

from __future__ import annotations

from dataclasses import dataclass

from instantrt.errors import RequestError

NO_STYLE = "(No style)"


@dataclass(frozen=True)
class Style:
    """One preset. ``template`` holds ``{prompt}`` once."""

    template: str
    negative: str = ""


STYLES: dict[str, Style] = {
    NO_STYLE: Style("{prompt}"),
    "Watercolor": Style(
        "watercolor painting, {prompt}, soft washes of pigment on textured paper, flowing edges, delicate light",
        "photo, 3d render, hard outlines, blurry, low quality, deformed",
    ),
    "Film Noir": Style(
        "film noir, {prompt}, black and white photo, high contrast, deep shadows, venetian blind light, 1940s mood",
        "color, bright, cheerful, blurry, low quality, deformed",
    ),
    "Neon": Style(
        "neon lights, {prompt}, glowing signs in magenta and cyan, rain on dark streets, reflections, night city",
        "daylight, dull, flat light, blurry, low quality, deformed",
    ),
    "Jungle": Style(
        "in a lush jungle, {prompt}, broad green leaves, shafts of sunlight, morning mist, rich detail",
        "city, snow, studio backdrop, blurry, low quality, deformed",
    ),
    "Mars": Style(
        "on the surface of mars, {prompt}, red desert, dusty sky, distant ridges, cinematic wide light",
        "plants, ocean, blue sky, blurry, low quality, deformed",
    ),
    "Vibrant Color": Style(
        "vibrant color, {prompt}, bold saturated palette, energetic composition, crisp light, colorful portrait",
        "monochrome, washed out, grey, blurry, low quality, deformed",
    ),
    "Snow": Style(
        "in falling snow, {prompt}, winter landscape, cold blue shadows, frost on fabric, visible breath",
        "summer, green leaves, desert, blurry, low quality, deformed",
    ),
    "Line art": Style(
        "line art drawing, {prompt}, clean black ink lines on white paper, minimal shading, elegant contours",
        "photo, color, gradients, blurry, low quality, deformed",
    ),
}


def apply_style(style: str | None, prompt: str, negative_prompt: str | None) -> tuple[str, str | None]:
    """The prompt and negative prompt that are encoded.

    Without a style both are the user's own, None staying None (diffusers tells it apart from an empty text).

    Raises:
        RequestError: an unknown name; the message lists the known ones.
    """
    if style is None or style == NO_STYLE:
        return prompt, negative_prompt
    preset = STYLES.get(style)
    if preset is None:
        raise RequestError("unknown style", found=repr(style), hint=f"use one of: {', '.join(STYLES)}")
    negative = ", ".join(part for part in (preset.negative, negative_prompt) if part)
    return preset.template.format(prompt=prompt), negative
