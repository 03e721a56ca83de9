"""Owns the norm of the UNet's blocks: over groups of channels, in fp32 whatever the format of the activations."""

from torch import Tensor, nn
from torch.nn.functional import group_norm


class GroupNorm(nn.GroupNorm):
    """Normalises groups of channels in fp32 and gives back the format it was given."""

    def forward(self, input: Tensor) -> Tensor:
        """B C ... -> B C ..."""
        weight, bias = self.weight.float(), self.bias.float()
        return group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)
