# SPDX-License-Identifier: Apache-2.0
"""The settings of the relocalisation."""
from __future__ import annotations

from dataclasses import dataclass

from spann3r_ros.core.settings import RUNNING, check_settings, setting

AFTER_LOAD = ('auto', 'continue', 'search')


@dataclass(frozen=True)
class RelocalisationConfig:
    """When the place of the camera in the map is unknown, and how it is searched for."""

    enabled: bool = setting(
        False, 'Search for the place of the camera in the map when it is not known: after a load, '
        'and when the camera was lost. Until it is found nothing new enters the map, and map -> '
        'odom is not published. It needs weights as loops.enabled does; the bundled ones do not '
        'suffice', applies=RUNNING)
    after_load: str = setting(
        'auto', 'The first image after a load. auto: the map goes on where it ended if the image '
        'shows the view that it ended with, otherwise the place is searched for; continue: it '
        'goes on, whatever the image shows; search: the place is searched for',
        choices=AFTER_LOAD, applies=RUNNING)
    max_gap_sec: float = setting(
        1.0, 'An image that shows nothing of the last one, taken longer before (a covered lens, a '
        'camera that was carried away), begins a search. More for a network that takes longer '
        'than that for an image', 0.0, 3600.0, applies=RUNNING)
    tries: int = setting(
        2, 'Most candidates that are verified for one keyframe of a search; each takes two pairs '
        'of the network', 1, 20, applies=RUNNING)
    interval: int = setting(
        1, 'Candidates are verified for every so many keyframes of a search', 1, 10_000,
        applies=RUNNING)
    hint_radius: float = setting(
        2.0, 'Least distance from a pose on initialpose within which candidates are looked for, '
        'in units of the map; its covariance may enlarge it', 0.0, 1e6, applies=RUNNING)
    trust_hint: bool = setting(
        False, 'Take a pose on initialpose for the place of the camera, without a verification',
        applies=RUNNING)

    def __post_init__(self) -> None:
        check_settings(self)
