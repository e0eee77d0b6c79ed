"""Fully sharded training (FSDP): each process keeps a part of weights, gradients and the optimiser's state."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from reeltag.errors import RecipeError
from reeltag.sections import TrainSection

MIN_PARAMETERS = 100_000  # smaller blocks stay with the rest: gathering them would cost more than they save

Tensors = dict[str, Tensor]


def accelerate_asks_for_shards() -> bool:
    """Whether `accelerate launch --use_fsdp` or its configuration started this run; we then shard in its place.

    Accelerate shards on GPUs alone and in files of its own. Taken over here, checkpoints stay those of every other run.
    """
    return os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_shardable(train: TrainSection) -> None:
    """Raise RecipeError when the recipe asks for what needs all weights in one place, or forward passes out of step."""
    asked = {"ema": train.ema is not None, "swa": train.swa is not None, "precise_norms": train.precise_norms > 0}
    for name, is_set in asked.items():
        if is_set:
            raise RecipeError(
                f"train.{name} needs every weight on every process; leave out --shard (or --use_fsdp), or train.{name}"
            )


def clip_grad_norm(parameters: Sequence[Tensor], max_norm: float) -> Tensor:
    """Clip the gradients of sharded parameters to a norm over all shards, and return what it was."""
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def shard(model: nn.Module, device_type: str) -> nn.Module:
    """Shard a model in place over all processes, block by block, and return it.

    Paper: Zhao et al. PyTorch FSDP. VLDB 2023, arXiv:2304.11277. A block is a member of a `Sequential` or `ModuleList`
    with at least `MIN_PARAMETERS` parameters that no smaller block holds; the model itself takes the rest.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # kernels in channels_last order cannot be cut
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    inside: set[int] = set()

    def visit(module: nn.Module, *, is_block: bool) -> None:
        for child in module.children():
            visit(child, is_block=isinstance(module, nn.Sequential | nn.ModuleList))
        own = [p for p in module.parameters() if id(p) not in inside]
        if is_block and sum(p.numel() for p in own) >= MIN_PARAMETERS:
            inside.update(id(p) for p in own)
            fully_shard(module, mesh=mesh)
            inside.update(id(p) for p in module.parameters())  # sharding puts new parameters in their place

    visit(model, is_block=False)
    fully_shard(model, mesh=mesh)
    return model


def whole_state(model: nn.Module, optimizer: Optimizer) -> tuple[Tensors, Tensors, dict[str, Any]]:
    """Return the model's state, and the optimiser's as `flatten_state` gives it, on the main process; empty elsewhere.

    Every process calls it. The result is that of an unsharded run, which can resume from it, and the other way round.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: Any = get_state_dict(model, optimizer, options=options)  # torch types it as anything a checkpoint may hold
    weights, state = found
    tensors: Tensors = {}
    rest: dict[str, Any] = {}
    number = {name: index for index, name in enumerate(_names(model, optimizer))}
    for name, values in state.get("state", {}).items():
        for key, value in values.items():
            (tensors if isinstance(value, Tensor) else rest)[f"{number[name]}.{key}"] = value
    return weights, tensors, rest


def restore_whole_state(
    model: nn.Module, optimizer: Optimizer, weights: dict[str, Any], tensors: Tensors, rest: dict[str, Any]
) -> None:
    """Put back what `whole_state` returned; every process gives the whole of it and keeps its part."""
    names = _names(model, optimizer)
    state: dict[str, Any] = {}
    for name, value in [*tensors.items(), *rest.items()]:
        index, key = name.split(".", 1)
        state.setdefault(names[int(index)], {})[key] = value
    groups: list[dict[str, Any]] = []
    first = 0
    for group in optimizer.param_groups:
        known = {key: value for key, value in group.items() if key != "params"}
        groups.append({**known, "params": names[first : first + len(group["params"])]})
        first += len(group["params"])
    set_state_dict(
        model,
        optimizer,
        model_state_dict=weights,
        optim_state_dict={"state": state, "param_groups": groups},
        options=StateDictOptions(full_state_dict=True),
    )


def _names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """The names of the optimiser's parameters in its own order, by which `state_dict` numbers them."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
