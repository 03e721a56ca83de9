"""Owns what launchers of trainers are: their own flags, and where the trainer's program and flags begin behind them.

In: a command of a script. Out: a `Launch`. The tables are those of accelerate 1.15 (`launch_command_parser`), torch
2.13 (`torch.distributed.run`) and DeepSpeed 0.18 (`deepspeed.launcher.runner`). No flag takes more than one value.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cinelora.base.errors import Problem, nearest
from cinelora.config.importing.shell import Command, Word

_ACCELERATE_SWITCHES = """
    help quiet cpu multi_gpu tpu enable_cpu_affinity dynamo_use_fullgraph dynamo_use_dynamic
    dynamo_use_regional_compilation use_deepspeed use_fsdp use_parallelism_config use_megatron_lm same_network
    module no_python tpu_cluster no_tpu_cluster tpu_use_sudo downcast_bf16 fp8_use_autocast_during_eval debug
"""
_ACCELERATE_VALUES = """
    config_file mixed_precision num_processes num_machines num_cpu_threads_per_process dynamo_backend dynamo_mode
    gpu_ids machine_rank main_process_ip main_process_port tee log_dir role rdzv_backend rdzv_conf max_restarts
    monitor_interval vm env main_training_function deepspeed_config_file zero_stage offload_optimizer_device
    offload_param_device offload_optimizer_nvme_path offload_param_nvme_path gradient_accumulation_steps
    gradient_clipping zero3_init_flag zero3_save_16bit_model deepspeed_hostfile deepspeed_exclusion_filter
    deepspeed_inclusion_filter deepspeed_multinode_launcher deepspeed_moe_layer_cls_names fsdp_version
    fsdp_offload_params fsdp_min_num_params fsdp_sharding_strategy fsdp_reshard_after_forward fsdp_auto_wrap_policy
    fsdp_transformer_layer_cls_to_wrap fsdp_backward_prefetch fsdp_backward_prefetch_policy fsdp_state_dict_type
    fsdp_forward_prefetch fsdp_use_orig_params fsdp_cpu_ram_efficient_loading fsdp_sync_module_states
    fsdp_activation_checkpointing fsdp_activation_checkpointing_offload megatron_lm_tp_degree
    megatron_lm_use_custom_fsdp megatron_lm_no_load_optim megatron_lm_eod_mask_loss
    megatron_lm_overlap_cpu_optimizer_d2h_h2d megatron_lm_no_save_optim megatron_lm_optimizer_cpu_offload
    megatron_lm_use_precision_aware_optimizer megatron_lm_decoder_last_pipeline_num_layers megatron_lm_pp_degree
    megatron_lm_num_micro_batches megatron_lm_sequence_parallelism megatron_lm_recompute_activations
    megatron_lm_use_distributed_optimizer megatron_lm_gradient_clipping megatron_lm_recompute_granularity
    megatron_lm_recompute_method megatron_lm_recompute_num_layers megatron_lm_attention_backend
    megatron_lm_expert_model_parallel_size megatron_lm_context_parallel_size megatron_lm_attention_dropout
    megatron_lm_hidden_dropout megatron_lm_attention_softmax_in_fp32 megatron_lm_expert_tensor_parallel_size
    megatron_lm_calculate_per_token_loss megatron_lm_use_rotary_position_embeddings fp8_backend fp8_margin
    fp8_interval fp8_format fp8_amax_history_len fp8_amax_compute_algo fp8_override_linear_precision fp8_opt_level
    fp8_enable_fsdp_float8_all_gather fp8_pad_inner_dim aws_access_key_id aws_secret_access_key mpirun_hostfile
    parallelism_config_dp_replicate_size parallelism_config_dp_shard_size parallelism_config_tp_size
    parallelism_config_cp_size parallelism_config_cp_backend parallelism_config_cp_comm_strategy
    parallelism_config_sp_size parallelism_config_sp_backend parallelism_config_sp_seq_length
    parallelism_config_sp_seq_length_is_variable parallelism_config_sp_attn_implementation
