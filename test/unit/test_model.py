# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from tiny import CONFIG, HEIGHT, TOKENS, WIDTH, random_images, tiny_model
from torch import Tensor, nn

from spann3r_ros.networks.blocks.heads import DensePrediction, activate
from spann3r_ros.networks.spann3r.config import MemoryConfig, Spann3RConfig
from spann3r_ros.networks.spann3r.offline import reconstruct_offline
from spann3r_ros.networks.spann3r.spann3r import NotFiniteError, Spann3R, StreamState
from spann3r_ros.networks.spann3r.unroll import unroll

# As in training: nothing is rejected or below the threshold.
OPEN = MemoryConfig(similarity_threshold=1.0, attention_threshold=0.0)


@pytest.fixture(scope='module')
def model() -> Spann3R:
    return tiny_model()


def start(model: Spann3R, memory: MemoryConfig = OPEN) -> StreamState:
    return model.start(HEIGHT, WIDTH, memory)


def run(model: Spann3R, images: Tensor, memory: MemoryConfig = OPEN) -> list[DensePrediction]:
    """Return every image's final prediction."""
    state = start(model, memory)
    refined = [model.step(state, image).refined for image in images]
    assert refined[0] is None
    return [*refined[1:], model.flush(state)]


def frozen(state: StreamState) -> dict:
    """Return a copy of a state's content."""
    memory = copy.deepcopy(vars(state.memory))
    return {**memory, **{name: copy.deepcopy(item) for name, item in vars(state).items()
                         if name != 'memory'}}


def equal(left: object, right: object) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


def calls(module: nn.Module) -> list[tuple[int, ...]]:
    """Return a list that grows by the input shape of every call of a module."""
    seen: list[tuple[int, ...]] = []
    module.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    return seen


