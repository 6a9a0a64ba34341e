"""Every check catches at least one planted fault, and says nothing against the right form of it."""

from __future__ import annotations

import pytest

from loss_conformance.checks.registry import Severity, every_check
from loss_conformance.verdict import Status
from tests.faults.judging import RIGHT, WRONG, judge

KILLS = {
    "scalar_output": "X44",
    "inputs_untouched": "B180",
    "repeatable": "B181",
    "strides": "B175",
    "missing_input": "X215",
    "wrong_shape": "X216",
    "unknown_token": "X217",
    "global_state_kept": "X41",
    "quiet": "X51",
    "nothing_left_running": "X280",
    "copies": "X43",
    "finite_value": "B090",
    "finite_gradient": "B100",
    "empty_batch": "B073",
    "extreme_inputs": "B089",
    "trainables_receive_gradient": "X33",
    "every_trainable_receives_gradient": "X410",
    "every_part_receives_gradient": "X412",
    "constants_receive_none": "B119",
    "upstream_gradient": "B113",
    "backward_accumulates": "B041",
    "any_subset": "B128",
    "evaluation_keeps_state": "X350",
    "learned_is_registered": "X351",
    "rejected_is_not_raised": "X352",
    "reference_opposes": "X361",
    "strayed_values_return": "X362",
    "drift_is_corrected": "X353",
    "finite_difference": "X30",
    "continuous": "X336",
    "mask_value": "B008",
    "mask_extreme": "B001",
    "mask_gradient": "B011",
    "trained_ends": "B023",
    "padding": "X01",
    "absent_rows": "X02",
    "microbatch": "B040",
    "duplicate_rows": "X11",
    "length_normalization": "B199",
    "flat_between_bounds": "B124",
    "one_term_each": "X454",
    "namesake": "X404",
    "own_length": "X415",
    "reductions_agree": "X12",
    "row_weight": "X212",
    "half_a_pair": "X416",
    "equal_terms": "X210",
    "divisor": "B201",
    "common_divisor": "X88",
    "counts_left_out": "X213",
    "sample_mask_left_out": "X214",
    "ranks": "X250",
    "ranks_in_processes": "X252",
    "batch_permutation": "B147",
    "row_independence": "B151",
    "coupled_rows": "X433",
    "pairing": "X330",
    "rotation": "X335",
    "impossible_tokens": "X332",
    "logit_shift": "X206",
    "pair_shift": "X208",
    "reward_shift": "X417",
    "lower_bound": "X67",
    "upper_bound": "X86",
    "perfect_costs_nothing": "X434",
    "rests_at_teacher": "X200",
    "rests_at_returns": "X202",
    "wanted_direction": "X61",
    "labelled_answers": "X413",
    "both_sides_of_target": "X414",
    "pulled_to_reference": "B132",
    "clip_side": "X65",
    "clip_range": "X440",
    "empty_answers": "X447",
    "own_mask": "X448",
    "whole_sample": "X449",
    "large_errors_count": "X442",
    "clip_is_counted": "X443",
    "smoothing_switches_off": "X444",
    "centring_feels_shift": "X445",
    "hard_labels_stay_cold": "X446",
    "pulls_positives": "X334",
    "on_policy_gradient": "X204",
    "declared_direction": "B133",
    "option_effect": "B155",
    "input_effect": "B163",
    "option_end_points": "X96",
    "float32_accuracy": "B107",
    "bfloat16_inputs": "X97",
    "float16_inputs": "X240",
    "autocast_bfloat16": "X242",
    "autocast_float16": "X241",
    "many_terms": "X245",
    "many_repeats": "X243",
    "many_half_terms": "B108",
    "no_half_precision_inside": "B106",
    "own_numbers_settle": "X436",
    "short_training": "X81",
    "baseline_value": "B203",
    "baseline_gradient": "X83",
    "device_agreement": "X49",
    "compiled_agreement": "X322",
    "one_graph": "X323",
    "vmap": "X324",
    "metrics_detached": "B182",
    "metrics_split": "X95",
    "graph_released": "X320",
    "linear_memory": "X321",
}


@pytest.mark.parametrize("check", every_check(), ids=lambda check: check.name)
def test_check_kills(check):
    assert check.name in KILLS, f"no planted fault is known that {check.name} catches: add one to tests/faults"
    fault = KILLS[check.name]
    wanted = (Status.FAILED, Status.ADVICE) if check.severity is Severity.ADVICE else (Status.FAILED,)
    assert judge(fault, WRONG, True).verdict(check.name).status in wanted
    right = judge(fault, RIGHT, True).verdict(check.name)
    assert right.status in (Status.PASSED, Status.NOT_APPLICABLE)


def test_table_names_registered_checks():
    assert set(KILLS) <= {check.name for check in every_check()}
