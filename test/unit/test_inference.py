# SPDX-License-Identifier: Apache-2.0
"""Packed layers give the results of the network; int8 is close to them."""
from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny import HEIGHT, TOKENS, WIDTH, random_images, tiny_model
from torch import Tensor, nn

from spann3r_ros.core.network import Compute
from spann3r_ros.networks.spann3r import spann3r_network
from spann3r_ros.networks.spann3r.checkpoint import save_model
from spann3r_ros.networks.spann3r.config import MemoryConfig
from spann3r_ros.networks.spann3r.fast import inference
from spann3r_ros.networks.spann3r.fast.inference import compile_blocks, prepare
from spann3r_ros.networks.spann3r.fast.packed_layers import (
    EightBitLinear,
    HalfDptNet,
    PackedLinear,
)
from spann3r_ros.networks.spann3r.offline import reconstruct_offline
from spann3r_ros.networks.spann3r.spann3r import Spann3R
from spann3r_ros.networks.spann3r.spann3r_network import load_network, open_network

CAN_PACK = torch.backends.cpu.get_cpu_capability().startswith('AVX')


def walk(model: Spann3R, device: str = 'cpu') -> Tensor:
    """Return the points of eight images, refined and provisional."""
    state = model.start(HEIGHT, WIDTH, MemoryConfig(similarity_threshold=1.0))
    outputs = [model.step(state, image, provisional=True)
               for image in random_images(8).to(device)][1:]
    return torch.stack([prediction.points for output in outputs
                        for prediction in (output.refined, output.provisional)])


@pytest.mark.parametrize('head', ['dpt', 'linear'])
@pytest.mark.parametrize('least_packed', [0, inference.LEAST_PACKED])
def test_packed_layers_change_rounding_only(
        head: str, least_packed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, 'LEAST_PACKED', least_packed)
    model = tiny_model(head=head)
    prepared = prepare(copy.deepcopy(model))
    torch.testing.assert_close(walk(prepared), walk(model), rtol=1e-4, atol=1e-5)
    kinds = {type(part) for part in prepared.modules()}
    assert not kinds & {inference.SelfAttention, inference.CrossAttention}
    assert (PackedLinear in kinds) == (least_packed == 0 and CAN_PACK)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize(('precision', 'off'), [('fp32', 1e-4), ('tf32', 0.01), ('bf16', 0.02)])
def test_packed_layers_on_cuda_give_the_results_of_the_cpu(precision: str, off: float) -> None:
    model = tiny_model()
    true, near = walk(model), walk(prepare(copy.deepcopy(model).cuda(), precision), 'cuda').cpu()
    assert ((near - true).norm(dim=-1) / true.norm(dim=-1)).median() < off


@pytest.mark.usefixtures('eight_bits')
@pytest.mark.parametrize('head', ['dpt', 'linear'])
@pytest.mark.parametrize('has_bfloat16', [True, False])
def test_int8_is_close_to_float32(
        head: str, has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # A CPU that does not multiply bfloat16 emulates it.
    monkeypatch.setattr(inference, 'computes_in_bfloat16', lambda: has_bfloat16)
    model = tiny_model(head=head)
    prepared = prepare(copy.deepcopy(model), 'int8')
    kinds = {type(part) for part in prepared.modules()}
    assert (HalfDptNet in kinds) == (has_bfloat16 and head == 'dpt')
    near, true = walk(prepared), walk(model)
    assert near.dtype == torch.float32
    off = (near - true).norm(dim=-1) / true.norm(dim=-1)
    assert 0.0 < off.median() < 0.02


def test_points_of_a_half_precision_head_are_not_rounded_to_steps() -> None:
    net = tiny_model().dust3r.downstream_head1.dpt
    levels = [torch.randn(1, TOKENS, width) for width in (32, 24, 24, 24)]
    raw = HalfDptNet(net)(levels, (2, 3))
    assert raw.dtype == torch.float32
    assert not torch.equal(raw, raw.bfloat16().float())


@pytest.mark.usefixtures('eight_bits')
def test_eight_bit_product_is_exact_where_eight_bits_suffice() -> None:
    linear = nn.Linear(4, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[127.0, -3, 0, 8], [-127, 1, 1, 1], [64, 127, 2, -5]]))
    tokens = torch.tensor([[[127.0, 5, -9, 0], [-2, 127, 3, 3]]]) * torch.tensor([[[0.5], [20.0]]])
    torch.testing.assert_close(EightBitLinear(linear)(tokens), linear(tokens))


