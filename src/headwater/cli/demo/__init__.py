"""`headwater demo`: what Headwater shows, on the notebook's experiment and on real data."""

from headwater.cli.demo.command import demo as demo
