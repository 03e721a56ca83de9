"""Owns the noise itself. In: the latents it is for, who draws. Out: Gaussian noise B C T H W, on their device."""

import torch
from torch import Generator, Tensor


def noise_like(clean: Tensor, rng: Generator, *, shared: float = 0.0) -> Tensor:
    """Noise of the latents' shape; with `rng` on the CPU, numbers do not depend on the device."""
    noise = torch.randn(clean.shape, generator=rng, device=rng.device)
    return shared_in_time(noise, shared).to(clean.device)


def shared_in_time(noise: Tensor, share: float) -> Tensor:
    """n_k = r n_(k-1) + (1 - r) e_k over the latent frames of e B C T H W, r = `share`.

    EasyAnimate's noise_share_in_frames: later frames have less noise than the first, down to a variance of
    (1 - r) / (1 + r).
    """
    if not share:
        return noise
    frames = [noise[:, :, 0]]
    for fresh in noise.unbind(2)[1:]:
        frames.append(share * frames[-1] + (1 - share) * fresh)
    return torch.stack(frames, 2)
