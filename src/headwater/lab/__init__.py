"""The lab: networks measured many at a time, compared and swept."""
