"""Poolings, gates, recurrent layers and experts against the outputs of published code."""

import json
import math
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

from reeltag.layers import LAYERS
from reeltag.layers.frames import FrameBatchNorm
from reeltag.layers.published import from_tensorflow
from reeltag.layers.snippet_pooling import fuse_frames

RECORDS = Path(__file__).parent / "records"


def record(name):
    return json.loads((RECORDS / f"{name}.json").read_text())


def generator(text):
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def draw(name, shape, kind="normal"):
    return (torch.randn if kind == "normal" else torch.rand)(shape, generator=generator(f"input:{name}"))


def drawn(entries):
    """The weights of a record: each drawn by the rule of its name, from a generator seeded with the name."""
    weights = {}
    for key, shape in entries:
        last, rng = key.replace("/", ".").split(".")[-1], generator(key)
        if last == "moving_mean" or (len(shape) == 1 and ("bias" in last or last == "beta")):
            weights[key] = 0.1 * torch.randn(shape, generator=rng)
        elif len(shape) == 1:
            weights[key] = 0.5 + torch.rand(shape, generator=rng)
        elif last == "covar_weights":
            weights[key] = 1 + 0.25 * torch.randn(shape, generator=rng)
        else:
            weights[key] = torch.randn(shape, generator=rng) * math.sqrt(2 / max(1, math.prod(shape[1:])))
    return weights


def scoped(weights, prefix):
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def named(weights, *names):
    return {key: value for key, value in weights.items() if key.split("/")[0] in names}


def agree(ours, theirs, tolerance=1e-5):
    """Compare with a record's tensor, whole or its first and last values, its scale being the root mean square."""
    ours = ours.detach().double()
    assert list(ours.shape) == theirs["shape"]
    flat = ours.flatten()
    if "values" in theirs:
        error = (flat - torch.tensor(theirs["values"], dtype=torch.float64)).abs().max()
    else:
        ends = torch.tensor(theirs["first"] + theirs["last8"], dtype=torch.float64)
        error = (torch.cat([flat[: len(theirs["first"])], flat[-8:]]) - ends).abs().max()
    scale = theirs["l2"] / math.sqrt(flat.numel())
    assert error <= tolerance * scale, f"largest difference {error:.2e} = {error / scale:.2e} of the scale"
    assert flat.abs().sum().item() == pytest.approx(theirs["abs_sum"], rel=tolerance)
    assert flat.norm().item() == pytest.approx(theirs["l2"], rel=tolerance)


def cases(name, skip=()):
    return [pytest.param(key, id=f"{name}:{key}") for key in record(name)["items"] if key not in skip]


def padded(x, real):
    """Garbage behind the real frames, and the mask that says so."""
    whole = torch.cat([x, torch.full((x.shape[0], 3, *x.shape[2:]), float("nan"))], dim=1)
    return whole, torch.arange(whole.shape[1]) < torch.as_tensor(real).unsqueeze(1)


POOLINGS = {"NetVLAD": "netvlad", "NetRVLAD": "netrvlad", "SoftDBoW": "soft_dbow", "NetFV": "netfv"}


@pytest.mark.parametrize("case", cases("LOUPE__pooling"))
def test_loupe_pooling(case):
    whole = record("LOUPE__pooling")
    item = whole["items"][case]
    args, weights = item["args"], drawn(item["weights"])
    pool = LAYERS.build(POOLINGS[case.split("|")[0]], dim=16, num_clusters=4, batch_norm=args["add_batch_norm"]).eval()
    head = {k: v for k, v in weights.items() if k.startswith(("hidden1", "gating"))}
    from_tensorflow(pool, {k: v for k, v in weights.items() if k not in head})
    x, mask = padded(draw("loupe:x", (3, 6, 16)), [6, 6, 6])
    with torch.no_grad():
        descriptor = pool(x, mask)
        agree(descriptor, item["out"]["descriptor_before_hidden1"])
        out = descriptor @ head.pop("hidden1_weights")
        if args["gating"]:
            gate = LAYERS.build("context_gating", dim=10, batch_norm=args["add_batch_norm"]).eval()
            from_tensorflow(gate, head)
            out = gate(out)
    agree(out, item["out"]["out"])


@pytest.mark.parametrize("case", cases("LOUPE__context_gating"))
def test_loupe_context_gating(case):
    item = record("LOUPE__context_gating")["items"][case]
    gate = LAYERS.build("context_gating", dim=12, batch_norm=case.endswith("True")).eval()
    from_tensorflow(gate, drawn(item["weights"]))
    agree(gate(draw("loupe:cg", (5, 12))), item["out"]["out"])


