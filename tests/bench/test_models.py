"""The speed benchmark: pairs by hand, and that it compares the same functions at sizes of a moment."""

import pytest
import torch

from reeltag.bench import BENCHES, run_bench
from reeltag.bench.models import PEERS, agreement, beside_peer, median_ratio, overhead, paired_seconds
from reeltag.bench.models_gpu import train_row
from reeltag.build import create_model
from reeltag.errors import RecipeError, ReeltagError
from reeltag.models import MODELS


def test_ratios_are_taken_pair_by_pair():
    # Ratios 2, 0.5 and 3; the ratio of the medians would be 4 / 3.
    assert median_ratio([2.0, 4.0, 9.0], [1.0, 8.0, 3.0]) == 2.0


def test_each_call_is_warmed_up_once_and_the_order_turns():
    order = []
    seconds = paired_seconds({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_our_network_and_the_peers_are_one_function():
    pytest.importorskip("torchvision")
    row = beside_peer(PEERS[0], rounds=1, batch=1, clip=(4, 32))
    assert row["clip"] == [1, 4, 32, 32]
    assert row["largest_difference_in_fp32_over_std"] < 1e-4
    for what in ("forward", "forward_backward"):
        assert row[what]["times_faster_than_peer_fp32"] > 0


@pytest.mark.skipif("tin_mini" not in MODELS, reason="TIN is not there")
def test_overhead_counts_from_tsn():
    row = overhead(1, 1, backbone="mini", side=32)
    assert {"tsn_ms", "tsm_percent", "tin_percent"} == set(row["forward"]) == set(row["forward_backward"])


def test_agreement_counts_the_clips_of_a_split(mini_run, mini_packed):
    row = agreement(str(mini_run), str(mini_packed), "all")
    assert row["clips"] == 48
    assert row["model"] == "tsm_mini"
    # bf16 keeps 8 bits: probabilities of a small network move by a percent or so, not at all only without autocast.
    assert 0 < row["largest_difference_of_probability"] < 0.1
    assert 50 < row["top_1_agreement_percent"] <= 100


def test_operations_of_a_step_are_three_times_those_of_a_forward_pass():
    row = train_row("r3d_mini", 2, 16, 2, compiled=False, rounds=1, device=torch.device("cpu"), widths=(4, 8))
    with torch.device("meta"):
        model = create_model("r3d_mini", num_labels=313, widths=(4, 8))
        forward = model.flops(torch.empty(1, 2, 3, 16, 16))
    # Clips a second are rounded to a tenth.
    assert row["flops_per_s"] / row["clips_per_s"] == pytest.approx(3 * forward, rel=0.01)


def test_parts_that_lack_something_are_refused_with_words():
    assert "models" in BENCHES
    with pytest.raises(RecipeError, match="has no part 'sped'; it has speed, overhead, agreement, gpu"):
        run_bench("models", ["parts=sped"])
    with pytest.raises(ReeltagError, match="needs run=RUN and data=PACKED"):
        run_bench("models", ["parts=agreement"])
    if not torch.cuda.is_available():
        with pytest.raises(ReeltagError, match="shows no GPU"):
            run_bench("models", ["parts=gpu"])
