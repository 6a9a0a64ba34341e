"""Settings a function demands without a default: by names everybody uses, a number that is usual for them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter
from typing import Any, Final

from loss_conformance.subject.parameter_names import SIZES, loose_meaning, meaning_of
from loss_conformance.subject.signatures import VARIADIC, annotation_of, parameters_of, required_parameters

__all__ = ["usual_settings"]

_NAMES: Final[dict[float | int | str, str]] = {
    0.1: "beta label_smoothing smoothing smooth epsilon kl_coef kl_coeff kl_beta beta_kl kl_penalty_coef lam lambda_ lmbda "
    "kl_weight dpo_beta smoothing_value",
    0.2: "clip_eps eps_clip clip_epsilon clip_range cliprange clip_ratio clip_param epsilon_low eps_low clip_low "
    "clip_ratio_low cliprange_low cliprange_value value_clip vf_clip clip_range_vf",
    0.28: "epsilon_high eps_high clip_high clip_ratio_high cliprange_high",
    0.5: "alpha vf_coef value_coef value_loss_coef vf_coeff",
    0.01: "entropy_coef ent_coef entropy_coeff ent_coeff entropy_weight",
    1.0: "temperature temp tau t sft_weight nll_weight rpo_alpha",
    2.0: "focal_gamma",
    1.5: "gamma",
    3.0: "clip_ratio_c dual_clip clip_c",
    1e-8: "eps",
    -100: "ignore_index ignore_label label_pad_token_id",
    "mean": "reduction",
}
_USUAL: Final = {name: value for value, names in _NAMES.items() for name in names.split()}


def usual_settings(function: Callable[..., Any], given: Callable[[str], bool]) -> dict[str, float | int | str]:
    """Return a usual value for each required parameter of a function that is a setting by its name.

    Args:
        function: the function.
        given: whether a parameter of this name has a value already.
    """
    required = required_parameters(function)
    return {
        p.name: _USUAL[p.name.lower()]
        for p in parameters_of(function)
        if _is_setting(p, required) and not given(p.name)
    }


def _is_setting(parameter: Parameter, required: list[str]) -> bool:
    if parameter.default is not Parameter.empty or parameter.kind in (*VARIADIC, Parameter.POSITIONAL_ONLY):
        return False
    if parameter.name.lower() not in _USUAL or parameter.name in SIZES or "tensor" in annotation_of(parameter).lower():
        return False
    return meaning_of(parameter.name) is None and loose_meaning(parameter.name, required) is None