def test_streaming_equals_the_training_time_forward(model: Spann3R) -> None:
    images = random_images(7)
    whole = unroll(model, images.transpose(0, 1))
    expected = [*whole.reference, whole.target[-1]]
    for streamed, trained in zip(run(model, images), expected, strict=True):
        torch.testing.assert_close(streamed.points, trained.points, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(streamed.logit, trained.logit, rtol=1e-4, atol=1e-5)


def test_earlier_images_change_later_predictions_through_memory_only(model: Spann3R) -> None:
    images = random_images(5)
    other = images.clone()
    other[0] = random_images(1, seed=9)[0]
    first, second = run(model, images), run(model, other)
    assert not torch.allclose(first[3].points, second[3].points, atol=1e-4)
    assert torch.equal(run(model, images)[3].points, first[3].points)


def test_provisional_equals_flush_and_head_2_runs_on_request_only() -> None:
    model, images = tiny_model(), random_images(4)
    heads = calls(model.dust3r.downstream_head1.dpt.head), calls(
        model.dust3r.downstream_head2.dpt.head)
    state = start(model)
    assert model.step(state, images[0], provisional=True).provisional is None
    assert model.flush(state) is None
    assert model.step(state, images[1]).provisional is None
    model.step(state, images[2])
    assert [len(seen) for seen in heads] == [2, 0]
    provisional = model.step(state, images[3], provisional=True).provisional
    assert [len(seen) for seen in heads] == [3, 1]
    assert torch.equal(provisional.points, model.flush(state).points)


def test_provisional_prediction_changes_nothing_else(model: Spann3R) -> None:
    states = [start(model) for _ in range(2)]
    for image in random_images(4):
        outputs = [model.step(state, image, provisional=asked)
                   for state, asked in zip(states, (True, False), strict=True)]
        if outputs[0].refined:
            assert torch.equal(outputs[0].refined.points, outputs[1].refined.points)
    assert equal(*map(frozen, states))


def test_every_image_is_encoded_once_and_rejected_ones_get_no_value() -> None:
    model, image = tiny_model(), random_images(1)[0]
    encoded, values = calls(model.dust3r.enc_norm), calls(model.value_norm)
    state = start(model, MemoryConfig(similarity_threshold=-1.0))
    for _ in range(5):
        model.step(state, image)
    assert len(encoded) == 5
    # The first frame is stored in the empty memory; no later one differs enough.
    assert len(values) == 1
    assert (state.memory.tokens, state.memory.rejected_frames) == (TOKENS, 3)


@pytest.mark.parametrize('part', ['encode_value', 'query', 'key', 'predict_target',
                                  'predict_reference'])
def test_failing_step_leaves_the_state_unchanged(part: str) -> None:
    model, images = tiny_model(), random_images(5)
    state = start(model)
    for image in images[:4]:
        model.step(state, image)
    before = frozen(state)
    with (mock.patch.object(model, part, side_effect=RuntimeError('no memory left')),
          pytest.raises(RuntimeError, match='no memory left')):
        model.step(state, images[4], provisional=True)
    assert equal(before, frozen(state))
    output = model.step(state, images[4])
    assert torch.equal(output.refined.points, run(model, images)[3].points)


@pytest.mark.parametrize('seen', [0, 1, 3])
@pytest.mark.parametrize('shape', [(1, 3, 48, 48), (1, 3, 48, 32), (2, 3, 32, 48), (3, 32, 48)])
def test_image_of_another_size_is_refused(
        model: Spann3R, seen: int, shape: tuple[int, ...]) -> None:
    state = start(model)
    for image in random_images(seen):
        model.step(state, image)
    before = frozen(state)
    with pytest.raises(ValueError, match=r'image: expected shape \(1, 3, 32, 48\)'):
        model.step(state, torch.zeros(shape))
    assert equal(before, frozen(state))


def test_points_that_are_not_finite_never_reach_the_memory() -> None:
    model, images = tiny_model(), random_images(4)
    state = start(model)
    for image in images[:3]:
        model.step(state, image)
    before = frozen(state)
    with torch.no_grad():
        model.dust3r.downstream_head1.dpt.head[4].bias[0] += 1000.0  # expm1 overflows
    with pytest.raises(NotFiniteError):
        model.step(state, images[3])
    assert equal(before, frozen(state))


def test_sequences_are_independent(model: Spann3R) -> None:
    images = random_images(4, seed=1), random_images(4, seed=2)
    states = [start(model) for _ in images]
    results: list[list[Tensor]] = [[], []]
    for step in range(4):
        for index, state in enumerate(states):
            output = model.step(state, images[index][step])
            results[index] += [output.refined.points] if output.refined else []
    for index in range(2):
        alone = run(model, images[index])[:3]
        assert all(torch.equal(left, right.points)
                   for left, right in zip(results[index], alone, strict=True))


def test_long_sequence_stays_finite_and_within_its_memory(model: Spann3R) -> None:
    memory = MemoryConfig(working_frames=2, long_term_tokens=42)
    state = start(model, memory)
    for image in random_images(40):
        output = model.step(state, image)
        assert state.memory.tokens <= memory.capacity(TOKENS)
    assert state.memory.prunings > 2
    assert output.refined.points.isfinite().all()


@pytest.mark.parametrize('height, width', [(32, 32), (48, 80), (16, 16)])
def test_any_landscape_size_runs(model: Spann3R, height: int, width: int) -> None:
    state = model.start(height, width, OPEN)
    for image in random_images(3, height=height, width=width):
        output = model.step(state, image, provisional=True)
    for prediction in (output.refined, output.provisional):
        assert prediction.points.shape == (1, height, width, 3)
        assert prediction.logit.shape == (1, height, width)


@pytest.mark.parametrize('height, width', [(48, 32), (33, 48), (0, 48)])
def test_portrait_and_odd_sizes_are_refused(model: Spann3R, height: int, width: int) -> None:
    with pytest.raises(ValueError, match='image size: expected multiples of 16'):
        model.start(height, width, OPEN)


def test_linear_head_and_learned_positions_run_at_their_size_only() -> None:
    model = tiny_model(head='linear', learned_positions=True, patch_size=8)
    results = run(model, random_images(3))
    assert all(item.points.shape == (1, HEIGHT, WIDTH, 3) for item in results)
    state = model.start(16, 16, OPEN)
    with pytest.raises(ValueError, match='images: expected 32x48'):
        model.step(state, torch.zeros(1, 3, 16, 16))


def test_confidence_is_the_sigmoid_and_never_one() -> None:
    logit = torch.tensor([[[-30.0, 0.0, 3.0, 40.0]]])
    confidence = DensePrediction(torch.zeros(1, 1, 4, 3), logit).confidence
    raw = 1.0 + logit[..., :3].double().exp()
    torch.testing.assert_close(confidence[..., :3].double(), (raw - 1.0) / raw)
    assert float(confidence.max()) < 1.0


def test_activation_of_zero_is_zero_with_a_finite_gradient() -> None:
    raw = torch.zeros(1, 4, 2, 2, requires_grad=True)
    points = activate(raw).points
    points.sum().backward()
    assert (points == 0.0).all() and raw.grad.isfinite().all()


def test_config_is_rebuilt_from_plain_values_and_refuses_bad_ones() -> None:
    assert Spann3RConfig.from_dict(CONFIG.to_dict()) == CONFIG
    for change, message in (({'encoder_depth': 0}, 'encoder_depth'), ({'head': 'x'}, 'head'),
                            ({'decoder_heads': 5}, 'decoder_heads'), ({'rope_base': 0.0}, 'rope'),
                            ({'patch_size': 8}, 'patch_size'), ({'unheard_of': 1}, 'unheard_of'),
                            ({'image_height': 64}, 'image size')):
        with pytest.raises(ValueError, match=message):
            Spann3RConfig.from_dict({**CONFIG.to_dict(), **change})
    for change in ({'working_frames': 0}, {'long_term_tokens': -1}, {'attention_threshold': 0.9},
                   {'similarity_threshold': float('nan')}):
        with pytest.raises(ValueError, match=next(iter(change))):
            MemoryConfig(**change)


def test_offline_takes_every_image_once_without_redundant_work() -> None:
    model, images = tiny_model(), random_images(4)[:, 0]
    encoded, decoded = calls(model.dust3r.enc_norm), calls(model.dust3r.decoder_embed)
    result = reconstruct_offline(model, images, OPEN)
    assert sorted(result.order) == [0, 1, 2, 3]
    assert len(result.predictions) == 4 and len(result.scores) == 2
    assert len(encoded) == 4
    # Twelve ordered pairs, then two candidates, then one; both sides are embedded.
    assert len(decoded) == 2 * (12 + 2 + 1)
    start_pair = int(result.pair_confidence.argmax())
    assert result.order[:2] == divmod(start_pair, 4)
    assert (result.pair_confidence.diagonal() == 0.0).all()


def test_offline_order_streamed_online_gives_the_same_points(model: Spann3R) -> None:
    images = random_images(4)
    result = reconstruct_offline(model, images[:, 0], MemoryConfig())
    streamed = run(model, images[list(result.order)], MemoryConfig())
    for offline, online in zip(result.predictions, streamed, strict=True):
        torch.testing.assert_close(offline.points, online.points, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('shape', [(1, 3, 32, 48), (3, 32, 48), (2, 4, 32, 48)])
def test_offline_refuses_other_shapes(model: Spann3R, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='images: expected two or more'):
        reconstruct_offline(model, torch.zeros(shape), OPEN)
