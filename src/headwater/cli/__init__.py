"""The command line: the only package that prints."""

from headwater.cli.app import main as main
