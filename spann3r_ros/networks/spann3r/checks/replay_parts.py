# SPDX-License-Identifier: Apache-2.0
"""Run this package on a recording's inputs and return arrays named as in the recording."""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spann3r_ros.networks.blocks.heads import DensePrediction, activate
from spann3r_ros.networks.blocks.rope import rotary_table, rotate
from spann3r_ros.networks.spann3r.memory import MemoryEntry, SpatialMemory, prune_order
from spann3r_ros.networks.spann3r.spann3r import Spann3R

from .recipe import build_model, vector, weight
from .recording import Arrays, Recording

# Prepares a network that was built for a replay.
Layout = Callable[[Spann3R], Spann3R]
CPU = torch.device('cpu')


def unchanged(model: Spann3R) -> Spann3R:
    """Return the network as it was built."""
    return model


def stack(items: list[Tensor] | list[float]) -> np.ndarray:
    """Return results of successive frames as one array."""
    return np.stack([on_host(item) for item in items])


def on_host(item: Tensor | float) -> np.ndarray:
    """Return a result as numpy."""
    return np.asarray(item.cpu() if isinstance(item, Tensor) else item)


def raw_confidence(prediction: DensePrediction) -> Tensor:
    """Return the original's confidence C = 1 + exp(logit)."""
    return 1.0 + prediction.logit.exp()


def finite_or_nan(similarity: float) -> float:
    """Return how the format writes a similarity: NaN where there was nothing to compare with."""
    return similarity if math.isfinite(similarity) else math.nan


def zero_fraction(query: Tensor, key: Tensor, threshold: float) -> float:
    """Return the share of a read's weights below the threshold."""
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return float((scores.softmax(dim=-1) < threshold).float().mean())


def final_memory(memory: SpatialMemory) -> tuple[np.ndarray, Arrays]:
    """Return the order by key channel 0, and count and mass in that order."""
    order = np.argsort(on_host(memory.raw_keys[:, 0]), kind='stable')
    return order, {'final_count': on_host(memory.count)[order],
                   'final_attn': on_host(memory.mass)[order]}


def replay_memory(recording: Recording, device: torch.device = CPU,
                  _: Layout = unchanged) -> Arrays:
    """Feed a memory alone with the recorded sequence of reads and writes."""
    meta, salt = recording.meta, recording.meta['salt']
    width, tokens, config = meta['C'], meta['P'], recording.memory_config
    shape = (1, tokens, width)

    def norm(name: str, item: Tensor) -> Tensor:
        scale, shift = (weight(f'{name}.{leaf}', (width,), salt, width, device)
                        for leaf in ('weight', 'bias'))
        return functional.layer_norm(item, (width,), scale, shift, eps=1e-5)

    def vec(name: str) -> Tensor:
        return vector(name, shape, salt, device)[0]

    memory = SpatialMemory(config, tokens, width, device)
    rows: dict[str, list] = {name: [] for name in ('tokens', 'wm', 'lm', 'sim', 'skipped')}
    readouts, zeros, values = [], [], {}
    previous = torch.zeros(tokens, width, device=device)
    for step in range(meta['T']):
        attention = None
        if step > 0:
            raw_query = vec(f'mem.q.{step}') * _query_scale(step)
            query = norm('norm_q', raw_query)
            readout, attention = memory.read(query)
            readouts.append(readout + raw_query)
            zeros.append(zero_fraction(query, norm('norm_k', memory.raw_keys),
                                       config.attention_threshold))
        key = vec(f'mem.k.{step}')
        if step in meta['repeats']:
            key = previous + meta['copy_noise'] * key
        previous = key
        value = vec(f'mem.v.{step}') * (0.01 if step % 3 == 1 else 1.0)
        values.update(zip(key[:, 0].tolist(), value, strict=True))
        record_write(rows, memory, key)
        entry = MemoryEntry(key, norm('norm_k', key), norm('norm_v', value))
        memory.write(attention, None if rows['skipped'][-1] else entry)
        record_counters(rows, memory)
    order, final = final_memory(memory)
    keys = on_host(memory.raw_keys)[order]
    raw_values = torch.stack([values[channel] for channel in keys[:, 0].tolist()])
    # The memory keeps normalised values only: they must be those of the raw ones.
    torch.testing.assert_close(memory.values[order.tolist()], norm('norm_v', raw_values))
    return {'out': stack(readouts), 'read_zero_frac': stack(zeros), 'final_k': keys,
            'final_v': on_host(raw_values), **final,
            **{name: stack(items) for name, items in rows.items()}}


def _query_scale(step: int) -> float:
    if step % 10 == 0:
        return 3.0
    return 3e-3 if step % 5 == 0 else 1.0


def record_write(rows: dict[str, list], memory: SpatialMemory, key: Tensor) -> None:
    """Note what the similarity test says before a key is written."""
    rows['sim'].append(finite_or_nan(memory.similarity(key)))
    rows['skipped'].append(int(not memory.admits(key)))


