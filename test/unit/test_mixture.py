# SPDX-License-Identifier: Apache-2.0
"""Sequences of several sources in one batch, and training on places."""
from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from small_pack import small_pack
from torch import Tensor

from spann3r_ros.networks.spann3r.config import Spann3RConfig
from spann3r_ros.rooms.assets.asset_pack import PackError, write_pack
from spann3r_ros.training.curve import FIELDS
from spann3r_ros.training.loop import CURVE, Trainer
from spann3r_ros.training.rank import Rank
from spann3r_ros.training.release import PLACES, ROOMS, training_data
from spann3r_ros.training.schedule import Moment, moment
from spann3r_ros.training.sources.mixture import Mixture, open_sources
from spann3r_ros.training.sources.rendered import PlaceSource, RoomSource
from spann3r_ros.training.sources.source import TrainingBatch
from spann3r_ros.training.training_config import Stage, TrainingConfig

NETWORK = Spann3RConfig(
    image_height=24, image_width=32, patch_size=8, encoder_width=16, encoder_depth=1,
    encoder_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2, value_depth=1,
    value_heads=2, head='linear')
RUN = TrainingConfig(network=NETWORK, places_share=0.5, stages=(Stage(1.0, (3,)),), steps=3,
                     frames_per_step=12, warmup_steps=1, textures=4, seed=5)


@dataclass
class Constant:
    """A source of images of one grey value, whose state counts its sequences."""

    grey: int
    count: int = 0

    def batch(self, batch_size: int, frames: int, size: tuple[int, int], _: Moment,
              draw: random.Random) -> TrainingBatch:
        self.count += batch_size
        shape = (batch_size, frames)
        return TrainingBatch(torch.full((*shape, 3, *size), self.grey, dtype=torch.uint8),
                             torch.ones(*shape, *size, 3),
                             torch.ones(*shape, *size, dtype=torch.bool))

    def state(self) -> Tensor:
        return torch.tensor([self.count], dtype=torch.int64).view(torch.uint8)

    def restore(self, state: Tensor) -> None:
        self.count = int(state.view(torch.int64)[0])


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    path = tmp_path / 'pack.npz'
    write_pack(small_pack(), path)
    return path


def test_sequences_come_from_the_sources_by_their_shares() -> None:
    parts = [Constant(1), Constant(2), Constant(3)]
    mixture = Mixture(list(zip((0.6, 0.3, 0.1), parts, strict=True)))
    drawn = mixture.batch(2000, 1, (1, 1), moment(RUN, 0), random.Random(0))
    counts = torch.bincount(drawn.images[:, 0, 0, 0, 0].int(), minlength=4)[1:] / 2000
    assert torch.allclose(counts, torch.tensor([0.6, 0.3, 0.1]), atol=0.04)
    assert drawn.points.shape == (2000, 1, 1, 1, 3)


def test_state_of_a_mixture_is_that_of_its_sources() -> None:
    parts = [Constant(1, 3), Constant(2, 260)]
    state = Mixture([(0.5, part) for part in parts]).state()
    others = [Constant(1), Constant(2)]
    Mixture([(0.5, part) for part in others]).restore(state)
    assert others == parts


@pytest.mark.parametrize(('share', 'kind'), [(0.0, RoomSource), (1.0, PlaceSource),
                                             (0.5, Mixture)])
def test_sources_of_a_run_follow_its_shares(share: float, kind: type, pack: Path) -> None:
    sources = open_sources(replace(RUN, places_share=share, shards=2), [1], 'cpu', pack)
    assert list(sources) == [1]
    assert type(sources[1]) is kind
    drawn = sources[1].batch(2, 3, (24, 40), moment(RUN, 0), random.Random(1))
    assert drawn.images.shape == (2, 3, 3, 24, 40)


def test_shares_of_more_than_one_are_refused() -> None:
    with pytest.raises(ValueError, match='expected shares of at most 1 together, got 0.7 and 0.5'):
        replace(RUN, data=('tum:somewhere',), data_share=0.7)


@pytest.mark.parametrize('shares', [(0.9, 0.1), (0.7, 0.3), (0.8, 0.2)])
def test_shares_of_one_together_leave_no_rooms(shares: tuple[float, float]) -> None:
    data, places = shares
    config = replace(RUN, data=('tum:somewhere',), data_share=data, places_share=places)
    assert config.source_shares == (0.0, places, data)


@pytest.mark.parametrize('share', [-0.1, 1.1, float('nan')])
def test_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match='places_share: expected 0 to 1'):
        replace(RUN, places_share=share)


