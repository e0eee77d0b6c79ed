"""NetVLAD, NetRVLAD, NetFV and NeXtVLAD by hand: loops over clips, clusters and frames in double precision."""

import pytest
import torch

from reeltag.layers import LAYERS
from reeltag.layers.netvlad import NetVLAD

REAL = [9, 4]


def unit(v):
    return v / max(v.norm().item(), 1e-6)


def shuffled(layer):
    """Move every number of a layer off its start, so that no norm is the identity."""
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if "running_var" in name else 0.7 * torch.randn_like(value))
    return layer.double().eval().requires_grad_(False)


def normed(x, norm):
    return (x - norm.running_mean) / (norm.running_var + 1e-3).sqrt() * norm.weight + norm.bias


def clip(num_frames, dim, real):
    x = torch.randn(2, num_frames, dim, dtype=torch.float64)
    return x, torch.arange(num_frames) < torch.tensor(real).unsqueeze(1)


@pytest.mark.parametrize("num_clusters", [1, 3, 17])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("name", ["netvlad", "netrvlad", "netfv"])
def test_vlad_and_fisher_equal_loops_over_clusters(name, num_clusters, batch_norm):
    torch.manual_seed(0)
    layer = shuffled(LAYERS.build(name, dim=5, num_clusters=num_clusters, batch_norm=batch_norm))
    x, mask = clip(9, 5, REAL)
    expected = []
    for b, real in enumerate(REAL):
        first, second = torch.zeros(2, 5, num_clusters, dtype=torch.float64)
        for t in range(real):
            scores = layer.assign.linear(x[b, t])
            share = (normed(scores, layer.assign.norm) if batch_norm else scores).softmax(0)
            for k in range(num_clusters):
                center = layer.centers[k] if name != "netrvlad" else 0
                away = x[b, t] - center
                first[:, k] += share[k] * away
                if name == "netfv":
                    sigma = layer.covar_weights[k] ** 2 + 1e-6
                    second[:, k] += share[k] * (away**2 / sigma**2 - 1)
        if name == "netfv":
            first = first / (layer.covar_weights**2 + 1e-6).t()
        whole = unit(torch.stack([unit(first[:, k]) for k in range(num_clusters)], dim=1).flatten())
        expected.append(torch.cat([whole, unit(second.flatten())]) if name == "netfv" else whole)
    torch.testing.assert_close(layer(x, mask), torch.stack(expected), rtol=1e-9, atol=1e-12)


def test_from_centers_assigns_by_distance():
    torch.manual_seed(0)
    centers = torch.randn(6, 4)
    layer = NetVLAD.from_centers(centers, alpha=0.8)
    x = torch.randn(2, 5, 4)
    scores = layer.assign(x, None)
    distances = torch.cdist(x, centers.expand(2, -1, -1)) ** 2
    torch.testing.assert_close(scores.softmax(-1), (-0.8 * distances).softmax(-1))
    torch.testing.assert_close(layer.assign.linear.bias, -0.8 * centers.square().sum(1))
    assert torch.equal(layer.centers, centers)


def test_a_sharp_netvlad_is_vlad_with_intra_normalisation():
    torch.manual_seed(0)
    centers, (x, mask) = torch.randn(6, 4), clip(9, 4, REAL)
    sharp = NetVLAD.from_centers(centers, alpha=1e4)(x.float(), mask)
    hard = LAYERS.build("vlad", centers=centers, intra=True)(x.float(), mask)
    torch.testing.assert_close(sharp, hard, rtol=1e-3, atol=1e-4)  # scores near 1e5 leave float32 few digits


def test_from_centers_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="alpha is above 0"):
        NetVLAD.from_centers(torch.randn(3, 4), alpha=0)
    with pytest.raises(ValueError, match=r"\(K, D\)"):
        NetVLAD.from_centers(torch.randn(12), alpha=1)


def test_the_descriptor_has_norm_one():
    x = torch.randn(3, 7, 8)
    for name in ("netvlad", "netrvlad", "netvlagd", "gated_dbow", "soft_dbow"):
        norm = LAYERS.build(name, dim=8, num_clusters=5).eval()(x).norm(dim=1)
        torch.testing.assert_close(norm, torch.ones(3))


def test_a_coupled_netfv_takes_its_centers_from_the_assignment():
    torch.manual_seed(0)
    coupled = LAYERS.build("netfv", dim=4, num_clusters=3, coupled=True).eval()
    free = LAYERS.build("netfv", dim=4, num_clusters=3).eval()
    state = dict(coupled.state_dict(), centers=0.01 * coupled.assign.linear.weight)
    free.load_state_dict(state)
    x = torch.randn(2, 6, 4)
    torch.testing.assert_close(coupled(x), free(x))


def test_second_order_intra_normalises_every_cluster():
    torch.manual_seed(0)
    layer = LAYERS.build("netfv", dim=4, num_clusters=3, second_order_intra=True).eval()
    first, second = layer(torch.randn(2, 6, 4)).view(2, 2, 4, 3).unbind(1)
    torch.testing.assert_close(first.norm(dim=1), torch.full((2, 3), 3**-0.5))
    torch.testing.assert_close(second.norm(dim=1), torch.full((2, 3), 3**-0.5))


@pytest.mark.parametrize(("groups", "expansion", "clusters"), [(1, 1, 2), (3, 2, 5), (6, 3, 4)])
def test_nextvlad_equals_loops_over_groups(groups, expansion, clusters):
    torch.manual_seed(0)
    layer = shuffled(LAYERS.build("nextvlad", dim=6, num_clusters=clusters, groups=groups, expansion=expansion))
    x, mask = clip(9, 6, REAL)
    part = 6 * expansion // groups
    assert layer.out_features == clusters * part
    expected = []
    for b, real in enumerate(REAL):
        vlad = torch.zeros(part, clusters, dtype=torch.float64)
        for t in range(real):
            wide = layer.expand(x[b, t])
            attention = layer.attention(wide).sigmoid()
            scores = normed(layer.assign(wide), layer.assign_norm)
            for g in range(groups):
                share = scores[g * clusters : (g + 1) * clusters].softmax(0) * attention[g]
                for k in range(clusters):
                    vlad[:, k] += share[k] * (wide[g * part : (g + 1) * part] - layer.centers[k])
        expected.append(torch.stack([unit(vlad[:, k]) for k in range(clusters)], dim=1).flatten())
    torch.testing.assert_close(layer(x, mask), normed(torch.stack(expected), layer.norm), rtol=1e-9, atol=1e-12)


def test_nextvlad_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="expansion \\* dim = 12, got 5"):
        LAYERS.build("nextvlad", dim=6, groups=5)