DESCRIPTORS = {
    "LightVLAD": ("netrvlad", {}),
    "NetVLAD": ("netvlad", {}),
    "NetVLAGD": ("netvlagd", {}),
    "SoftDBoF": ("soft_dbow", {}),
    "SoftDBoF_maxpool": ("soft_dbow", {"with_max": True}),
    "GatedDBoF": ("gated_dbow", {}),
    "DBoF": ("dbof", {"activation": "none", "pool": "average_and_max"}),
    "NetFV": ("netfv", {}),
    "NetFV|couple_weights=True factor .01": ("netfv", {"coupled": True}),
}


@pytest.mark.parametrize("case", cases("Youtube-8M-WILLOW__descriptors"))
def test_willow_descriptors(case):
    item = record("Youtube-8M-WILLOW__descriptors")["items"][case]
    name, options = DESCRIPTORS[case]
    pool = LAYERS.build(name, dim=16, num_clusters=4, **options).eval()
    from_tensorflow(pool, drawn(item["weights"]))
    agree(pool(*padded(draw("loupe:x", (3, 6, 16)), [6, 6, 6])), item["out"]["descriptor"])


def norm(weights, name):
    layer = FrameBatchNorm(len(weights[f"{name}/beta"])).eval()
    from_tensorflow(layer, scoped(weights, f"{name}/"))
    return layer


def experts(weights, dim, **options):
    layer = LAYERS.build("mixture_of_experts", dim=dim, num_labels=7, **options).eval()
    names = ("gates", "gates1", "gates2", "experts", "gating_prob_weights", "gating_prob_bn")
    from_tensorflow(layer, named(weights, *names))
    return layer


LATE_FUSION = {"NetVLADModelLF": "VLAD", "NetFVModelLF": "FV", "GatedDbofModelLF": "DBOF", "SoftDbofModelLF": "DBOF"}


@pytest.mark.parametrize("case", cases("Youtube-8M-WILLOW__models_LF"))
def test_willow_whole_models(case):
    item = record("Youtube-8M-WILLOW__models_LF")["items"][case]
    model, weights = case.split("|")[0], drawn(item["weights"])
    light = "lightvlad" in case
    name = {
        "NetVLADModelLF": "netrvlad" if light else "netvlad",
        "NetFVModelLF": "netfv",
        "GatedDbofModelLF": "gated_dbow",
        "SoftDbofModelLF": "soft_dbow",
    }[model]
    sound_name = "soft_dbow" if "Dbof" in model else name  # their gated bag has a plain one for sound
    frames = norm(weights, "input_bn")(draw("willow:frames", (2, 4, 1152)))
    descriptor = []
    for stream, kind, x in (("video", name, frames[..., :1024]), ("audio", sound_name, frames[..., 1024:])):
        own = scoped(weights, f"{stream}_{LATE_FUSION[model]}/")
        pool = LAYERS.build(kind, dim=x.shape[-1], num_clusters=own["cluster_weights"].shape[1]).eval()
        from_tensorflow(pool, own)
        descriptor.append(pool(x))
    pooled = torch.cat(descriptor, dim=1)
    agree(pooled, item["out"]["descriptor_before_hidden1"])
    hidden = pooled @ weights["hidden1_weights"]
    if "hidden1_biases" in weights:
        hidden = hidden + weights["hidden1_biases"]
    else:
        hidden = nn.functional.relu6(norm(weights, "hidden1_bn")(hidden))
    if "gating_weights_2" in weights:
        gate = LAYERS.build("context_gating", dim=8).eval()
        from_tensorflow(gate, named(weights, "gating_weights_2", "gating_bn"))
        hidden = gate(hidden)
    gated = "scores" if "gating_prob_weights" in weights else "none"
    agree(experts(weights, 8, score_gate=gated)(hidden).sigmoid(), item["out"]["out"])


@pytest.mark.parametrize("case", cases("Youtube-8M-WILLOW__moe_heads"))
def test_willow_experts(case):
    item = record("Youtube-8M-WILLOW__moe_heads")["items"][case]
    asked = json.loads(case.split("|")[1])
    gate = "none"
    if asked.get("moe_prob_gating"):
        gate = "input" if asked.get("moe_prob_gating_input") == "input" else "scores"
    options = {"score_gate": gate, "remove_diagonal": "gating_remove_diag" in asked}
    layer = experts(drawn(item["weights"]), 12, gate_rank=asked.get("moe_low_rank_gating"), **options)
    agree(layer(draw("yt8m:video", (3, 12))).sigmoid(), item["out"]["out"])