"""
_TORCHRUN_SWITCHES = "help standalone module no_python run_path virtual_local_rank use_env"
_TORCHRUN_VALUES = """
    nnodes nproc_per_node rdzv_backend rdzv_endpoint rdzv_id rdzv_conf max_restarts monitor_interval start_method
    event_log_handler role log_dir redirects tee local_ranks_filter duplicate_stdout_filters
    duplicate_stderr_filters node_rank master_addr master_port local_addr logs_specs numa_binding signals_to_handle
    shutdown_timeout
"""
_DEEPSPEED_SWITCHES = """
    help module no_python no_local_rank no_ssh no_ssh_check force_multi save_pid elastic_training bind_cores_to_rank
"""
_DEEPSPEED_VALUES = """
    hostfile include exclude num_nodes num_gpus num_accelerators comment account min_elastic_nodes max_elastic_nodes
    master_port master_addr node_rank launcher launcher_args enable_each_rank_log autotuning bind_core_list ssh_port
    venv_script
"""


@dataclass(frozen=True)
class Launcher:
    """A launcher: flags by themselves, flags with a value, short spellings of both; `module` starts a module."""

    name: str
    start: tuple[str, ...]
    switches: frozenset[str]
    values: frozenset[str]
    short: dict[str, str] = field(default_factory=dict)
    module: str = "-m"


ACCELERATE = Launcher(
    "accelerate launch",
    ("accelerate", "launch"),
    frozenset(_ACCELERATE_SWITCHES.split()),
    frozenset(_ACCELERATE_VALUES.split()),
    {"-h": "help", "-q": "quiet", "-m": "module", "-t": "tee"},
)
TORCHRUN = Launcher(
    "torchrun",
    ("torchrun",),
    frozenset(_TORCHRUN_SWITCHES.split()),
    frozenset(_TORCHRUN_VALUES.split()),
    {"-h": "help", "-m": "module", "-r": "redirects", "-t": "tee"},
)
DEEPSPEED = Launcher(
    "deepspeed",
    ("deepspeed",),
    frozenset(_DEEPSPEED_SWITCHES.split()),
    frozenset(_DEEPSPEED_VALUES.split()),
    {"-h": "help", "-H": "hostfile", "-i": "include", "-e": "exclude"},
    module="--module",
)
PYTHON = Launcher("python", ("python",), frozenset("BEIOPSbdiqsuvx"), frozenset("WX"))

_SHARDS = ("use_deepspeed", "use_fsdp", "deepspeed_", "fsdp_", "zero_", "zero3_", "use_megatron_lm", "megatron_")
"""Beginnings of the flags of launchers that shard a base."""


@dataclass(frozen=True)
class Launch:
    """How a trainer was started: its launcher with its own flags, its program, the words behind that.

    `env` are variables before the command, `flags` by name without dashes; `spelt` is how each was typed.
    """

    launcher: Launcher
    flags: dict[str, Word]
    program: str
    rest: tuple[Word, ...]
    line: int
    env: dict[str, Word] = field(default_factory=dict)
    inside: str = ""
    problems: tuple[Problem, ...] = ()
    file: str = ""

    @property
    def shards(self) -> list[str]:
        """Its launcher's flags that shard a base over GPUs."""
        return [name for name in self.flags if name.startswith(_SHARDS)]

    def words(self) -> list[str]:
        """The launcher's own words, to start another program with."""
        done = [*self.launcher.start]
        if self.launcher is DEEPSPEED and "no_local_rank" not in self.flags:
            done.append("--no_local_rank")  # else it puts --local_rank behind the program's own words
        for name, word in self.flags.items():
            done += [f"--{name}"] if name in self.launcher.switches else [f"--{name}={word.text}"]
        return done


_WRAPPERS = {"nohup", "exec", "command", "sudo", "time", "$", ">"}