def record_counters(rows: dict[str, list], memory: SpatialMemory) -> None:
    """Note the counters after a write."""
    for name, value in (('tokens', memory.tokens), ('wm', memory.working_frames),
                        ('lm', memory.long_term_tokens)):
        rows[name].append(value)


def replay_prune(recording: Recording, device: torch.device = CPU,
                 _: Layout = unchanged) -> Arrays:
    """Prune once."""
    count, mass = (torch.from_numpy(recording.arrays[name]).to(device)
                   for name in ('count', 'attn'))
    kept = prune_order(count, mass, recording.meta['top_k'], recording.meta['work_mem_size'])
    return {'kept_sorted': np.sort(on_host(kept))}


@torch.no_grad()
def replay_components(recording: Recording, device: torch.device = CPU,
                      layout: Layout = unchanged) -> Arrays:
    """Run each part of the network alone."""
    meta = recording.meta
    model = layout(build_model(recording.network_config, meta['salt'], device))
    config, backbone, grid = model.config, model.dust3r, tuple(meta['grid'])
    rows, columns = grid
    tokens, encoder, decoder = rows * columns, config.encoder_width, config.decoder_width

    def vec(name: str, *shape: int) -> Tensor:
        return vector(name, shape, meta['salt'], device)

    arrays = _rope(recording, grid, vec)
    block_input = vec('block.x', 1, tokens, encoder)
    block_input[:, 1] *= 1e-3
    block_input[:, 3] = 0.01 * block_input[:, 3] + 5.0
    table = rotary_table(*grid, encoder // config.encoder_heads, device=str(device))
    arrays['enc_block0'] = backbone.enc_blocks[0](block_input, table)
    arrays['value_block0'] = model.value_encoder[0](block_input)

    images = vec('img', 1, 3, 16 * rows, 16 * columns)
    arrays['patch_embed'] = backbone.patch_embed(images)
    arrays['encode'] = backbone.encode(images)

    other_grid = tuple(meta['grid2'])
    decoder_input = vec('dec.x', 1, tokens, decoder)
    decoder_input[:, 2] *= 1e-3
    tables = [rotary_table(*item, decoder // config.decoder_heads, device=str(device))
              for item in (grid, other_grid)]
    arrays['dec_block0'] = backbone.dec_blocks[0](
        decoder_input, vec('dec.y', 1, math.prod(other_grid), decoder), *tables)

    feature = vec('dec.f1', 1, tokens, encoder)
    sides = backbone.decode(feature, vec('dec.f2', 1, tokens, encoder), grid)
    for side, outputs in enumerate(sides, start=1):
        arrays |= {f'decode{side}_{level}': item for level, item in enumerate(outputs)}

    arrays |= _heads(recording, model, vec)
    arrays['value'] = model.encode_value(vec('pm', 1, 16 * rows, 16 * columns, 3))
    last = vec('head.d', 1, tokens, decoder)
    arrays['attn_head_1'] = model.key(feature, [last])
    arrays['attn_head_2'] = model.query(feature, [last])
    return {name: on_host(item) for name, item in arrays.items()}


def _rope(recording: Recording, grid: tuple[int, int],
          vec: Callable[..., Tensor]) -> dict[str, Tensor]:
    arrays = {}
    for name in recording.arrays:
        if name.startswith('rope_'):
            size = int(name.removeprefix('rope_'))
            tokens = vec(f'rope.{size}', 1, 2, math.prod(grid), size)
            arrays[name] = rotate(tokens, rotary_table(*grid, size, device=str(tokens.device)))
    # The slowest frequency turns less than once over the grid: the angle determines the position.
    table = rotary_table(*grid, 64)
    angle = torch.atan2(table.sin, table.cos)[..., -1]
    arrays['patch_pos'] = (angle * 100.0 ** (15 / 16)).round().int()[None]
    return arrays


def _heads(recording: Recording, model: torch.nn.Module,
           vec: Callable[..., Tensor]) -> dict[str, Tensor]:
    meta, config, device = recording.meta, model.config, model.norm_k.weight.device
    pixels = slice(meta['dpt_pixel_start'], None, meta['dpt_pixel_stride'])
    arrays = {}
    for case, (rows, columns) in enumerate(meta['dpt_grids']):
        widths = [config.encoder_width] + [config.decoder_width] * config.decoder_depth
        levels = [vec(f'dpt{case}.{level}', 1, rows * columns, width)
                  for level, width in enumerate(widths)]
        raw = model.dust3r.downstream_head1(levels, (rows, columns))
        target = model.dust3r.downstream_head2(levels, (rows, columns))
        prediction = activate(raw)
        arrays[f'dpt{case}_raw'] = raw[..., pixels, pixels]
        arrays[f'dpt{case}_raw_head2'] = target[..., pixels, pixels]
        arrays[f'dpt{case}_pts'] = prediction.points[:, pixels, pixels]
        arrays[f'dpt{case}_conf'] = raw_confidence(prediction)[:, pixels, pixels]
    prediction = activate(torch.from_numpy(recording.arrays['act_in']).to(device))
    return arrays | {'act_pts': prediction.points, 'act_conf': raw_confidence(prediction)}
