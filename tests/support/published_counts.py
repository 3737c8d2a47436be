"""Sizes of the networks: parameters, and multiply-accumulates (MACs) for 256×256 low-resolution pixels.

Parameters leave out mean shift and count one scale of a multi-scale file. MACs are counted by torch in the official
classes without the mean shift (attention products included). Published are two columns: `gmacs_plus_x4`, DUKD's table
1, which counts one operation more for each pooled element and five for each element of a LayerNorm, and CARN_720P.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from compressor.models.networks.base import Spec
from compressor.models.networks.carn import CARNSpec
from compressor.models.networks.carn_m import CARNMSpec
from compressor.models.networks.edsr import EDSRSpec
from compressor.models.networks.rcan import RCANSpec
from compressor.models.networks.rrdbnet import RRDBNetSpec
from compressor.models.networks.span import SPANSpec
from compressor.models.networks.spanf3 import SPANF3Spec
from compressor.models.networks.swinir import SwinIRSpec

SCALES = (2, 3, 4)


@dataclass(frozen=True)
class Counted:
    """Counts of one network at ×2, ×3 and ×4; MACs in 10⁹, to two digits. None: in OFFICIAL, or not counted."""

    name: str
    spec: Spec
    params: tuple[int, int, int] | None = None
    gmacs: tuple[float, float, float] | None = None
    gmacs_plus_x4: float | None = None
    """MAC+ at ×4 in 10⁹, as DUKD's table 1 prints it."""

    def at(self, scale: int) -> Spec:
        return replace(self.spec, scale=scale)


CLASSICAL = SwinIRSpec(width=180, depths=(6,) * 6, heads=(6,) * 6)
LIGHT = SwinIRSpec(width=60, depths=(6,) * 4, heads=(6,) * 4)
DIRECT = replace(LIGHT, upsampler="pixelshuffledirect")

COUNTED = (
    Counted("EDSR 32/256", EDSRSpec(width=256, depth=32, res_scale=0.1), gmacs_plus_x4=3293.35),
    Counted(
        "EDSR 32/128", EDSRSpec(width=128, depth=32), (10_190_339, 10_928_259, 10_780_675), (667.93, 717.38, 825.26)
    ),
    Counted(
        "EDSR 32/64", EDSRSpec(width=64, depth=32), (2_551_555, 2_736_195, 2_699_267), (167.26, 179.91, 207.28), 207.28
    ),
    Counted("EDSR 16/64", EDSRSpec()),
    Counted("EDSR 32/16", EDSRSpec(width=16, depth=32), (160_963, 172_563, 170_243)),
    Counted("RCAN 10x20", RCANSpec(), gmacs_plus_x4=1044.03),
    Counted("RCAN 10x6", RCANSpec(depth=6), gmacs_plus_x4=366.98),
    Counted("RCAN 10x5", RCANSpec(depth=5), (4_279_243, 4_463_883, 4_426_955)),
    Counted("RCAN 6x20", RCANSpec(groups=6), (9_342_051, 9_526_691, 9_489_763), (606.96, 619.61, 646.98)),
    Counted("RCAN 5x5", RCANSpec(groups=5, depth=5), (2_233_703, 2_418_343, 2_381_415), (145.52, 158.17, 185.54)),
    Counted("CARN", CARNSpec()),
    Counted("CARN w=0.5", CARNSpec(width=32), (242_467, 288_707, 279_459)),
    Counted("CARN-M", CARNMSpec()),
    Counted("SwinIR C180 6x6", CLASSICAL, gmacs_plus_x4=861.27),
    Counted(
        "SwinIR C60 4x6",
        LIGHT,
        (1_087_727, 1_272_367, 1_235_439),
        (68.40 + 12.08, 81.05 + 12.08, 108.42 + 12.08),
        121.48,
    ),
    Counted("SwinIR C60 4x6 direct", DIRECT, (910_152, 918_267, 929_628)),
    Counted("SPAN 48", SPANSpec(), (410_700, 417_195, 426_288)),
    Counted("SPAN 52", SPANSpec(width=52), (481_324, 488_359, 498_208)),
    Counted("SPAN 32", SPANSpec(width=32), (184_204, 188_539, 194_608)),
    Counted("SPAN 28", SPANSpec(width=28), (141_580, 145_375, 150_688)),
    Counted("SPAN 26", SPANSpec(width=26), (122_368, 125_893, 130_828)),
)

HR_720P = {2: (640, 360), 3: (427, 240), 4: (320, 180)}
"""LR width and height whose output is about 1280×720."""

CARN_720P = {"carn": 90.9, "carn_m": 32.5}
"""10⁹ MACs at ×4 for a 1280×720 output, as CARN's table prints them (CARN-pytorch, assets/table.png)."""

