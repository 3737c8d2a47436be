"""Picture files are preserved by reading and writing, and each fault in a file becomes one line."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from compressor.base.errors import SrkdError, UsageError
from compressor.images.files import Picture, image_size, read_picture, read_rgb_u8, write_picture
from compressor.images.in_memory import like, read_planes
from compressor.images.sixteen_bit import encode_png_16bit

LOSSLESS = (".png", ".tif")


def pixels(*shape: int, bits: int = 8, seed: int = 0) -> torch.Tensor:
    largest = 2**bits - 1
    return torch.randint(0, largest + 1, shape, generator=torch.Generator().manual_seed(seed)).float() / largest


@cache
def icc_profile() -> bytes:
    """Return one profile for all tests, because a new one contains the time of day."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_block(**extra: int) -> bytes:
    exif = Image.Exif()
    exif[272] = "Camera"
    exif.get_ifd(0x8769)[0xA002] = 7
    exif.get_ifd(0x8769)[0x829A] = 0.5
    exif.get_ifd(0x8825)[1] = "N"
    if "orientation" in extra:
        exif[0x0112] = extra["orientation"]
    return exif.tobytes()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def gradient() -> Image.Image:
    rows, columns = np.mgrid[0:12, 0:20]
    return Image.fromarray(np.stack([rows * 20, columns * 12, rows * 5 + columns * 5], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_formats_give_back_everything(
    tmp_path: Path, suffix: str, bits: Literal[8, 16], grey: bool, alpha: bool
) -> None:
    rgb = pixels(1 if grey else 3, 23, 17, bits=bits).expand(3, -1, -1)
    clear = pixels(1, 23, 17, bits=bits, seed=1) if alpha else None
    path = tmp_path / f"picture{suffix}"
    write_picture(Picture(rgb, clear, grey, bits, icc_profile(), exif_block()), path)
    result = read_picture(path)
    assert torch.equal(result.rgb, rgb) and (result.alpha is None) == (clear is None)
    assert clear is None or (result.alpha is not None and torch.equal(result.alpha, clear))
    # 16-bit grey with alpha is stored as RGB with alpha in TIFF files: few programs can read it otherwise.
    assert result.grey == (grey and not (alpha and bits == 16 and suffix == ".tif"))
    assert (result.bits, result.icc) == (bits, icc_profile())
    assert result.exif is not None
    exif = Image.Exif()
    exif.load(result.exif)
    camera = exif.get_ifd(0x8769)
    assert (exif[272], camera[0x829A], camera[0xA002], exif.get_ifd(0x8825)[1]) == ("Camera", 0.5, 17, "N")
    assert image_size(path) == (17, 23)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_other_formats_keep_what_they_hold(tmp_path: Path, suffix: str) -> None:
    rgb = torch.from_numpy(np.array(gradient())).permute(2, 0, 1).float() / 255
    path = tmp_path / f"picture{suffix}"
    write_picture(Picture(rgb, None, False, 16, icc_profile(), exif_block()), path)
    result = read_picture(path)
    assert (result.rgb - rgb).abs().mean() < 0.02
    assert result.bits == 8
    assert (result.icc == icc_profile()) == (suffix != ".bmp")
    assert (result.exif is not None) == (suffix != ".bmp")
    grey = Picture(rgb.mean(0, keepdim=True).expand(3, -1, -1), grey=True)
    write_picture(grey, path)
    assert read_picture(path).grey == (suffix != ".webp")
    assert (read_picture(path).rgb - grey.rgb).abs().mean() < 0.02


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".png"])
def test_orientation_is_applied_and_taken_out(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Compared with Pillow's upright image, and idempotent after one write."""
    path = tmp_path / f"turned{suffix}"
    gradient().save(path, exif=exif_block(orientation=orientation))
    with Image.open(path) as image:
        expected = torch.from_numpy(np.array(ImageOps.exif_transpose(image))).permute(2, 0, 1)
    assert torch.equal(read_rgb_u8(path), expected)
    assert image_size(path) == (expected.shape[2], expected.shape[1])
    picture = read_picture(path)
    assert torch.equal((picture.rgb * 255).round().to(torch.uint8), expected)
    write_picture(picture, tmp_path / "out.png")
    assert torch.equal(read_rgb_u8(tmp_path / "out.png"), expected)


@pytest.mark.extras
def test_heic_is_read_by_pillow_heif_or_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif", reason="srkd[heif] is not installed")
    path, stored = tmp_path / "phone.HEIC", gradient()
    heif.from_pillow(stored).save(path, quality=100, chroma=444, exif=exif_block(orientation=6))
    upright = torch.from_numpy(np.array(stored.transpose(Image.Transpose.ROTATE_270))).permute(2, 0, 1)
    assert image_size(path) == (upright.shape[2], upright.shape[1]) == (12, 20)
    assert (read_rgb_u8(path).int() - upright.int()).abs().max() <= 8
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "srkd[heif]" in one_line_error(path)


def test_16_bit_is_rounded_to_8_for_training(tmp_path: Path) -> None:
    values = np.array([0, 127, 128, 129, 257, 32767, 32768, 65406, 65407, 65535], dtype=np.uint16)
    (tmp_path / "deep.png").write_bytes(encode_png_16bit(np.stack([values] * 3, axis=-1)[None], None, None))
    expected = np.floor(values / 257 + 0.5).astype(int).tolist()
    assert read_rgb_u8(tmp_path / "deep.png")[1, 0].tolist() == expected


def test_big_endian_and_palette_and_key_colours(tmp_path: Path) -> None:
    motorola = (np.arange(24).reshape(4, 6) * 2000).astype(">u2")
    directory = b"".join(
        struct.pack(">HHIHH", tag, 3, 1, value, 0)
        for tag, value in ((256, 6), (257, 4), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, 4), (279, 48))
    )
    head = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 9) + directory + bytes(4)
    (tmp_path / "mm.tif").write_bytes(head.ljust(122, b"\0") + motorola.tobytes())
    result = read_picture(tmp_path / "mm.tif")
    assert result.bits == 16
    assert (result.rgb[0] * 65535).round().int().tolist() == motorola.astype(int).tolist()

    palette = gradient().quantize(16)
    palette.info["transparency"] = 0
    palette.save(tmp_path / "p.png", transparency=0)
    indexed = read_picture(tmp_path / "p.png")
    assert torch.equal(indexed.alpha[0] == 0, torch.from_numpy(np.asarray(palette) == 0))

    gradient().save(tmp_path / "key.png", transparency=(0, 0, 0))
    keyed = read_picture(tmp_path / "key.png")
    assert keyed.alpha is not None and int((keyed.alpha == 0).sum()) == 1

    Image.fromarray(np.eye(8) > 0).save(tmp_path / "bits.png")
    assert torch.equal(read_picture(tmp_path / "bits.png").rgb[0], torch.eye(8))