def test_run_is_not_resumed_with_other_sources(tmp_path: Path, pack: Path) -> None:
    Trainer(RUN, tmp_path, Rank(), pack=pack).save()
    for share in (0.0, 1.0):
        other = Trainer(replace(RUN, places_share=share), tmp_path, Rank(), pack=pack)
        with pytest.raises(ValueError, match='expected rooms, places and recordings as the run'):
            other.resume()
    assert Trainer(replace(RUN, places_share=0.6), tmp_path, Rank(), pack=pack).resume()


def test_run_with_places_needs_a_pack(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='pack: expected a pack of assets'):
        open_sources(RUN, [0], 'cpu')
    with pytest.raises(PackError, match='nowhere.npz: expected a pack of assets'):
        open_sources(RUN, [0], 'cpu', tmp_path / 'nowhere.npz')


def test_resumed_run_on_places_repeats_the_curve_of_a_whole_one(tmp_path: Path, pack: Path
                                                                ) -> None:
    config = replace(RUN, network=replace(NETWORK, other_sizes=((16, 40),)))
    whole = Trainer(config, tmp_path / 'whole', Rank(), pack=pack)
    whole.run(save_every_steps=1)
    for _ in range(2):
        parted = Trainer(config, tmp_path / 'parted', Rank(), pack=pack)
        parted.resume()
        while parted.step < config.steps:
            parted.advance()
            if parted.step == 1:
                parted.save()
                break
    curves = [without_time((tmp_path / name / CURVE).read_text()) for name in ('whole', 'parted')]
    assert len(curves[0]) == 1 + config.steps
    assert curves[0] == curves[1]


def test_release_names_what_it_was_trained_on() -> None:
    assert training_data(replace(RUN, places_share=0.0)) == ROOMS
    both = training_data(RUN)
    assert both.startswith(f'{PLACES} of sweethome3d-furniture, lomiri')
    assert both.endswith(f'plasma-workspace-wallpapers, {ROOMS}')
    folders = ('plain:/data/office:0-259', 'tum:/data/desk/')
    recorded = replace(RUN, data=folders, data_share=0.5)
    assert training_data(recorded).startswith(
        'plain:office, frames 0 to 259, tum:desk, furnished places')
    assert ROOMS not in training_data(recorded)


def without_time(text: str) -> list[list[str]]:
    place = FIELDS.index('seconds')
    return [[item for index, item in enumerate(line.split(',')) if index != place]
            for line in text.splitlines()]


def test_weights_carry_to_another_image_size_and_to_a_network_without_positions() -> None:
    trainable = RUN.trainable
    learned = replace(NETWORK, learned_positions=True)
    source = trainable.build(learned)
    torch.manual_seed(0)
    trainable.initialise(source)
    target = trainable.build(replace(NETWORK, image_height=16, image_width=48))
    trainable.copy_weights(target, source)
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])
    same = trainable.build(learned)
    trainable.copy_weights(same, source)
    assert torch.equal(same.dust3r.enc_pos_embed, source.dust3r.enc_pos_embed)
    with pytest.raises(ValueError, match='learned_positions: expected those of as many tokens'):
        trainable.copy_weights(trainable.build(replace(learned, image_width=40)), source)
    with pytest.raises(ValueError, match='learned_positions'):
        trainable.copy_weights(same, target)
    with pytest.raises(ValueError, match='but for the image size, the positions and fewer blocks'):
        trainable.copy_weights(trainable.build(replace(NETWORK, encoder_width=32)), source)


def test_deeper_network_begins_as_the_one_whose_weights_it_takes() -> None:
    trainable = RUN.trainable
    torch.manual_seed(0)
    source = trainable.build(replace(NETWORK, learned_positions=True))
    deeper = trainable.build(replace(NETWORK, learned_positions=True, encoder_depth=3,
                                     decoder_depth=2, value_depth=2))
    for model in (source, deeper):
        trainable.initialise(model)
    trainable.copy_weights(deeper, source)
    images = torch.rand(2, 3, 3, 24, 32) * 2 - 1
    with torch.no_grad():
        got, expected = (trainable.unroll(model.eval(), images) for model in (deeper, source))
    for one, other in zip(got.target, expected.target, strict=True):
        assert torch.allclose(one.points, other.points, atol=1e-6)
    assert not trainable.takes_weights(source.config, deeper.config)
    dense = replace(deeper.config, head='dpt', patch_size=16, image_height=32)
    assert not trainable.takes_weights(dense, replace(dense, decoder_depth=1))
