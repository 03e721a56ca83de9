"""Owns [memory] and [speed]: what a run does to fit into its GPU, and to be done sooner. Loads no torch."""

from typing import Literal

from cinelora.contracts.options import Options, option


class MemoryOptions(Options):
    """Section [memory]. All leave the losses as they are, but for quantised weights and latents made in tiles."""

    recompute: Literal["blocks", "every", "attention", "nested"] = option(
        "blocks",
        "what is computed twice in place of being kept, with train.gradient_checkpointing: every block; every k-th "
        "block (recompute_every); of each block its attention alone; or nested: every block, and in its second time "
        "attention once more by itself, which takes the least memory",
        costs="time of each step: every block again, about a third; every k-th block, a third / k; attention alone, "
        "less than a third, and more memory than blocks; nested, attention a third time",
    )
    recompute_every: int = option(
        2,
        "every how many-th block is computed twice",
        ge=1,
        only_if=("recompute", ("every",)),
        unit="blocks",
        costs="the larger, the more activations are kept",
    )
    activations: Literal["keep", "offload"] = option(
        "keep",
        "whether what is kept for the backward pass waits on the GPU, or in main memory (pinned) until needed",
        costs="offload: main memory of the size of what is kept, and the time of copies that the work does not hide",
    )
    base: Literal["resident", "streamed"] = option(
        "resident",
        "where frozen blocks are: on the GPU, or in page-locked main memory, copied to the GPU ahead of use and never "
        "back",
        costs="streamed: page-locked main memory of the base's size for each rank, and the time of copies that take "
        "longer than a block's work",
    )
    ring_blocks: int = option(
        2,
        "how many blocks are on the GPU at once while the base is streamed",
        ge=2,
        only_if=("base", ("streamed",)),
        unit="blocks",
        costs="GPU memory of one block for each",
    )
    quantise: Literal["none", "int8", "fp8", "nf4"] = option(
        "none",
        "number format of the linear weights in frozen blocks, rounded by row (int8, fp8) or by groups of 64 (nf4, "
        "needs `pip install cinelora[gpu]`); adapters stay in fp32",
        costs="exactness: weights are off by about 1 % (int8), 3 % (fp8) or 9 % (nf4) of their size; and time, as they "
        "are widened each time they are used",
    )
    optimizer: Literal["gpu", "cpu"] = option(
        "gpu",
        "where the optimizer's state is and its step is made; cpu frees twice the adapter's size",
        costs="cpu: main memory of three times what learns, and time of copies and of the step there",
    )
    vae_tiling: Literal["auto", "off", "on"] = option(
        "off",
        "whether the autoencoder works in tiles of the picture: less memory, slightly other latents and pixels; auto = "
        "where the largest bucket would not fit into the device, and for previews where one would not fit beside the "
        "denoiser",
        costs="on: time, as tiles overlap and what two of them share is computed twice",
    )


class SpeedOptions(Options):
    """Section [speed]."""

    attention: Literal["auto", "flash", "efficient", "cudnn", "math"] = option(
        "auto", "kernel of scaled-dot-product attention; auto leaves the choice to torch"
    )
    compile: bool = option(
        False,
        "whether blocks are compiled (torch.compile, one graph for all blocks of a kind)",
        costs="some minutes at the start, and again for each new shape up to compile_limit",
    )
    compile_limit: int = option(
        8,
        "how many shapes are compiled before others run as they are",
        ge=1,
        only_if=("compile", (True,)),
        unit="shapes",
        costs="time before the first step of each shape",
    )
    fused_optimizer: Literal["auto", "on", "off"] = option(
        "auto", "one kernel for the whole optimizer step (adamw, adam); auto = on a GPU"
    )
    channels_last_vae: bool = option(True, "whether the autoencoder's weights and pixels lie channels last on a GPU")
    num_workers: int = option(
        2, "threads that read and pin the next batches while one is learned; 0 = none", ge=0, unit="threads"
    )
    prefetch_micros: int = option(
        2,
        "how many micro-batches are read ahead",
        ge=1,
        unit="micro-batches",
        costs="main memory, page-locked on a GPU, of each micro-batch that waits",
    )