def test_16_bit_png_with_a_transparent_colour(tmp_path: Path) -> None:
    samples = np.zeros((1, 2, 3), np.uint16)
    samples[0, 1] = (1, 2, 3)
    stored = encode_png_16bit(samples, None, None)
    at = stored.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(stored[:at] + chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)) + stored[at:])
    result = read_picture(tmp_path / "a.png")
    assert result.alpha is not None and result.alpha.flatten().tolist() == [1, 0]


def test_grey_png_with_a_transparent_value(tmp_path: Path) -> None:
    """The value in the file is one of its own bits: of 0 to 3 with 2 bits, which become 0 to 255."""
    for bits in (1, 2, 4, 8):
        largest = 2**bits - 1
        values = [0, largest, largest // 2, largest]
        row = sum(value << (32 - bits * (place + 1)) for place, value in enumerate(values)).to_bytes(4, "big")
        parts = {
            b"IHDR": struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0),
            b"tRNS": struct.pack(">H", largest),
            b"IDAT": zlib.compress(b"\0" + row[: -(-bits * len(values) // 8)]),
            b"IEND": b"",
        }
        file = tmp_path / "grey.png"
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in parts.items()))
        result = read_picture(file)
        with Image.open(file) as opened:
            of_memory = [read_planes(opened) for _ in range(2)]
        for planes in of_memory:
            assert planes.alpha is not None and torch.equal(planes.alpha[0], result.alpha)
        assert (result.alpha.flatten() == 0).tolist() == [value == largest for value in values]
        assert result.rgb[0].flatten().tolist() == pytest.approx([value / largest for value in values], abs=1e-6)


def test_a_profile_stays_with_pixels_of_its_kind_alone() -> None:
    """WebP holds RGB, which a profile of grey cannot describe; in memory CMYK becomes RGB."""
    cmyk = Image.new("CMYK", (3, 2), (10, 200, 30, 40))
    cmyk.info["icc_profile"] = icc_profile()
    enlarged = like(cmyk, read_planes(cmyk))
    assert enlarged.mode == "RGB" and "icc_profile" not in enlarged.info
    with pytest.raises(UsageError, match="has no pixels: its size is 0x5"):
        read_planes(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("alpha", [None, torch.tensor([[[1.0, 0.0]]])])
def test_grey_with_a_profile_becomes_srgb_in_webp(tmp_path: Path, alpha: torch.Tensor | None) -> None:
    """A damaged profile of grey is left out, and the values stay."""
    header = bytes(16) + b"GRAY" + bytes(200)
    picture = Picture(
        torch.tensor([0.2, 0.8]).expand(3, 1, 2).contiguous(), alpha, grey=True, icc=header, lossless=True
    )
    write_picture(picture, tmp_path / "a.webp")
    read = read_picture(tmp_path / "a.webp")
    assert read.icc is None and torch.allclose(read.rgb, picture.rgb, atol=0.003)
    assert alpha is None or (read.alpha is not None and torch.equal(read.alpha, alpha))


@pytest.mark.parametrize("profile", [None, b"no profile", icc_profile()])
def test_cmyk_becomes_rgb_and_loses_its_profile(tmp_path: Path, profile: bytes | None) -> None:
    """A damaged profile, or one of another colour space, counts as none."""
    gradient().convert("CMYK").save(tmp_path / "a.tif", icc_profile=profile)
    result = read_picture(tmp_path / "a.tif")
    assert result.icc is None
    assert torch.equal((result.rgb * 255).round(), torch.from_numpy(np.array(gradient())).permute(2, 0, 1).float())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert read_picture(tmp_path / "a.jpg").rgb.shape == (3, 12, 20)


def png_of_size(width: int, height: int) -> bytes:
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return head + struct.pack(">I", 9) + b"IDAT" + bytes(9)


def one_line_error(path: Path) -> str:
    with pytest.raises(SrkdError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


def test_unreadable_files_are_told_in_one_line(tmp_path: Path) -> None:
    def stored(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels(64, 64, 3) * 255).astype(np.uint8)).save(buffer, "PNG")
    assert "cannot be read" in one_line_error(stored("cut.png", buffer.getvalue()[:5000]))
    assert "not a picture" in one_line_error(stored("text.png", b"hello"))
    assert "not a picture" in one_line_error(stored("empty.jpg", b""))
    assert "pixels" in one_line_error(stored("bomb.png", png_of_size(60000, 60000)))
    assert "pixels" in one_line_error(stored("bomb2.png", png_of_size(13400, 13400)))
    assert "does not exist" in one_line_error(tmp_path / "nowhere.png")
    assert "cannot be read" in one_line_error(tmp_path)
    frames = [gradient(), gradient().rotate(180)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    assert "2 pages" in one_line_error(tmp_path / "pages.tif")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    assert "convert it" in one_line_error(tmp_path / "float.tif")


def test_writing_refuses_what_a_format_cannot_hold(tmp_path: Path) -> None:
    old = tmp_path / "old.jpg"
    old.write_bytes(b"old")
    for name, kind in (("old.jpg", "JPEG"), ("a.bmp", "BMP")):
        with pytest.raises(SrkdError, match=f"{kind} holds no transparency"):
            write_picture(Picture(torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)), tmp_path / name)
    with pytest.raises(SrkdError, match=r"16383 .*not 16384x1"):
        write_picture(Picture(torch.zeros(3, 1, 16384)), tmp_path / "long.webp")
    with pytest.raises(SrkdError, match=r"a\.gif.*\.webp, not in '\.gif'"):
        write_picture(Picture(torch.zeros(3, 2, 2)), tmp_path / "a.gif")
    with pytest.raises(SrkdError, match="not numbers"):
        write_picture(Picture(torch.full((3, 2, 2), float("nan"))), old)
    assert old.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.jpg"]


def save_tiff(
    path: Path, rows: list[bytes], bits: int, *, photometric: int, channels: int = 1, planes: int = 1
) -> Path:
    """Write strips of a little-endian TIFF, one for each plane."""
    data = b"".join(rows)
    starts = [8 + sum(map(len, rows[:number])) for number in range(len(rows))]
    tags: dict[int, list[int]] = {
        256: [4], 257: [2], 258: [bits] * channels, 259: [1], 262: [photometric], 273: starts, 277: [channels],
        278: [2], 279: [len(row) for row in rows], 284: [planes],
    }  # fmt: skip
    directory, more = 8 + len(data), b""
    entries = []
    for tag, values in tags.items():
        packed = b"".join(struct.pack("<I", value) for value in values)
        if len(values) > 1:
            packed, more = struct.pack("<I", directory + 2 + 12 * len(tags) + 4 + len(more)), more + packed
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + packed)
    head = b"II*\0" + struct.pack("<I", directory) + data + struct.pack("<H", len(tags))
    path.write_bytes(head + b"".join(entries) + bytes(4) + more)
    return path


def test_grey_tiffs_in_which_0_is_white_and_those_of_12_bits(tmp_path: Path) -> None:
    ramp = np.array([[0, 1000, 20000, 65535], [5, 6, 7, 8]], np.uint16)
    for photometric, expected in ((1, ramp), (0, 65535 - ramp)):
        path = save_tiff(tmp_path / "grey.tif", [ramp.tobytes()], 16, photometric=photometric)
        assert np.abs(read_picture(path).rgb[0].numpy() - expected / 65535).max() < 1e-6
    # Two samples in three bytes: 0 and 4095, then 1 and 2048, twice.
    path = save_tiff(tmp_path / "grey.tif", [bytes((0x00, 0x0F, 0xFF, 0x00, 0x18, 0x00)) * 2], 12, photometric=1)
    twelve = np.array([[0, 4095, 1, 2048]] * 2) / 4095
    assert np.abs(read_picture(path).rgb[0].numpy() - twelve).max() < 1e-3


def test_16_bit_colours_in_separate_planes_are_refused(tmp_path: Path) -> None:
    plane = np.arange(8, dtype=np.uint16).tobytes()
    path = save_tiff(tmp_path / "planes.tif", [plane] * 3, 16, photometric=2, channels=3, planes=2)
    with pytest.raises(SrkdError, match=r"planes\.tif stores its 16-bit colours in separate planes: convert it"):
        read_picture(path)