@pytest.mark.parametrize("case", cases("Youtube-8M-WILLOW__rnn_heads"))
def test_willow_recurrent(case):
    item = record("Youtube-8M-WILLOW__rnn_heads")["items"][case]
    weights = drawn(item["weights"])
    name, options = ("gru", {"reset": "before"}) if "gru" in case.lower() else ("lstm", {})
    x, mask = padded(draw("yt8m:frames", (3, 5, 12)), [5, 3, 1])

    def run(output):
        layer = LAYERS.build(
            name, dim=12, hidden=8, num_layers=2, output=output, backward="backward=True" in case, **options
        )
        from_tensorflow(layer, named(weights, "RNN"))
        return layer.eval()(x, mask)

    if case.startswith("raw"):
        agree(run("state"), item["out"]["state"])
        agree(run("all")[:, :5], item["out"]["outputs"])
    else:
        state = run("state")
        agree(experts(weights, state.shape[1])(state).sigmoid(), item["out"]["out"])


@pytest.mark.parametrize("case", [c for c in cases("youtube-8m__frame_level_heads") if "Dbof" in c.values[0]])
def test_youtube8m_bag_of_frames(case):
    item = record("youtube-8m__frame_level_heads")["items"][case]
    weights = drawn(item["weights"])
    pool_kind, act = (part.split("=")[1] for part in case.split("|")[1:3])
    batch_norm = "bn=True" in case
    x = draw("yt8m:frames", (3, 5, 12))
    x = norm(weights, "input_bn")(x) if batch_norm else x
    pool = LAYERS.build("dbof", dim=12, num_clusters=9, activation=act, pool=pool_kind, batch_norm=batch_norm).eval()
    from_tensorflow(pool, named(weights, "cluster_weights", "cluster_biases", "cluster_bn"))
    pooled = pool(*padded(x, [5, 5, 5]))
    agree(pooled, item["out"]["descriptor_before_hidden1"])
    hidden = pooled @ weights["hidden1_weights"]
    hidden = norm(weights, "hidden1_bn")(hidden) if batch_norm else hidden + weights["hidden1_biases"]
    hidden = nn.functional.relu6(hidden) if act == "relu6" else hidden.sigmoid()
    agree(experts(weights, 6)(hidden).sigmoid(), item["out"]["out"])


def logistic(weights, dim):
    layer = nn.Linear(dim, 7)
    from_tensorflow(layer, scoped(weights, "fully_connected/"))
    return layer


def test_youtube8m_frame_logistic():
    items = record("youtube-8m__frame_level_heads")["items"]
    x, pool = draw("yt8m:frames", (3, 5, 12)), LAYERS.build("mean_pool", dim=12)
    item = items["FrameLevelLogisticModel|zero padded"]
    layer = logistic(drawn(item["weights"]), 12)
    agree(layer(pool(*padded(x, [5, 3, 1]))).sigmoid(), item["out"]["out"])
    # Theirs sums padding too and divides by the number of real frames: here it takes a mean over all and a factor.
    item = items["FrameLevelLogisticModel|non-zero padding (sum over ALL frames / num_frames)"]
    agree(layer(pool(x) * 5 / torch.tensor([[5.0], [3.0], [1.0]])).sigmoid(), item["out"]["out"])


def test_youtube8m_lstm():
    item = record("youtube-8m__frame_level_heads")["items"]["LstmModel|cells=8|layers=2|Logistic"]
    weights = drawn(item["weights"])
    lstm = LAYERS.build("lstm", dim=12, hidden=8, num_layers=2).eval()
    from_tensorflow(lstm, named(weights, "rnn"))
    last = lstm(*padded(draw("yt8m:frames", (3, 5, 12)), [5, 3, 1]))
    agree(logistic(weights, 8)(last).sigmoid(), item["out"]["out"])


@pytest.mark.parametrize("case", cases("youtube-8m__video_level_heads"))
def test_youtube8m_video_heads(case):
    item = record("youtube-8m__video_level_heads")["items"][case]
    weights, x = drawn(item["weights"]), draw("yt8m:video", (3, 12))
    if case == "LogisticModel":
        agree(logistic(weights, 12)(x).sigmoid(), item["out"]["out"])
    else:
        agree(experts(weights, 12, num_experts=int(case[-1]))(x).sigmoid(), item["out"]["out"])


@pytest.mark.parametrize("case", cases("linrongc-youtube-8m__nextvlad_layer"))
def test_nextvlad(case):
    item = record("linrongc-youtube-8m__nextvlad_layer")["items"][case]
    groups, expansion, clusters = (int(part.split("=")[1]) for part in case.split("|")[1:4])
    layer = LAYERS.build("nextvlad", dim=16, num_clusters=clusters, groups=groups, expansion=expansion).eval()
    from_tensorflow(layer, drawn(item["weights"]))
    real = [5, 3, 1] if case.endswith("True") else [5, 5, 5]
    agree(layer(*padded(draw("nextvlad:x", (3, 5, 16)), real)), item["out"]["vlad_after_bn"])


