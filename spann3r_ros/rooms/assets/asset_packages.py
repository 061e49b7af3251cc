# SPDX-License-Identifier: Apache-2.0
"""Debian packages of photographs and meshes: addresses, licences, download."""
from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

from tqdm import tqdm

# The second has files that later releases of Debian no longer have.
ARCHIVES = ('http://deb.debian.org/debian/pool/main/',
            'http://snapshot.debian.org/archive/debian/20250601T000000Z/pool/main/')
TIMEOUT_SEC = 60.0
BLOCK_BYTES = 1 << 20
IMAGES = ('.jpg', '.jpeg', '.png', '.webp')
# Smaller images of a package are previews of the larger ones.
LEAST_IMAGE_BYTES = 60_000


@dataclass(frozen=True)
class AssetPackage:
    """A file of the Debian archive: its path there, SHA-256, content and licences."""

    name: str
    path: str
    sha256: str
    content: str
    licences: str


PACKAGES = (
    AssetPackage('sweethome3d-furniture',
                 's/sweethome3d-furniture/sweethome3d-furniture_1.8-1_all.deb',
                 '3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668',
                 'meshes', 'CC0-1.0, CC-BY-3.0'),
    AssetPackage('lomiri-wallpapers-16.04',
                 'l/lomiri-wallpapers/lomiri-wallpapers-16.04_20.04.0-2_all.deb',
                 'a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab',
                 'photographs', 'CC0-1.0, CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0'),
    AssetPackage('lomiri-wallpapers-20.04',
                 'l/lomiri-wallpapers/lomiri-wallpapers-20.04_20.04.0-2_all.deb',
                 'd44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709',
                 'photographs', 'CC0-1.0, CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0'),
    AssetPackage('ukui-wallpapers', 'u/ukui-wallpapers/ukui-wallpapers_20.04.3-1.1_all.deb',
                 '6d49be70152e6d603163458e177e501deb0be8f2916389ccbfcf59b0d7fc0262',
                 'photographs', 'CC-BY-SA-3.0'),
    AssetPackage('mate-backgrounds', 'm/mate-backgrounds/mate-backgrounds_1.26.0-1_all.deb',
                 '7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04',
                 'photographs', 'CC-BY-SA-4.0, GPL-2+'),
    AssetPackage('gnome-backgrounds', 'g/gnome-backgrounds/gnome-backgrounds_43.1-1_all.deb',
                 'a670dea21572652127d6e55f9cdb3a226d0037854fdbfd037003c7d00ee0dc4e',
                 'photographs', 'CC-BY-SA-3.0'),
    AssetPackage('plasma-workspace-wallpapers',
                 'p/plasma-workspace-wallpapers/plasma-workspace-wallpapers_5.27.5-2_all.deb',
                 '32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b',
                 'photographs', 'CC-BY-SA-4.0, LGPL-3, GPL-2+'),
)


class AssetError(ValueError):
    """An asset package cannot be fetched or unpacked; the message names it and the reason."""


def fetch_packages(folder: Path) -> dict[str, Path]:
    """Return the unpacked folder of each package below `folder`; what is not there is fetched.

    Downloads about 340 MB from the Debian archive. AssetError for a file that cannot be fetched,
    has another checksum, or cannot be unpacked.
    """
    return {item.name: fetch_package(item, folder) for item in PACKAGES}


def fetch_package(package: AssetPackage, folder: Path) -> Path:
    """Return the unpacked folder of one package below `folder`."""
    target = folder / package.name
    if target.is_dir():
        return target
    if shutil.which('dpkg-deb') is None:
        raise AssetError('dpkg-deb: expected this program, which unpacks Debian packages')
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archive, content = Path(scratch) / 'package.deb', Path(scratch) / 'content'
        _download(package, archive)
        done = subprocess.run(['dpkg-deb', '--extract', str(archive), str(content)],
                              capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssetError(f'{package.name}: dpkg-deb failed: {done.stderr.strip()}')
        content.rename(target)
    return target


def _download(package: AssetPackage, path: Path) -> None:
    faults = []
    for archive in ARCHIVES:
        address = archive + package.path
        try:
            digest = _read(address, path, package.name)
        except (URLError, HTTPException, OSError) as error:
            faults.append(f'{address}: {error}')
            continue
        if digest != package.sha256:
            raise AssetError(f'{package.name}: expected the SHA-256 {package.sha256} of '
                             f'{address}, got {digest}')
        return
    raise AssetError(f'{package.name}: cannot fetch {"; ".join(faults)}')


def _read(address: str, path: Path, name: str) -> str:
    """Write what is at an address to a file; return its SHA-256."""
    digest = hashlib.sha256()
    with (urllib.request.urlopen(address, timeout=TIMEOUT_SEC) as answer,
          path.open('wb') as out):
        total = int(answer.headers.get('Content-Length', 0)) or None
        with tqdm(total=total, desc=name, unit='B', unit_scale=True) as progress:
            while block := answer.read(BLOCK_BYTES):
                out.write(block)
                digest.update(block)
                progress.update(len(block))
    return digest.hexdigest()


def read_copyright(package: AssetPackage, folder: Path) -> str:
    """Return the text of an unpacked package that names authors and licences; '' without it."""
    path = folder / 'usr' / 'share' / 'doc' / package.name / 'copyright'
    return path.read_text(encoding='utf-8', errors='replace') if path.is_file() else ''


def find_photographs(folders: dict[str, Path]) -> list[Path]:
    """Return the image files of the packages of photographs, the largest of each wallpaper."""
    best: dict[tuple[str, str], Path] = {}
    for package in PACKAGES:
        if package.content != 'photographs':
            continue
        for path in sorted(folders[package.name].rglob('*')):
            if (path.suffix.lower() not in IMAGES or path.stem == 'screenshot'
                    or path.is_symlink() or not path.is_file()):
                continue
            size = path.stat().st_size
            # The sizes of one wallpaper are files of one folder, named 1920x1080.jpg and so on.
            sized = path.stem.replace('x', '').isdigit()
            key = (package.name, str(path.parent if sized else path.with_suffix('')))
            if size >= LEAST_IMAGE_BYTES and (
                    key not in best or size > best[key].stat().st_size):
                best[key] = path
    return list(best.values())
