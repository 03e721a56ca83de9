"""cinelora: LoRA fine-tuning and distillation of video diffusion models."""

import logging

__version__ = "0.1.0"

# peft imports bitsandbytes wherever it is installed, which then tells of kernels of its own that nobody asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
