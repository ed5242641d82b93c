"""`dist-dash join`."""

from __future__ import annotations

from collections.abc import Sequence

from dist_dash.commands.parser import CommandLine, add_allow_code


def join_command(arguments: Sequence[str]) -> int:
    """Make one run of members that were trained alone."""
    parser = CommandLine("join", description="Make one finished run of members that were trained alone.")
    parser.add_argument("run", help="the folder that holds the members' finished runs: member_00, member_01, …")
    add_allow_code(parser)
    options = parser.parse_args(arguments)
    from dist_dash.ensembles.join import join_and_say

    return join_and_say(options.run, options.allow_code)
