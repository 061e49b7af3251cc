# SPDX-License-Identifier: Apache-2.0
"""cv_bridge is loaded, or the error names the remedy."""
from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spann3r_ros.ros import bridge

FOR_NUMPY_1 = b'\x7fELF numpy.core._multiarray_umath\0'
FOR_NUMPY_2 = FOR_NUMPY_1 + b'numpy._core._multiarray_umath\0'


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a cv_bridge that is found before any other, and is empty."""
    def take_out() -> dict:
        names = [name for name in sys.modules if name.partition('.')[0] == 'cv_bridge']
        return {name: sys.modules.pop(name) for name in names}

    before = take_out()
    folder = tmp_path / 'cv_bridge'
    (folder / 'boost').mkdir(parents=True)
    (folder / '__init__.py').write_text('LOADED = True\n')
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    take_out()
    sys.modules.update(before)


def write_library(package: Path, content: bytes) -> None:
    (package / 'boost' / 'cv_bridge_boost.cpython-312-x86_64-linux-gnu.so').write_bytes(content)


@pytest.mark.parametrize(('content', 'numpy_version'), [
    (FOR_NUMPY_1, '1.26.4'), (FOR_NUMPY_2, '1.26.4'), (FOR_NUMPY_2, '2.4.6')])
def test_build_that_fits_numpy_is_loaded(content: bytes, numpy_version: str, package: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    write_library(package, content)
    monkeypatch.setattr(bridge.np, '__version__', numpy_version)
    assert bridge.load_cv_bridge().LOADED


def test_build_for_numpy_1_is_refused_before_it_is_imported(
        package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_library(package, FOR_NUMPY_1)
    monkeypatch.setattr(bridge.np, '__version__', '2.4.6')
    with pytest.raises(ImportError, match=r"numpy 2\.4\.6.*boost.*pip install 'numpy<2'"):
        bridge.load_cv_bridge()
    assert 'cv_bridge' not in sys.modules


@pytest.mark.parametrize('statement', [
    "raise ImportError('numpy.core.multiarray failed to import')",
    "raise ImportError('A module that was compiled using NumPy 1.x cannot be run')",
    "raise AttributeError('_ARRAY_API not found')",
    "raise SystemError('initialization of cv_bridge_boost raised unreported exception')"])
def test_failing_import_names_the_remedy(statement: str, package: Path) -> None:
    (package / '__init__.py').write_text(statement)
    with pytest.raises(ImportError, match="pip install 'numpy<2'") as caught:
        bridge.load_cv_bridge()
    assert str(caught.value.__cause__) in statement


def test_other_error_of_the_import_is_not_changed(package: Path) -> None:
    (package / '__init__.py').write_text("raise ImportError('libopencv_core.so.406: not found')")
    with pytest.raises(ImportError, match='^libopencv_core.so.406: not found$'):
        bridge.load_cv_bridge()


def test_importable_package_is_loaded() -> None:
    assert bridge.load_cv_bridge().CvBridge().encoding_to_dtype_with_channels('rgb8') == (
        'uint8', 3)
