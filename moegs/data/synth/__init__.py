"""A synthetic capture: textured room, objects that move in different ways, true depth; nothing is downloaded."""

from moegs.data.synth.generate import synthesize

__all__ = ["synthesize"]
