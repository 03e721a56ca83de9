"""Owns which linear modules of DynamiCrafter's UNet and Resampler the LoRA presets name. Imports no torch.

A stage of the UNet holds a block of convolutions (0), layers over the cells of a frame (1) and layers over frames (2);
init_attn, ahead of all stages, looks over frames too.
"""

_STAGE = r"((input|output)_blocks\.\d+|middle_block)"
_LAYERS = r"(proj_in|proj_out|transformer_blocks\..*)"
_ATTENTION = r".*\.attn[12]\.(to_q|to_k|to_v|to_k_ip|to_v_ip|to_out\.0)"

_TEMPORAL = rf"({_STAGE}\.2\.{_LAYERS}|init_attn\..*)"
_UNET = {
    # All that FDoKE's trainer adapts and optimises.
    "reference": r".*",
    # The advice of DynamiCrafter's authors where motion fades in fine-tuning: leave the layers over frames alone.
    "spatial": rf"(?!{_TEMPORAL}$).*",
    "temporal": _TEMPORAL,
    "attention": _ATTENTION,
}
_RESAMPLER = r".*"

PRESETS = {
    **{name: {"unet": pattern} for name, pattern in _UNET.items()},
    **{f"{name}+resampler": {"unet": pattern, "resampler": _RESAMPLER} for name, pattern in _UNET.items()},
    "+resampler": {"unet": _UNET["reference"], "resampler": _RESAMPLER},
}
"""{preset: {part: regular expression of the whole name}}; "+resampler" is short for "reference+resampler"."""
