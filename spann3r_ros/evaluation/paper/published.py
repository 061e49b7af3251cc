# SPDX-License-Identifier: Apache-2.0
"""Results that the paper reports (Wang and Agapito, 2024, tables 1 to 8).

Accuracy, completion (metres, DTU millimetres) and normal consistency, each mean and median.
"""
from __future__ import annotations

Figures = tuple[float, float, float, float, float, float]

# (layout, few views) -> method -> figures; 'DUSt3R' alone ran at its full resolution.
MEANS: dict[tuple[str, bool], dict[str, Figures]] = {
    ('7scenes', False): {
        'Spann3R': (.0342, .0148, .0241, .0085, .6635, .7625),
        'DUSt3R-224': (.0286, .0123, .0280, .0091, .6681, .7683),
        "DUSt3R with Spann3R's weights": (.0278, .0117, .0247, .0101, .6775, .7842),
        'FrozenRecon': (.1243, .0762, .0554, .0231, .6189, .6885),
        'Spann3R, no long-term memory': (.2554, .1419, .1470, .0872, .5964, .6523),
        'Spann3R, no attention clipping': (.0349, .0161, .0249, .0090, .6627, .7614),
    },
    ('7scenes', True): {
        'Spann3R': (.0239, .0111, .0247, .0103, .7768, .8985),
        'Spann3R offline': (.0233, .0108, .0246, .0104, .7791, .9003),
        'DUSt3R-224': (.0279, .0133, .0276, .0108, .7630, .8841),
        'DUSt3R': (.0188, .0087, .0234, .0096, .7851, .8985),
        "DUSt3R with Spann3R's weights": (.0242, .0114, .0249, .0106, .7785, .9003),
    },
    ('nrgbd', False): {
        'Spann3R': (.0691, .0315, .0291, .0110, .7775, .9371),
        'DUSt3R-224': (.0544, .0251, .0315, .0103, .8024, .9529),
        "DUSt3R with Spann3R's weights": (.0644, .0246, .0396, .0110, .8041, .9623),
        'FrozenRecon': (.2855, .2059, .1505, .0631, .6547, .7577),
    },
    ('nrgbd', True): {
        'Spann3R': (.0611, .0254, .0392, .0135, .8330, .9593),
        'Spann3R offline': (.0587, .0239, .0390, .0132, .8384, .9616),
        'DUSt3R-224': (.0591, .0266, .0409, .0136, .8305, .9556),
        'DUSt3R': (.0392, .0167, .0342, .0121, .8765, .9757),
        "DUSt3R with Spann3R's weights": (.0606, .0252, .0407, .0143, .8439, .9630),
    },
    ('dtu', False): {
        'Spann3R': (4.785, 2.268, 2.743, 1.295, .721, .823),
        'Spann3R offline': (2.902, 1.273, 2.120, .937, .732, .836),
        'DUSt3R-224': (2.296, 1.297, 2.158, 1.002, .747, .848),
        'DUSt3R': (2.114, 1.159, 2.033, .914, .749, .849),
        "DUSt3R with Spann3R's weights": (3.386, 1.469, 2.228, 1.017, .734, .837),
    },
    ('dtu', True): {
        'Spann3R': (3.375, 1.782, 2.870, 1.338, .777, .875),
        'Spann3R offline': (3.055, 1.600, 2.878, 1.345, .781, .878),
        'DUSt3R-224': (2.511, 1.484, 2.661, 1.230, .788, .883),
        'DUSt3R': (2.128, 1.241, 2.464, 1.228, .797, .889),
        "DUSt3R with Spann3R's weights": (3.875, 1.869, 2.916, 1.438, .777, .874),
    },
}

# (layout, few views) -> method -> frames/s as printed; the paper has none for DTU.
_SPEEDS = {'FrozenRecon': '<0.1', 'DUSt3R-224': '0.78', 'Spann3R': '65.49'}
_FEW_VIEW_SPEEDS = {'DUSt3R': '0.48', 'DUSt3R-224': '1.42', 'Spann3R offline': '5.83',
                    'Spann3R': '72.04'}
SPEEDS: dict[tuple[str, bool], dict[str, str]] = {
    ('7scenes', False): _SPEEDS, ('nrgbd', False): _SPEEDS,
    ('7scenes', True): _FEW_VIEW_SPEEDS, ('nrgbd', True): _FEW_VIEW_SPEEDS}

# Spann3R in its online mode, scene by scene.
SCENES: dict[str, dict[str, Figures]] = {
    '7scenes': {
        'chess03': (.0237, .0072, .0193, .0052, .6505, .7389),
        'chess05': (.0229, .0073, .0142, .0058, .6413, .7249),
        'pumpkin01': (.0271, .0131, .0205, .0087, .7068, .8258),
        'pumpkin07': (.0178, .0062, .0164, .0060, .6832, .7929),
        'stairs01': (.0739, .0421, .0672, .0151, .6507, .7496),
        'stairs04': (.0390, .0160, .0357, .0069, .6588, .7589),
        'fire03': (.0089, .0042, .0086, .0039, .6523, .7454),
        'fire04': (.0086, .0034, .0098, .0036, .6556, .7472),
        'office02': (.0403, .0187, .0223, .0124, .6843, .7969),
        'office06': (.0879, .0414, .0420, .0154, .6731, .7823),
        'office07': (.0269, .0127, .0232, .0101, .6740, .7772),
        'office09': (.0791, .0279, .0541, .0192, .6579, .7560),
        'redkitchen03': (.0367, .0203, .0158, .0075, .6765, .7849),
        'redkitchen04': (.0242, .0083, .0179, .0061, .6532, .7467),
        'redkitchen06': (.0285, .0120, .0214, .0087, .6404, .7229),
        'redkitchen12': (.0257, .0091, .0178, .0076, .6364, .7211),
        'redkitchen14': (.0187, .0086, .0171, .0070, .6427, .7264),
        'heads01': (.0267, .0082, .0098, .0043, .7056, .8288),
    },
    'nrgbd': {
        'staircase': (.0740, .0359, .0249, .0106, .7234, .8779),
        'complete_kitchen': (.0916, .0356, .0310, .0139, .7811, .9460),
        'grey_white_room': (.2074, .0646, .0499, .0224, .7628, .9262),
        'morning_apartment': (.0250, .0173, .0160, .0077, .8089, .9677),
        'green_room': (.0486, .0341, .0529, .0101, .7816, .9423),
        'kitchen': (.0649, .0359, .0333, .0132, .8140, .9683),
        'whiteroom': (.0426, .0270, .0169, .0081, .7500, .9022),
        'breakfast_room': (.0472, .0215, .0255, .0067, .7613, .9312),
        'thin_geometry': (.0207, .0119, .0120, .0065, .8150, .9719),
    },
}

# Mean Chamfer distances of version 1.01, as published by its authors.
CHAMFER_V101 = {'7scenes': .0255, 'nrgbd': .0437, 'dtu': 2.955}
