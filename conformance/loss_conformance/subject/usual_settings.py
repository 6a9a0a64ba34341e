"""Settings a function demands without a default: by names everybody uses, a number that is usual for them.

A config that is an object of its own class is made without arguments where its class allows that; one of no class gives
every setting its usual value when it is asked for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any, Final

from loss_conformance.subject.parameter_names import SIZES, loose_meaning, meaning_of
from loss_conformance.subject.signatures import VARIADIC, annotation_of, parameters_of, required_parameters

__all__ = ["as_text", "config_class", "usual_settings"]

_NAMES: Final[dict[float | int | str, str]] = {
    0.1: "beta label_smoothing smoothing smooth epsilon kl_coef kl_coeff kl_beta beta_kl kl_penalty_coef lam lambda_ lmbda "
    "kl_weight dpo_beta smoothing_value",
    0.2: "clip_eps eps_clip clip_epsilon clip_range cliprange clip_ratio clip_param epsilon_low eps_low clip_low "
    "clip_ratio_low cliprange_low cliprange_value value_clip vf_clip clip_range_vf",
    0.28: "epsilon_high eps_high clip_high clip_ratio_high cliprange_high",
    0.5: "gamma_beta_ratio alpha vf_coef value_coef value_loss_coef vf_coeff",
    0.01: "entropy_coef ent_coef entropy_coeff ent_coeff entropy_weight",
    1.0: "loss_scale temperature temp tau t sft_weight nll_weight rpo_alpha",
    2.0: "focal_gamma",
    1.5: "gamma",
    3.0: "clip_ratio_c dual_clip clip_c",
    1e-8: "eps",
    -100: "ignore_index ignore_label label_pad_token_id",
    "mean": "reduction",
}
_CONFIGS: Final = {
    *("config", "cfg", "conf", "args", "hparams", "hyperparams", "settings", "params", "loss_config", "loss_cfg"),
    *("algo_config", "algorithm_config", "training_args", "train_config", "actor_config", "policy_config"),
}
_USUAL: Final = {name: value for value, names in _NAMES.items() for name in names.split()}


class UsualConfig(dict[str, Any]):
    """A config that takes the usual value for a setting when it is first read, as a key or as an attribute.

    Raises:
        KeyError, AttributeError: no value is usual for a setting of that name.
    """

    def __missing__(self, name: str) -> float | int | str:
        if name.lower() not in _USUAL:
            raise KeyError(f"no value is usual for the setting {name!r}; give the config: --loss-config")
        self[name] = value = _USUAL[name.lower()]
        return value

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as unknown:
            raise AttributeError(unknown.args[0]) from None


def usual_settings(function: Callable[..., Any], given: Callable[[str], bool]) -> dict[str, Any]:
    """Return a usual value for each required parameter of a function that is a setting, or a config, by its name.

    Args:
        function: the function.
        given: whether a parameter of this name has a value already.
    """
    required = required_parameters(function)
    asked = [p for p in parameters_of(function) if p.default is Parameter.empty and not given(p.name)]
    usual: dict[str, Any] = {p.name: _USUAL[p.name.lower()] for p in asked if _is_setting(p, required)}
    return usual | {p.name: _config(function, p) for p in asked if _is_config(p)}


def as_text(name: str, value: Any) -> str:
    """Return what to write after ``--loss-config`` to give a setting its value."""
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    return json.dumps({name: plain}, default=lambda config: {k: repr(v) for k, v in vars(config).items()})


def _is_config(parameter: Parameter) -> bool:
    named = parameter.name.lower() in _CONFIGS or parameter.name.lower().endswith(("_config", "_cfg"))
    return named and parameter.kind not in (*VARIADIC, Parameter.POSITIONAL_ONLY)


def _config(function: Callable[..., Any], parameter: Parameter) -> Any:
    """Return a config as its class makes it without arguments, or one that knows what is usual."""
    cls = config_class(function, parameter.name)
    with contextlib.suppress(Exception):
        return UsualConfig() if cls is None else cls()
    return UsualConfig()


def config_class(function: Callable[..., Any], name: str) -> type | None:
    """Return the class a config is annotated with, if it is one of its own: no mapping, no number."""
    cls = inspect.get_annotations(inspect.unwrap(function)).get(name)
    if isinstance(cls, str):
        cls = getattr(inspect.unwrap(function), "__globals__", {}).get(cls)
    return cls if isinstance(cls, type) and cls.__module__ != "builtins" and not issubclass(cls, Mapping) else None


def _is_setting(parameter: Parameter, required: list[str]) -> bool:
    if parameter.kind in (*VARIADIC, Parameter.POSITIONAL_ONLY):
        return False
    if parameter.name.lower() not in _USUAL or parameter.name in SIZES or "tensor" in annotation_of(parameter).lower():
        return False
    return meaning_of(parameter.name) is None and loose_meaning(parameter.name, required) is None
