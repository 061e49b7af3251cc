# SPDX-License-Identifier: Apache-2.0
"""The markers of ~/graph: what is where, and in which colour."""
from __future__ import annotations

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from spann3r_ros.core.transforms import to_rigid
from spann3r_ros.core.types import FragmentPose
from spann3r_ros.mapping.fragments.atlas import Atlas
from spann3r_ros.mapping.fragments.constraint import Constraint
from spann3r_ros.mapping.fragments.graph_view import view_graph
from spann3r_ros.mapping.layers.voxel_map import VoxelMap
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.ros.conversions import to_header
from spann3r_ros.ros.outputs.graph_markers import MAX_KEYFRAMES, graph_markers

HEADER = to_header(5_000_000_000, 'map')


def walked(fragments: int, keyframes: int) -> Atlas:
    """Return an atlas whose fragment n is moved by n metres up; its path is along x."""
    config = MapperConfig()
    atlas = Atlas(config, (VoxelMap(config.voxel_map),))
    for number in range(fragments):
        if number:
            atlas.begin()
        for index in range(keyframes):
            pose = to_rigid(np.zeros(3), np.array([float(index), 0.0, 0.0]))
            atlas.current.path.append(FragmentPose(index, 'camera', number, pose))
        atlas.current.received = keyframes
        place = np.eye(4)
        place[2, 3] = number
        atlas.move(number, place)
    return atlas


def by_name(message: MarkerArray) -> dict[str, Marker]:
    """Return the markers by namespace, after a way through DDS."""
    message = deserialize_message(serialize_message(message), MarkerArray)
    first, *others = message.markers
    assert first.action == Marker.DELETEALL
    assert all(one.header == HEADER and one.id == 0 for one in others)
    return {one.ns: one for one in others}


def places(marker: Marker) -> list[tuple[float, float, float]]:
    return [(one.x, one.y, one.z) for one in marker.points]


def test_markers_show_what_the_atlas_has() -> None:
    atlas = walked(4, 3)
    atlas.fragments[2].connected = False
    atlas.constraints = [
        Constraint('overlap', 0, 1, np.eye(4)), Constraint('overlap', 2, 3, np.eye(4)),
        Constraint('loop', 0, 1, np.eye(4), accepted=True),
        Constraint('loop', 0, 3, np.eye(4), accepted=False)]
    place = to_rigid(np.zeros(3), np.array([5.0, 0.0, 0.0]))
    refused = [tuple(FragmentPose(0, 'camera', one, place) for one in pair)
               for pair in ((0, 3), (0, 9))]
    markers = by_name(graph_markers(view_graph(atlas, refused), 0.1, HEADER))
    # The other one's fragment is gone.
    assert places(markers['loops_refused']) == [(5.0, 0.0, 0.0), (5.0, 0.0, 3.0)]
    assert places(markers['keyframes']) == [
        (x, 0.0, z) for z in (0.0, 1.0, 2.0, 3.0) for x in (0.0, 1.0, 2.0)]
    assert len(markers['fragments'].points) == len(markers['fragments_unconnected'].points) == 8
    assert {z for _, _, z in places(markers['fragments'])} == {0.0, 1.0}
    assert {z for _, _, z in places(markers['fragments_unconnected'])} == {2.0, 3.0}
    assert places(markers['joins'])[:2] == [(2.0, 0.0, 0.0), (0.0, 0.0, 1.0)]
    assert places(markers['loops_accepted']) == [(1.0, 0.0, 0.0), (1.0, 0.0, 1.0)]
    assert places(markers['loops_rejected']) == [(1.0, 0.0, 0.0), (1.0, 0.0, 3.0)]
    assert 'loops_unjudged' not in markers
    green, red = markers['loops_accepted'].color, markers['loops_rejected'].color
    assert green.g > 0.8 > red.g and red.r > 0.8 > green.r
    assert markers['keyframes'].type == Marker.POINTS
    assert {one.type for name, one in markers.items() if name != 'keyframes'} == {Marker.LINE_LIST}
    assert all(one.scale.x > 0.0 and one.color.a == 1.0 for one in markers.values())
    # A loop that is accepted connects both fragments with the others.
    atlas.constraints[-1] = Constraint('loop', 0, 3, np.eye(4), accepted=True)
    assert 'fragments_unconnected' not in by_name(graph_markers(view_graph(atlas), 0.1, HEADER))


def test_an_empty_map_clears_the_graph() -> None:
    config = MapperConfig()
    atlas = Atlas(config, (VoxelMap(config.voxel_map),))
    assert by_name(graph_markers(view_graph(atlas), 0.0, HEADER)) == {}


def test_a_long_path_is_thinned_evenly() -> None:
    view = view_graph(walked(3, 1500))
    marker = by_name(graph_markers(view, 0.1, HEADER))['keyframes']
    assert len(marker.points) == MAX_KEYFRAMES
    steps = np.diff([z * 1500 + x for x, _, z in places(marker)])
    assert steps.max() <= 5.0 and places(marker)[-1] == (1499.0, 0.0, 2.0)