def launch_of(command: Command, file: str) -> Launch | None:
    """What a command starts; None where it starts no program in Python."""
    words, env = list(command.words), dict(command.sets)
    while words and (words[0].text in _WRAPPERS or words[0].text in ("env", "uv", "poetry") or "=" in words[0].text):
        first = words.pop(0)
        name, equals, value = first.text.partition("=")
        if equals and re.fullmatch(r"[A-Za-z_]\w*", name):
            env[name] = Word(value, first.line, first.names, first.problems)
        elif equals:
            return None
        elif first.text in ("uv", "poetry") and words and words[0].text == "run":
            words.pop(0)
    launcher = _launcher(words)
    if launcher is None:
        return None
    flags, program, rest, problems = _split(launcher, words, file)
    if not program:
        return None
    inside, line = command.inside, command.line
    return Launch(launcher, flags, program, tuple(rest), line, env, inside, tuple(problems), file)


def _launcher(words: list[Word]) -> Launcher | None:
    """The launcher that the words begin with, which are taken away."""
    first = words[0].text.rpartition("/")[2] if words else ""
    second = words[1].text if len(words) > 1 else ""
    if first == "accelerate" and second == "launch":
        del words[:2]
        return ACCELERATE
    if first in ("accelerate-launch", "torchrun", "deepspeed"):
        del words[:1]
        return {"torchrun": TORCHRUN, "deepspeed": DEEPSPEED}.get(first, ACCELERATE)
    if first.endswith(".py"):
        return PYTHON
    if not re.fullmatch(r"python[\d.]*", first):
        return None
    del words[:1]
    module = words[1].text if len(words) > 1 and words[0].text == "-m" else ""
    known = {"accelerate.commands.launch": ACCELERATE, "torch.distributed.run": TORCHRUN}
    known |= {"torch.distributed.launch": TORCHRUN, "deepspeed": DEEPSPEED, "deepspeed.launcher.runner": DEEPSPEED}
    if module in known:
        del words[:2]
    return known.get(module, PYTHON)


def _split(
    launcher: Launcher, words: Sequence[Word], file: str
) -> tuple[dict[str, Word], str, list[Word], list[Problem]]:
    """The launcher's flags, the program behind them, and the program's own words."""
    flags: dict[str, Word] = {}
    problems: list[Problem] = []
    queue = list(words)
    module = False
    while queue and queue[0].text.startswith("-") and queue[0].text != "-":
        word = queue.pop(0)
        spelt, equals, value = word.text.partition("=")
        name, problem = _flag(launcher, spelt, f"{file}:{word.line}")
        if problem:
            problems.append(problem)
            continue
        if name in ("module", "m"):
            module = True
        elif name in launcher.switches or (launcher is PYTHON and len(name) > 1):
            flags[name] = word
        else:
            given = queue.pop(0) if not equals and queue else Word(value, word.line, word.names, word.problems)
            flags[name] = given
    program = queue.pop(0) if queue else None
    text = program.text if program else ""
    if program and program.problems:
        problems += program.problems
        text = text or "?"
    if module and text:
        text = text.replace(".", "/") + ".py"
    known = text.endswith(".py") or module or bool(program and program.problems)
    flags = {} if launcher is PYTHON else flags
    return flags, text if known else "", queue, problems


def _flag(launcher: Launcher, spelt: str, where: str) -> tuple[str, Problem | None]:
    """The name of a launcher's flag, as argparse finds it: short, with - for _, or the only one that begins so."""
    if spelt in launcher.short:
        return launcher.short[spelt], None
    name, known = spelt.lstrip("-").replace("-", "_"), launcher.switches | launcher.values
    if launcher is PYTHON:
        return ("m" if name == "m" else name), None
    if name in known:
        return name, None
    longer = [one for one in known if one.startswith(name)]
    if len(longer) == 1:
        return longer[0], None
    shown = [f"--{one}" for one in sorted(known)]
    what, do = f"{launcher.name} has no such flag", "correct or remove it"
    return "", Problem(what, found=spelt, nearest=nearest(spelt, shown), where=where, do=do)
