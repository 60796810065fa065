"""Networks as people write them: functional code, every kind of architecture, and the mistakes that are made in it."""

from __future__ import annotations