@pytest.fixture(scope="module")
def snippets():
    whole = record("definitions__beyond_short_snippets")
    items = {key.split(" ")[0]: value for key, value in whole["items"].items()}
    return items, {k.removeprefix("bss."): v for k, v in drawn(whole["weights"]).items()}


def fill(layer, **tensors):
    layer.load_state_dict({key.replace("__", "."): value for key, value in tensors.items()})
    return layer.eval()


@pytest.mark.parametrize("name", ["conv_pooling", "late_pooling", "slow_pooling", "local_pooling", "time_domain_conv"])
def test_beyond_short_snippets(snippets, name):
    items, w = snippets
    fc1 = {"layers__0__weight": w["fc1.weight"], "layers__0__bias": w["fc1.bias"]}
    fc2 = {"layers__2__weight": w["fc2.weight"], "layers__2__bias": w["fc2.bias"]}
    x, mask = padded(draw("bss:conv", (2, 30, 6, 3, 3)), [30, 30])
    if name == "slow_pooling":
        layer = LAYERS.build(name, dim=54, hidden=(8, 7))
        first = {"window_layer__0__weight": w["slow_fc.weight"], "window_layer__0__bias": w["slow_fc.bias"]}
        fill(layer, **first, layers__0__weight=w["fc2.weight"], layers__0__bias=w["fc2.bias"])
    elif name == "time_domain_conv":
        layer = LAYERS.build("time_conv_pooling", dim=6, map_px=(3, 3), num_kernels=4, hidden=(8, 7))
        own = {"conv__weight": w["tconv.weight"], "conv__bias": w["tconv.bias"]}
        fill(layer, **own, layers__0__weight=w["fc1_t.weight"], layers__0__bias=w["fc1_t.bias"], **fc2)
    else:
        layer = fill(LAYERS.build(name, dim=54, hidden=(8, 7)), **fc1, **fc2)
    with torch.no_grad():
        if name == "local_pooling":
            towers, counts = layer.towers(x, mask)
            assert counts.sum(1).tolist() == [5, 5]
            out = nn.functional.linear(towers[:, :5], w["cls.weight"], w["cls.bias"])
        else:
            out = nn.functional.linear(layer(x, mask), w["cls.weight"], w["cls.bias"])
    agree(out, items[name])


def test_beyond_short_snippets_fusions(snippets):
    scores, mask = padded(draw("bss:framelogits", (2, 6, 5)).softmax(-1), [6, 6])
    names = {
        "last": "last",
        "max_over_time": "max",
        "sum": "sum",
        "mean": "mean",
        "linear_gain_weighted_sum": "gain_sum",
        "linear_gain_weighted_mean (divide by sum g)": "gain_mean",
    }
    for theirs, ours in names.items():
        agree(fuse_frames(scores, mask, ours), snippets[0]["lstm_fusion"][theirs])


def test_beyond_short_snippets_lstm(snippets):
    item = snippets[0]["lstm5"]
    layer = LAYERS.build("lstm_per_frame", dim=6, num_labels=4, hidden=8).eval()
    layer.lstm.rnn.load_state_dict({k.removeprefix("bss.lstm."): v for k, v in drawn(item["weights"]).items()})
    agree(layer.lstm(*padded(draw("bss:seq", (2, 6, 6)), [6, 6]))[:, :6], item["out"])


def test_glu():
    whole = record("definitions__glu")
    weights = drawn(whole["weights"])
    layer = fill(LAYERS.build("glu", dim=10, out_features=8), **{f"linear__{k[4:]}": v for k, v in weights.items()})
    agree(layer(draw("glu:x", (4, 6, 10))), whole["out"])


@pytest.mark.parametrize("improved", [False, True])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_scikit_image_fisher_vector(improved, alpha):
    whole = record("scikit-image__fisher_vector")
    weights, means = draw("fv:weights", (3,)).softmax(0), draw("fv:means", (3, 5))
    variances = draw("fv:vars", (3, 5), "uniform") + 0.5
    agree(variances, whole["values"]["variances"])
    layer = LAYERS.build(
        "fisher_vector",
        weights=weights,
        means=means,
        sigmas=variances.sqrt(),
        power=alpha if improved else 1,
        normalize=improved,
        variance_sign=-1,
    )
    x, mask = padded(draw("fv:x", (12, 5)).unsqueeze(0), [12])
    agree(layer.posteriors(x[:, :12]).squeeze(0), whole["out"]["posteriors"])
    agree(layer(x, mask).squeeze(0), whole["out"][f"improved={improved}|alpha={alpha}"])
