"""cinelora: LoRA fine-tuning and distillation of video diffusion models."""

__version__ = "0.1.0"
