# SPDX-License-Identifier: Apache-2.0
"""What unordered photographs cost: all pairs of them, and the sparse graph.

Photographs of a rendered room, 512x384 pixels, 9 degrees apart, are mapped as by `spann3r
reconstruct` with the bundled weights and one thread. Costs are processor time.
"""
from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import cv2
from tqdm import tqdm

from spann3r_ros.core.files import write_json
from spann3r_ros.core.network import Compute
from spann3r_ros.evaluation.tables import format_table
from spann3r_ros.mapping.mapper import Mapper
from spann3r_ros.mapping.mapper_config import MapperConfig
from spann3r_ros.networks.registry import open_network, resolve_checkpoint
from spann3r_ros.reconstruction.photo_run import Named, PhotoRun
from spann3r_ros.reconstruction.survey import select, survey
from spann3r_ros.reconstruction.unordered import mapping_settings, order_photos, read_frames
from spann3r_ros.rooms.room_generator import RoomConfig, RoomGenerator

WIDTH, HEIGHT = 512, 384
STAGES = ('reading', 'reading again', 'comparing pairs', 'choosing the order', 'mapping')
COLUMNS = ('photographs', 'graph', 'pairs possible', 'compared', 'weighed', 'registered',
           *STAGES, 'sum')


class Clock:
    """Notes the processor time of each stage, in seconds."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str, total: int) -> Iterator[Callable[[int], object]]:
        """Measure a stage, with a bar."""
        started = time.process_time()
        with tqdm(total=total, desc=stage, mininterval=1.0, leave=False) as bar:
            yield bar.update
        self.seconds[stage] += time.process_time() - started


def write_photos(folder: Path, count: int) -> None:
    """Write photographs of a room."""
    generator = RoomGenerator(RoomConfig(size=WIDTH, height=HEIGHT), 5, 6)
    batch = generator.batch(1, count, trajectory='turn', turn_deg_per_frame=9.0)
    for index, image in enumerate(batch.images[0].permute(0, 2, 3, 1).numpy()):
        cv2.imwrite(str(folder / f'{index:03d}.png'), image[..., ::-1])


def measure(paths: list[Path], checkpoint: Path, neighbours: int | None) -> dict[str, object]:
    """Map photographs; return the row of a table."""
    clock, config = Clock(), mapping_settings(MapperConfig())
    network = open_network(checkpoint, None, Compute(device='cpu', threads=1))
    with clock('reading', len(paths)) as advance:
        photos, _ = select(survey(paths, advance)[0], config.sight)
    ordered = order_photos(photos, network, config, True, neighbours, clock)
    run = PhotoRun(Mapper(network, config))
    with clock('mapping', len(ordered.photos)) as advance:
        run.take((Named(path.name, frame) for path, frame in
                  read_frames(ordered, True, lambda *_: None)), advance)
    run.close()
    return {'photographs': len(paths), 'graph': 'sparse' if neighbours else 'all pairs',
            'pairs possible': ordered.possible, 'compared': ordered.compared,
            'weighed': ordered.weighed, 'registered': len(run.registered),
            **{name: round(value, 1) for name, value in clock.seconds.items()},
            'sum': round(sum(clock.seconds.values()), 1)}


def main() -> None:
    """Measure and print; write the rows if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--counts', type=int, nargs='+', default=[10, 20, 40])
    parser.add_argument('--neighbours', type=int, default=8)
    parser.add_argument('--checkpoint', default='')
    parser.add_argument('--output', type=Path, help='JSON file to write the rows to')
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for count in args.counts:
        with tempfile.TemporaryDirectory() as folder:
            write_photos(Path(folder), count)
            for neighbours in (0, args.neighbours):
                rows.append(measure(sorted(Path(folder).iterdir()),
                                    resolve_checkpoint(args.checkpoint), neighbours))
                print(json.dumps(rows[-1]), flush=True)
    print(format_table(COLUMNS, [[str(row[name]) for name in COLUMNS] for row in rows]))
    if args.output:
        write_json(args.output, {'machine': platform.processor() or platform.machine(),
                                 'date': date.today().isoformat(), 'rows': rows})


if __name__ == '__main__':
    main()
