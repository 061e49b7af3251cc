# SPDX-License-Identifier: Apache-2.0
"""The graph of a map as markers for RViz."""
from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from spann3r_ros.mapping.fragments.graph_view import (
    ACCEPTED,
    JOIN,
    REFUSED,
    REJECTED,
    UNJUDGED,
    GraphView,
)

# Longer paths are thinned evenly: rclpy takes 5 us for a point, during which no other Python code
# runs.
MAX_KEYFRAMES = 1000
# Widths in voxels: the unit of the map may be unknown.
POINT_WIDTH, LINE_WIDTH, LOOP_WIDTH = 3.0, 1.0, 2.0
KEYFRAMES = ColorRGBA(r=1.0, g=0.85, b=0.2, a=1.0)
CONNECTED = ColorRGBA(r=0.2, g=0.6, b=1.0, a=1.0)
UNCONNECTED = ColorRGBA(r=1.0, g=0.2, b=1.0, a=1.0)
EDGES = {
    JOIN: ('joins', LINE_WIDTH, ColorRGBA(r=0.85, g=0.85, b=0.85, a=1.0)),
    ACCEPTED: ('loops_accepted', LOOP_WIDTH, ColorRGBA(r=0.1, g=0.9, b=0.2, a=1.0)),
    REJECTED: ('loops_rejected', LOOP_WIDTH, ColorRGBA(r=1.0, g=0.1, b=0.1, a=1.0)),
    REFUSED: ('loops_refused', LINE_WIDTH, ColorRGBA(r=0.6, g=0.35, b=0.25, a=1.0)),
    UNJUDGED: ('loops_unjudged', LOOP_WIDTH, ColorRGBA(r=1.0, g=0.6, b=0.1, a=1.0)),
}


def graph_markers(view: GraphView, voxel_size: float, header: Header) -> MarkerArray:
    """Return markers that replace all before them, one for each namespace with something in it.

    The namespaces are keyframes, fragments, fragments_unconnected, joins, loops_accepted,
    loops_rejected, loops_refused and loops_unjudged. Points are in the header's frame.
    """
    count = len(view.cameras)
    shown = np.unique(np.linspace(0, max(count - 1, 0), min(count, MAX_KEYFRAMES)).astype(int))
    cameras, fragments = view.cameras[shown], view.fragment_ids[shown]
    # A line joins each camera with the one before it in its fragment.
    follows = np.flatnonzero(fragments[1:] == fragments[:-1])
    lines = np.stack([cameras[follows], cameras[follows + 1]], axis=1)
    connected = view.connected[shown][follows]
    parts = [('keyframes', Marker.POINTS, POINT_WIDTH, KEYFRAMES, cameras),
             ('fragments', Marker.LINE_LIST, LINE_WIDTH, CONNECTED, lines[connected]),
             ('fragments_unconnected', Marker.LINE_LIST, LINE_WIDTH, UNCONNECTED,
              lines[~connected])]
    parts += [(name, Marker.LINE_LIST, width, color, view.edges[kind])
              for kind, (name, width, color) in EDGES.items()]
    return MarkerArray(markers=[
        Marker(header=header, action=Marker.DELETEALL),
        *(_marker(header, name, kind, width * voxel_size, color, points.reshape(-1, 3))
          for name, kind, width, color, points in parts if len(points))])


def _marker(header: Header, name: str, kind: int, width: float, color: ColorRGBA,
            points: np.ndarray) -> Marker:
    marker = Marker(header=header, ns=name, type=kind, action=Marker.ADD, color=color,
                    points=[Point(x=x, y=y, z=z) for x, y, z in points.tolist()])
    marker.pose.orientation.w = 1.0
    marker.scale.x = marker.scale.y = width
    return marker