OFFICIAL: tuple[tuple[Spec, int, int, int], ...] = (
    (EDSRSpec(2, 256, 32, res_scale=0.1), 40_729_603, 2_669_439_614_976, 9_384_748_646_400),
    (EDSRSpec(2, 64, 16), 1_369_859, 89_955_237_888, 316_248_883_200),
    (EDSRSpec(3, 256, 32, res_scale=0.1), 43_680_003, 2_864_978_067_456, 4_480_025_518_080),
    (EDSRSpec(3, 64, 16), 1_554_499, 102_601_064_448, 160_439_408_640),
    (EDSRSpec(4, 256, 32, res_scale=0.1), 43_089_923, 3_293_350_723_584, 2_894_546_534_400),
    (EDSRSpec(4, 64, 16), 1_517_571, 129_968_898_048, 114_230_476_800),
    (RCANSpec(2, groups=10, depth=20), 15_444_643, 1_003_172_761_600, 3_526_778_982_400),
    (RCANSpec(2, groups=10, depth=6), 5_023_603, 326_715_340_800, 1_148_608_542_720),
    (RCANSpec(3, groups=10, depth=20), 15_629_283, 1_015_818_588_160, 1_588_456_499_200),
    (RCANSpec(3, groups=10, depth=6), 5_208_243, 339_361_167_360, 530_666_065_920),
    (RCANSpec(4, groups=10, depth=20), 15_592_355, 1_043_186_421_760, 916_863_078_400),
    (RCANSpec(4, groups=10, depth=6), 5_171_315, 366_729_000_960, 322_320_414_720),
    (CARNSpec(2), 964_163, 63_380_127_744, 222_820_761_600),
    (CARNSpec(3), 1_148_803, 76_025_954_304, 118_883_358_720),
    (CARNSpec(4), 1_111_875, 103_393_787_904, 90_873_446_400),
    (CARNMSpec(2), 257_027, 25_933_381_632, 91_172_044_800),
    (CARNMSpec(3), 303_427, 29_519_511_552, 46_160_271_360),
    (CARNMSpec(4), 294_147, 36_956_012_544, 32_480_870_400),
    (CARNMSpec(2, groups=1), 533_507, 65_796_046_848, 231_314_227_200),
    (CARNMSpec(3, groups=1), 718_147, 78_441_873_408, 122_661_181_440),
    (CARNMSpec(4, groups=1), 681_219, 105_809_707_008, 92_996_812_800),
    (EDSRSpec(2, 256, 32).narrowed(0.25), 2_551_555, 167_264_649_216, 588_039_782_400),
    (RCANSpec(2).narrowed(0.25), 973_483, 62_804_465_920, 220_796_934_400),
    (EDSRSpec(2, 256, 32).narrowed(0.5), 10_190_339, 667_926_134_784, 2_348_177_817_600),
    (RCANSpec(2).narrowed(0.5), 3_872_083, 250_934_748_160, 882_192_409_600),
    (EDSRSpec(4, 256, 32).narrowed(0.25), 2_699_267, 207_278_309_376, 182_178_201_600),
    (RCANSpec(4).narrowed(0.25), 982_763, 65_560_123_648, 57_621_203_200),
    (EDSRSpec(4, 256, 32).narrowed(0.5), 10_780_675, 825_262_866_432, 725_328_691_200),
    (RCANSpec(4).narrowed(0.5), 3_909_075, 261_277_901_824, 229_638_784_000),
    (replace(CLASSICAL, scale=2), 11_752_487, 816_889_724_928, 2_871_877_939_200),
    (replace(DIRECT, scale=2), 910_152, 68_525_752_320, 240_910_848_000),
    (replace(CLASSICAL, scale=3), 11_937_127, 829_535_551_488, 1_312_351_165_440),
    (replace(DIRECT, scale=3), 918_267, 69_056_593_920, 109_249_689_600),
    (replace(CLASSICAL, scale=4), 11_900_199, 856_903_385_088, 769_874_135_040),
    (replace(DIRECT, scale=4), 929_628, 69_799_772_160, 62_710_732_800),
)
"""Exact parameters, and MACs at 256×256 and at HR_720P, of the official classes without mean shift."""

COMPACT_PARAMS = 621_424
"""Parameters of Compact 16/64 ×4, the published realesr-animevideov3."""

SPANF3_PARAMS = {
    SPANF3Spec(2, width=64, depth=8, unshuffle=2): 970_672,
    SPANF3Spec(2, width=48, depth=5, unshuffle=2): 358_800,
    SPANF3Spec(2, width=48, depth=6, unshuffle=2): 423_504,
    SPANF3Spec(4, width=48, depth=6): 419_616,
    SPANF3Spec(1, width=48, depth=6, unshuffle=4): 439_056,
}
"""Parameters of SPANF3, collapsed."""

RRDBNET: dict[Spec, tuple[int, float]] = {
    RRDBNetSpec(4): (16_697_987, 1174.85),
    RRDBNetSpec(2, unshuffle=2): (16_703_171, 293.8),
    RRDBNetSpec(1, unshuffle=4): (16_723_907, 73.53),
    RRDBNetSpec(4, depth=6): (4_467_779, 373.98),
    RRDBNetSpec(2, depth=6, unshuffle=2): (4_472_963, 93.58),
    RRDBNetSpec(1, depth=6, unshuffle=4): (4_493_699, 23.48),
}
"""Parameters of RRDBNet, and its GMACs at 256×256."""
