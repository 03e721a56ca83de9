"""Owns the encoder of every version of EasyAnimate: which towers a variant has.

In: a base, a variant. Out: text towers, the autoencoder, and for inpaint variants what is given of a clip and, of v4
and v3, what CLIP sees. Weights are read when a tower is loaded, never before.
"""

from cinelora.contracts.card import Variant
from cinelora.contracts.roles import Tower
from cinelora.families.easyanimate.clip import ClipTower
from cinelora.families.easyanimate.inpaint import InpaintRules, InpaintTower
from cinelora.families.easyanimate.text import open_texts
from cinelora.families.easyanimate.vae import EasyAnimateVae
from cinelora.nets.encoder import TowerEncoder
from cinelora.nets.weights import Base


def open_encoder(base: str, variant: Variant, dtype: str) -> TowerEncoder:
    """The towers on a base; no weights are read yet. `dtype` is that of text encoders and CLIP; latents are made in
    fp32."""
    place = Base(base)
    texts = open_texts(place, variant, dtype)
    vae = EasyAnimateVae(place, variant, "fp32")
    seeing: list[Tower] = []
    if "inpaint" in variant.conditions:
        seeing.append(InpaintTower(vae, rules_of(variant)))
    if "clip" in variant.conditions:
        patches = len(variant.conditions["clip"].split()) > 2
        seeing.append(ClipTower(place, variant.network["image_encoder"], dtype, patches=patches))
    return TowerEncoder(texts[0], vae, *texts[1:], *seeing)


def rules_of(variant: Variant) -> InpaintRules:
    """How a version tells its inpaint networks what is given."""
    if variant.network["transformer"].get("resize_inpaint_mask_directly"):
        return InpaintRules()
    zeros = variant.network["transformer"]["_class_name"] != "Transformer3DModel"
    return InpaintRules(direct_mask=False, first_alone=False, noisy=False, zeros=zeros)
