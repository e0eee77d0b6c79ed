"""TIN's interlacing: the matrix by hand, its gradients, and what it refuses."""

import pytest
import torch

from reeltag.layers.temporal_interlace import TemporalInterlace, interlacing_matrix


def test_whole_offsets_move_frames_and_positive_ones_delay():
    matrix = interlacing_matrix(torch.tensor([[1.0, -1.0]]), torch.ones(1, 3, 2))
    assert matrix[0, 0].tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0]]  # out[t] = in[t - 1], the first frame is zero
    assert matrix[0, 1].tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_fractions_mix_two_frames_and_weights_are_of_the_frame_moved_to():
    matrix = interlacing_matrix(torch.tensor([[-0.25]]), torch.tensor([[[1.0], [2.0], [3.0]]]))
    # floor(-0.25) = -1 with fraction 0.75: 0.25 of the next frame and 0.75 of this one.
    assert matrix[0, 0].tolist() == [[0.75, 0.25, 0], [0, 1.5, 0.5], [0, 0, 2.25]]


def test_layer_by_hand():
    layer = TemporalInterlace(8, num_frames=2, shift_div=2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.offset_net.fc2.bias.copy_(torch.tensor([0.75, 0.25]).logit())  # 4 * (p - 1/2): offsets 1 and -1
        x = torch.arange(16.0).view(2, 8, 1, 1)
        # Groups of one channel move by 1, -1, -1, 1 frames; weights 2 * sigmoid(0) = 1; four channels pass.
        expected = torch.tensor([[0, 9, 10, 0, 4, 5, 6, 7], [0, 0, 0, 3, 12, 13, 14, 15.0]])
        torch.testing.assert_close(layer(x)[:, :, 0, 0], expected, rtol=0, atol=1e-5)


def test_gradient_equals_finite_differences_in_features_and_parameters():
    torch.manual_seed(0)
    layer = TemporalInterlace(5, num_frames=3, shift_div=1).double()  # four of five channels take part
    x = torch.randn(6, 5, 1, 2, dtype=torch.float64, requires_grad=True)
    names, values = zip(*layer.named_parameters(), strict=True)

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))


def test_a_whole_offset_has_the_gradient_of_the_published_mix():
    # At offset 0 the mix is of frames t and t - 1: the derivative is in[t - 1] - in[t], not zero.
    offset = torch.zeros(1, 1, requires_grad=True)
    (interlacing_matrix(offset, torch.ones(1, 2, 1))[0, 0] @ torch.tensor([1.0, 5.0]))[1].backward()
    assert offset.grad.item() == 1 - 5


def test_clips_of_a_batch_do_not_mix_and_memory_order_does_not_matter():
    torch.manual_seed(0)
    layer = TemporalInterlace(16, num_frames=4)
    x = torch.randn(8, 16, 3, 3)
    torch.testing.assert_close(layer(x)[:4], layer(x[:4]), rtol=1e-5, atol=1e-6)
    last = layer(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, layer(x), rtol=1e-5, atol=1e-6)


def test_offsets_start_at_half_a_frame_and_stay_full_precision_under_autocast():
    layer = TemporalInterlace(16, num_frames=4)
    first = 4 * (layer.offset_net.fc2.bias.sigmoid() - 0.5)
    torch.testing.assert_close(first, torch.tensor([0.5, 0.5]), rtol=0, atol=1e-4)  # 0.5108 has four digits
    x = torch.randn(8, 16, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    torch.testing.assert_close(low, layer(x), rtol=1e-5, atol=1e-6)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="8 channels / shift_div 4 do not give each of 4 groups a channel"):
        TemporalInterlace(8, shift_div=4)
    with pytest.raises(ValueError, match=r"with T = 8 frames a clip, got \(12, 16, 3, 3\)"):
        TemporalInterlace(16)(torch.zeros(12, 16, 3, 3))
