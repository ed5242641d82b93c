"""`dist-dash shift`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine, without_fields


def shift_command(arguments: Sequence[str]) -> int:
    """Measure a finished ensemble under corruption, and its detection of out-of-distribution samples."""
    from dist_dash.analysis.shift.corruption_texts import TEXTS

    corruptions = "".join(f"  {name:18} {text}\n" for name, text in TEXTS.items())
    parser = CommandLine(
        "shift",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Accuracy, calibration and diversity under corruptions of severity 1 to 5, and\n"
        "detection of out-of-distribution samples; written to RUN/shift.json.",
        epilog=f"corruptions, with the severities of CIFAR-10-C, Tiny-ImageNet-C or ImageNet-C (by image size);\n"
        f"the last four are not common ones:\n{corruptions}",
    )
    parser.add_argument("run", help="a finished run")
    parser.add_argument(
        "--corruptions",
        default="common",
        metavar="NAME,NAME",
        help="which; common: the 15 of which mean corruption errors are made, all: 4 more (default: common)",
    )
    parser.add_argument("--severities", default="1,2,3,4,5", metavar="1,2", help="how strong (default: 1,2,3,4,5)")
    parser.add_argument("--samples", type=int, metavar="N", help="use N test samples, chosen at random (default: all)")
    parser.add_argument(
        "--published",
        metavar="FOLDER",
        help="read corrupted samples instead of making them: the arrays of CIFAR-10-C or CIFAR-100-C, or the folders "
        "of ImageNet-C",
    )
    parser.add_argument(
        "--baseline",
        metavar="RUN",
        help="also give mean corruption errors relative to those of another run that was shifted, or of a JSON file "
        '{"clean": 0.43, "fog": 0.82, …}',
    )
    parser.add_argument(
        "--ood",
        metavar="DATA",
        help="out-of-distribution samples: a data source as in recipes, with its fields as --ood.field value (its test "
        "split is used), or an .npz file with x (default: sets made of the test samples and of noise)",
    )
    parser.add_argument(
        "--resize", action="store_true", help="make images of --ood or --published fit: size and number of channels"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of samples and of corruptions (default: 0)")
    parser.add_argument("--json", action="store_true", help="print shift.json instead of the tables")
    ours, fields = without_fields(arguments, "ood")
    options = parser.parse_args(ours)
    from dist_dash.analysis.shift.run import measure_shift

    return measure_shift(options, fields)