@pytest.mark.usefixtures('eight_bits')
def test_tokens_are_rounded_one_by_one() -> None:
    """A token of large numbers does not reduce the precision of the others."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 8)
    tokens = torch.randn(5, 64)
    alone = EightBitLinear(linear)(tokens)
    beside = EightBitLinear(linear)(torch.cat((tokens, 1e4 * torch.randn(1, 64))))
    torch.testing.assert_close(beside[:5], alone)
    assert (alone - linear(tokens)).abs().max() < 0.02


def test_zero_tokens_stay_finite() -> None:
    linear = nn.Linear(8, 8)
    torch.testing.assert_close(EightBitLinear(linear)(torch.zeros(2, 8)),
                               linear.bias.expand(2, 8))


def test_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision: expected one of .* got 'fp8'"):
        prepare(tiny_model(), 'fp8')
    with pytest.raises(ValueError, match="precision: expected one of .*'auto'.* got 'half'"):
        open_network(tmp_path / 'any.safetensors', MemoryConfig(),
                             Compute('cpu', 'half'))


@pytest.mark.parametrize('spoilt', [torch.bfloat16, torch.float64])
def test_network_that_was_converted_is_refused(spoilt: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f'model: expected float32, got {spoilt}'):
        prepare(tiny_model().to(spoilt))


def test_eight_bits_are_for_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spann3r_network, 'resolve_device', torch.device)
    with pytest.raises(ValueError, match='int8 is for CPU, the device is cuda:1'):
        open_network(tmp_path / 'any.safetensors', MemoryConfig(),
                             Compute('cuda:1', 'int8'))


def test_cpu_without_correct_int8_falls_back_with_a_warning(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
        ) -> None:
    def saturating(left: Tensor, right: Tensor) -> Tensor:
        return (left.int() @ right.int()).clamp(max=2**15 - 1)

    monkeypatch.setattr(torch, '_int_mm', saturating)
    with pytest.raises(ValueError, match='8-bit products overflow'):
        prepare(tiny_model(), 'int8')
    path = tmp_path / 'tiny.safetensors'
    save_model(path, tiny_model())
    open_network(path, MemoryConfig(), Compute('cpu', 'int8'))
    assert 'using fp32' in caplog.text


@pytest.mark.usefixtures('eight_bits')
def test_network_counts_the_weights_it_holds(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, 'LEAST_PACKED', 0)
    path = tmp_path / 'tiny.safetensors'
    save_model(path, tiny_model(head='linear', encoder_width=64))
    sizes = {precision: open_network(path, MemoryConfig(long_term_tokens=0),
                                             Compute('cpu', precision)).status().device_bytes
             for precision in ('auto', 'fp32', 'int8')}
    assert sizes['auto'] == sizes['fp32'] > 1.5 * sizes['int8']


@pytest.mark.parametrize('head', ['dpt', 'linear'])
@pytest.mark.parametrize('packs', [True, False])
def test_bfloat16_is_close_and_keeps_memory_and_points_in_float32(
        head: str, packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    packs = packs and inference.can_pack(torch.bfloat16) and inference.computes_in_bfloat16()
    monkeypatch.setattr(inference, 'can_pack', lambda *_: packs)
    model = tiny_model(head=head)
    prepared = prepare(copy.deepcopy(model), 'bf16')
    packed = {part.weight.dtype for part in prepared.modules() if isinstance(part, PackedLinear)}
    assert packed == ({torch.bfloat16} if packs else set())
    near, true = walk(prepared), walk(model)
    assert near.dtype == torch.float32
    off = (near - true).norm(dim=-1) / true.norm(dim=-1)
    assert 1e-5 < off.median() < 0.02
    state = prepared.start(HEIGHT, WIDTH, MemoryConfig())
    for image in random_images(3):
        prepared.step(state, image)
    assert state.memory.values.dtype == state.query.dtype == torch.float32
    last = [*prepared.dust3r.downstream_head1.named_parameters()]
    if packs and head == 'dpt':
        last = [item for item in last if '.last.' in item[0]]
    assert last and {item.dtype for _, item in last} == {torch.float32}
    images = random_images(4)[:, 0]
    whole, half = (reconstruct_offline(item, images, MemoryConfig())
                   for item in (model, prepared))
    assert half.predictions[-1].points.dtype == torch.float32
    assert torch.allclose(half.pair_confidence, whole.pair_confidence, atol=0.02)


def test_tf32_is_for_cuda(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='tf32 is for CUDA, the device is cpu'):
        open_network(tmp_path / 'any.safetensors', MemoryConfig(), Compute('cpu', 'tf32'))


@pytest.mark.parametrize('has_bfloat16', [True, False])
def test_slow_bfloat16_is_warned_of_and_runs(
        has_bfloat16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    path, model = tmp_path / 'tiny.safetensors', tiny_model()
    save_model(path, model)
    monkeypatch.setattr(inference, 'has_bfloat16', lambda capabilities: has_bfloat16)
    narrow = load_network(path, Compute('cpu', 'bf16'))
    # A CPU with AVX2 alone cannot run the packed product whatever is patched.
    fast = has_bfloat16 and inference.can_pack(torch.bfloat16)
    assert any(isinstance(part, PackedLinear) for part in narrow.modules()) == fast
    assert narrow.uses_bfloat16 != fast
    assert ('emulates bfloat16' in caplog.text) != fast
    near, true = walk(narrow), walk(model)
    assert ((near - true).norm(dim=-1) / true.norm(dim=-1)).median() < 0.02


def test_bfloat16_is_not_packed_where_onednn_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, 'computes_in_bfloat16', lambda: True)
    monkeypatch.setattr(inference, 'can_pack', lambda dtype=None: dtype != torch.bfloat16)
    assert prepare(tiny_model(), 'bf16').uses_bfloat16


@pytest.mark.parametrize(('capabilities', 'expected'), [
    ({'avx2': True, 'avx512_f': False, 'avx512_bf16': False, 'amx_bf16': False}, False),  # Zen 3
    ({'avx2': True, 'avx512_f': True, 'avx512_vnni': True, 'avx512_bf16': False}, False),
    ({'avx2': True, 'avx512_f': True, 'avx512_bf16': True, 'amx_bf16': False}, True),  # Zen 4
    ({'avx512_f': True, 'avx512_bf16': False, 'amx_bf16': True}, True),
    ({'architecture': 'aarch64', 'neon': True}, False)])
def test_bfloat16_is_an_ability_of_the_cpu(
        capabilities: dict[str, object], expected: bool) -> None:
    assert inference.has_bfloat16(capabilities) is expected


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_compiled_blocks_give_the_same_results(precision: str) -> None:
    model = tiny_model(head='linear')
    plain = prepare(copy.deepcopy(model), precision, pack=False)
    compiled = compile_blocks(prepare(model, precision, pack=False), backend='aot_eager')
    torch.testing.assert_close(walk(compiled), walk(plain), rtol=1e-3, atol=1e-4)


def test_blocks_that_cannot_be_compiled_run_without_compilation() -> None:
    calls = []

    def broken(graph: nn.Module, inputs: list[Tensor]) -> None:
        calls.append(graph)
        raise RuntimeError('no compiler')

    model = tiny_model(head='linear')
    compiled = compile_blocks(prepare(copy.deepcopy(model), pack=False), backend=broken)
    torch.testing.assert_close(walk(compiled), walk(model))
    assert calls


@pytest.mark.usefixtures('eight_bits')
def test_compiling_network_is_warm_and_empty(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / 'tiny.safetensors'
    save_model(path, tiny_model())
    compiled = []
    monkeypatch.setattr(inference, 'compile_blocks',
                        lambda model: compiled.append(model) or model)
    ready = open_network(path, MemoryConfig(), Compute('cpu', compile=True))
    assert len(compiled) == 1 and ready.status().tokens == 0 and ready.flush() == []
    load_network(path, Compute('cpu', 'int8', compile=True))
    assert len(compiled) == 1 and '8 bits are not compiled' in caplog.text
